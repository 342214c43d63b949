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
  the answer             the probability of a refusal, its log-probability, the
                         entropy of its first token, semantic entropy over the
                         samples, P(True)
  no model at all        the length of the question, what is asked about
  random latents         of the same layer, that fire about as often

with thresholds and calibration chosen on validation, and intervals from
resampling entities. --transfer takes a file of other questions, in the format
of the published TriviaQA answers: a JSON list of objects with `question`,
`question_id` and `correct_answer`, a list of aliases. The model answers them
anew; nothing is fitted on them.

A model that declines what it does not know makes few errors. --rare names more
entities to ask about, such as ones that it has seldom seen; MiniWorld has some,
which are asked about by default. How likely the model is to begin a refusal,
P(refusal), stands beside the latents: it needs no search. --answer_prefix
begins every answer for the model, so that it has to say something; latents are
read before that, and what it finds is no longer what the paper means. MiniWorld
was never taught what P(True) asks.

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

from collections.abc import Iterator, Mapping
import dataclasses

from experiments.inputs import sae_fingerprint
from experiments.inputs.sae_fit import check_fit
from experiments.inputs.study_inputs import StudyInputs, open_inputs
from experiments.latents import SPLITS, write_arrays
from experiments.runs import KeepFlags, outputs, start
from experiments.self_report import single_token
from experiments.uncertainty import (
  Asked,
  Data,
  about_entities,
  answer,
  figures,
  find,
  judge,
  p_refusal,
  p_true,
  read_trivia,
  types_to_use,
)
from experiments.uncertainty.settings import Settings
from experiments.uncertainty.summary_text import sentences
import gemma_jax as gj


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Finds detectors of errors, writes the results; returns the summary."""
  given = open_inputs(settings, keep_flags)
  if settings.p_true:
    for word in (settings.yes, settings.no):
      single_token(given.tokenizer, word)
  asked = {
    'answers': about_entities(
      given.people, settings.max_entities, settings.read_rare()
    )
  }
  again = 0
  if settings.transfer is not None:
    asked['transfer'], again = read_trivia(
      settings.transfer, settings.transfer_limit
    )
  choices = given.sae_choices.values()  # checked before any work
  given.begin()
  model = given.load()
  data = {
    name: _answered(given, model, questions, name)
    for name, questions in asked.items()
  }
  saes = [one.load(given.reader) for one in choices]
  texts = [each.text for each in asked['answers']]
  check_fit(model, given.tokenizer, saes, texts, str(given.reader.folder))
  results, arrays = find(
    model,
    given.tokenizer,
    saes,
    data['answers'],
    settings.search,
    transfer=data.get('transfer'),
    folder=given.out / 'sums',
    identity={**given.about, 'saes': list(map(sae_fingerprint, saes))},
  )
  results = {
    'answering': dataclasses.asdict(settings.answering),
    'transfer_file': settings.transfer,
    'transfer_repeated': again,
    **results,
  }
  records = [each for part in data.values() for each in _records(part, results)]
  outputs.write_lines(given.out / 'answers.jsonl', records)
  write_arrays(given.out / 'effects.safetensors', arrays)
  return given.write(
    'uncertainty',
    results,
    'Does the model know when it is wrong?',
    sentences(results),
    figures.sections(results, records),
  )


def _answered(
  given: StudyInputs, model: gj.Decoder, asked: list[Asked], name: str
) -> Data:
  """Returns questions with the model's answers.

  Raises:
    ValueError: there are too few errors about entities, or correct answers.
  """
  settings = given.settings
  answers = answer(
    model,
    given.tokenizer,
    asked,
    settings.answering,
    folder=given.out / name,
    identity=given.about,
    rows_per_batch=settings.rows_per_batch,
    description=f'Answering ({name})',
  )
  known = {
    entity.name
    for split in SPLITS
    for entities in given.people.of(split, 'known').values()
    for entity in entities
  }
  judged = judge(asked, answers, settings.mode, known_names=known)
  data = Data(asked=asked, answers=answers, judged=judged)
  if name == 'answers':  # before more work
    types_to_use(data, settings.at_least)
  data = dataclasses.replace(
    data,
    p_refusal=p_refusal(
      model,
      given.tokenizer,
      asked,
      answers,
      prefix=settings.answering.prefix,
      mode=settings.mode,
    ),
  )
  if not settings.p_true:
    return data
  sure = p_true(
    model, given.tokenizer, asked, answers, yes=settings.yes, no=settings.no
  )
  return dataclasses.replace(data, p_true=sure)


def _records(data: Data, results: Mapping) -> Iterator[dict]:
  """Yields a record per question."""
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
  start(Settings, work)
