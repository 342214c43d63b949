r"""Which latents fire on questions that the model is about to get wrong?

  python -m experiments.entity_recognition --out=out/demo      # `make demo`
  python -m experiments.uncertainty --out=out/uncertainty # MiniWorld

  python -m experiments.uncertainty --out=out/uncertainty_9b \
    --chat_model=google/gemma-2-9b-it --sae=gemma-scope-9b-it-res \
    --layers=9,20,31 --entities=wikidata --run=out/gemma_2_9b \
    --transfer=triviaqa.json --dtype=bfloat16

The chat model answers questions about entities, once greedily and 10 times at
temperature 1 (arXiv 2411.14257, section 7). Questions that it declines are left
out; an answer is correct if 3 samples are, else an error. Latents are read at
the token `model` that opens its turn, or any other (--tokens), and the one that
best tells errors from correct answers in every entity type at once is chosen on
train by Welch's t. On test it stands beside

  the stream it reads    a linear probe, the difference of means
  the answer             its log-probability, the entropy of its first token,
                         semantic entropy over the samples, P(True)
  no model at all        the length of the question, what is asked about
  random latents         of the same layer, that fire about as often

with thresholds and calibration chosen on validation, and intervals from
resampling entities. --transfer takes a file of other questions, in the format
of the published TriviaQA answers: a JSON list of objects with `question`,
`question_id` and `correct_answer`, a list of aliases. The model answers them
anew; nothing is fitted on them.

A model that declines what it does not know makes few errors. --answer_prefix
begins every answer for it, so that it has to say something; latents are read
before that. MiniWorld answers nearly all that it does not decline correctly, so
by default its answers begin with 'It is'; its errors are then mostly about
entities that it never saw. --answer_prefix= leaves it free. It was never taught
what P(True) asks.

--mode=reference reads answers as the published code did, leaves errors about
known entities out, balances the classes, and has the published probe.

--out gets

  results.json         every number, with n, intervals and seeds
  answers.jsonl        every question, answer, its label and its scores
  effects.safetensors  scores of all detectors, in the order of answers.jsonl
                       without the lines that say "used": false
  report.html          figures
  answers/, transfer/, sums/   what is kept to go on from
"""

from collections.abc import Sequence
import dataclasses

from absl import flags

from experiments import inputs
from experiments.inputs import sae_fingerprint, study_inputs
from experiments.inputs.sae_fit import check_fit
from experiments.latents import write_arrays
from experiments.runs import MANY, define_number, outputs, real, whole
from experiments.self_report import single_token
from experiments.uncertainty import (
  Config,
  Data,
  Settings,
  about_entities,
  answer,
  figures,
  find,
  judge,
  p_true,
  read_trivia,
  types_to_use,
)
from experiments.uncertainty.labels import MIN_CORRECT
from experiments.uncertainty.summary_text import sentences

# So that MiniWorld has errors to find.
_FORCED = 'It is'


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines this program's flags; returns their names."""
  before = set(values)
  study_inputs.define_flags(values, model='chat', latents=False)
  common = {'flag_values': values}
  flags.DEFINE_string(
    'tokens',
    'model',
    "Where latents are read: 'model', 'last', 'entity', or a text in the "
    'question.',
    **common,
  )
  flags.DEFINE_string(
    'answer_prefix',
    None,
    "Beginning of every answer, put into the model's mouth. Default: none; "
    f'for {inputs.BUNDLED} {_FORCED!r}.',
    **common,
  )
  define_number(
    'num_samples',
    10,
    f'Sampled answers per question; {MIN_CORRECT} right ones count.',
    whole(MIN_CORRECT, 10_000),
    **common,
  )
  define_number('temperature', 1.0, 'Of the samples.', real(0, 100), **common)
  define_number(
    'max_new_tokens', 32, 'Most tokens per answer.', whole(), **common
  )
  define_number(
    'max_entities',
    None,
    'Of each type, class and split, the first ones; to try things.',
    whole(),
    **common,
  )
  define_number(
    'at_least',
    5,
    'Errors, and correct answers, that a type needs in train; others are left '
    'out.',
    whole(2),
    **common,
  )
  define_number('num_chosen', 5, 'Latents of each kind.', whole(), **common)
  define_number(
    'random_latents',
    20,
    'Random latents, matched in layer, norm and firing frequency.',
    whole(0, 10_000),
    **common,
  )
  flags.DEFINE_bool(
    'p_true', True, 'Ask the model whether its answers are right.', **common
  )
  flags.DEFINE_string('yes', ' Yes', 'Its word for yes: one token.', **common)
  flags.DEFINE_string('no', ' No', 'Its word for no, likewise.', **common)
  flags.DEFINE_string(
    'transfer', None, 'File of other questions; see above.', **common
  )
  define_number('transfer_limit', None, 'Its first questions.', MANY, **common)
  define_number(
    'rows_per_batch', 1024, 'Answers generated at once.', whole(), **common
  )
  define_number(
    'harvest_batch', 64, 'Questions read at once.', whole(), **common
  )
  return study_inputs.finish_flags(values, before)


def run(values: flags.FlagValues, names: Sequence[str]) -> int:
  """Does what parsed flags say; returns the exit code."""
  try:
    _find(values, names)
  except (OSError, ValueError, ImportError) as error:
    return outputs.failed(error)
  return 0


def _find(values, names):
  if values.answer_prefix is None:
    bundled = values.chat_model == inputs.BUNDLED
    values.answer_prefix = _FORCED if bundled else ''
  opened = study_inputs.open_subject(values, names, model='chat')
  tokenizer = opened.tokenizer
  if values.p_true:
    for word in (values.yes, values.no):
      single_token(tokenizer, word)
  config = Config(
    prefix=values.answer_prefix,
    num_samples=values.num_samples,
    temperature=values.temperature,
    max_new_tokens=values.max_new_tokens,
    seed=values.seed,
  )
  settings = Settings(
    tokens=values.tokens,
    mode=values.mode,
    at_least=values.at_least,
    num_chosen=values.num_chosen,
    num_random=values.random_latents,
    batch_size=values.harvest_batch,
    seed=values.seed,
  )
  sources = {'answers': about_entities(opened.people, values.max_entities)}
  again = 0
  if values.transfer is not None:
    if values.tokens == 'entity':
      raise ValueError(
        '--tokens=entity cannot be read in the questions of --transfer, which '
        'name no entity. Choose another token, or leave the file out.'
      )
    sources['transfer'], again = read_trivia(
      values.transfer, values.transfer_limit
    )
  known = {
    entity.name
    for split in ('train', 'validation', 'test')
    for entities in opened.people.of(split, 'known').values()
    for entity in entities
  }
  named = list(opened.sae_choices.values())  # checked before any work
  opened.begin()
  model = opened.load()
  made = {}
  for name, asked in sources.items():
    answers = answer(
      model,
      tokenizer,
      asked,
      config,
      folder=opened.out / name,
      identity=opened.about,
      rows_per_batch=values.rows_per_batch,
      description=f'Answering ({name})',
    )
    judged = judge(asked, answers, values.mode, known_names=known)
    if name == 'answers':  # before more work
      types_to_use(
        Data(asked=asked, answers=answers, judged=judged), values.at_least
      )
    sure = None
    if values.p_true:
      sure = p_true(
        model, tokenizer, asked, answers, yes=values.yes, no=values.no
      )
    made[name] = Data(asked=asked, answers=answers, judged=judged, p_true=sure)
  saes = [one.load(opened.reader) for one in named]
  texts = [each.text for each in sources['answers']]
  check_fit(model, tokenizer, saes, texts, str(opened.reader.folder))
  results, arrays = find(
    model,
    tokenizer,
    saes,
    made['answers'],
    settings,
    transfer=made.get('transfer'),
    folder=opened.out / 'sums',
    identity={**opened.about, 'saes': list(map(sae_fingerprint, saes))},
  )
  results = {
    'answering': dataclasses.asdict(config),
    'transfer_file': values.transfer,
    'transfer_repeated': again,
    **results,
  }
  records = [each for data in made.values() for each in _records(data, results)]
  outputs.write_lines(opened.out / 'answers.jsonl', records)
  write_arrays(opened.out / 'effects.safetensors', arrays)
  opened.write(
    'uncertainty',
    results,
    'Does the model know when it is wrong?',
    sentences(results),
    figures.sections(results, records),
  )


def _records(data: Data, results):
  """A record per question."""
  judged = data.judged
  for i, (each, one) in enumerate(zip(data.asked, data.answers, strict=True)):
    yield {
      'id': each.id,
      'type': each.type,
      'split': each.split,
      'class': each.entity_class,
      'question': each.text,
      'answers': list(each.answers),
      'text': one.text,
      'group': judged.group[i],
      'used': bool(
        judged.used[i]
        and (each.type in results['types'] or not each.prompt_type)
      ),
      'right_samples': int(judged.right_samples[i]),
      'logprob': one.logprob,
      'entropy': one.entropy,
      'p_true': None if data.p_true is None else float(data.p_true[i, 0]),
      'samples': list(one.samples),
    }


if __name__ == '__main__':
  outputs.start(define_flags, run)
