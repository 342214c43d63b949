r"""Does the model say that it knows an entity? Do latents change what it says?

  python -m experiments.entity_recognition --out=out/demo      # `make demo`
  python -m experiments.self_report --out=out/self_report            # MiniWorld

  python -m experiments.self_report --out=out/ask_self_2b \
    --run=out/gemma_2_2b --chat_model=google/gemma-2-2b-it \
    --sae=gemma-scope-2b-pt-res --entities=wikidata --dtype=bfloat16

The chat model is asked "Are you sure you know the {type} {name}? Answer yes or
no.", its answer is begun for it, "Answer:", and what counts is how much more
likely ' Yes' is than ' No' (arXiv 2411.14257, Figure 5). Every entity of the
test split is asked about once. Then a latent's decoder row is added at the last
token of the name: the unknown latent on known entities should make the model
less sure, the known latent on unknown entities surer. Beside them the opposite
direction, the difference of means, and random latents and directions of the
same norm; all arms on all entities.

Another question or other words: --question, --prefix, --yes, --no. The two
words must be tokens of the model. MiniWorld knows the words of the question
but was never taught to say yes or no; it was taught to answer 'It is ...' or
'Sorry, I do not know that.'. By default it is asked the same question, without
--prefix, and --yes=It --no=Sorry count. To see what the published words give on
it: --prefix=Answer: --yes=" Yes" --no=" No".

How much is added: --alpha_known and --alpha_unknown are coefficients; --dose
is a norm in units of the mean norm of the stream there. For the published
models the default is the published coefficient, for others --dose=1. --sweep
has more doses.

--mode=reference asks as the published code did: about an entity once for each
of its relations, with one random latent, of the unknown latent's layer, as the
control of both latents.

--out gets

  results.json         every mean, effect, interval and test
  examples.jsonl       each question: logits of both words under the main arms
  effects.safetensors  logits [arm, question, word] and log_sum [arm, question]
                       of all arms, in the order of results.json
  report.html          figures
  replies/             what is kept to go on from
"""

from collections.abc import Sequence
import dataclasses
import os

from absl import flags
import numpy as np

from experiments import inputs
from experiments.entities.modes import is_reference
from experiments.inputs import study_inputs
from experiments.latents import CLASSES, write_arrays
from experiments.runs import (
  POSITIVE,
  SIGNED,
  define_number,
  define_numbers,
  outputs,
  whole,
)
from experiments.self_report import (
  METRICS,
  OWN_WORDS,
  PUBLISHED,
  Wording,
  ask_about,
  ask_per_relation,
  figures,
  measure,
  self_report_arms,
  summarise,
)
from experiments.self_report.arms import POSITIONS as ENTITY_LAST
from experiments.self_report.summary import sentences
from experiments.steering import (
  ORIGINAL,
  POSITIONS,
  RANDOM_KINDS,
  SWEEP_KINDS,
  Strength,
  distinct_doses,
  published_alpha,
  stream_norms,
)
from experiments.steering import PUBLISHED as ALPHAS

# Of a model without published coefficients.
DOSE = 1.0
_PARTS = ('question', 'prefix', 'yes', 'no')


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines this program's flags; returns their names."""
  before = set(values)
  study_inputs.define_flags(values, model='chat')
  common = {'flag_values': values}
  for name, words in (
    ('question', 'What the user says, with {type} and {name} in it.'),
    ('prefix', "Beginning of the answer, put into the model's mouth."),
    ('yes', 'The word for yes: one token, with the space before it.'),
    ('no', 'The word for no, likewise.'),
  ):
    flags.DEFINE_string(
      name,
      None,
      f'{words} Default: {getattr(PUBLISHED, name)!r}; for '
      f'{inputs.BUNDLED} {getattr(OWN_WORDS, name)!r}.',
      **common,
    )
  flags.DEFINE_enum(
    'metric',
    'logit',
    list(METRICS),
    'What the figures and the summary show; results.json has both. The '
    'difference of logits is that of log-probabilities, too.',
    **common,
  )
  define_number(
    'questions', 100, 'Per entity type and class.', whole(2), **common
  )
  flags.DEFINE_enum(
    'positions',
    ENTITY_LAST,
    list(POSITIONS),
    'Which tokens are steered.',
    **common,
  )
  for label in CLASSES:
    define_number(
      f'alpha_{label}',
      None,
      f"Coefficient of the {label} latent's decoder row.",
      SIGNED,
      **common,
    )
  define_number(
    'dose',
    None,
    "Norm of what is added, in units of the stream's.",
    POSITIVE,
    **common,
  )
  define_numbers(
    'sweep',
    [0.25, 0.5, 1, 2],
    'Other doses to try.',
    POSITIVE,
    fewest=0,
    **common,
  )
  define_number(
    'rows_per_batch', 256, 'Prompts run at once.', whole(), **common
  )
  return study_inputs.finish_flags(values, before)


def run(values: flags.FlagValues, names: Sequence[str]) -> int:
  """Does what parsed flags say; returns the exit code."""
  try:
    _ask(values, names)
  except (OSError, ValueError, ImportError) as error:
    return outputs.failed(error)
  return 0


def _ask(values, names):
  sweep = distinct_doses(values.sweep)
  wording = wording_of(values)
  opened = study_inputs.open_subject(values, names, model='chat')
  token_ids = wording.token_ids(opened.tokenizer)
  amounts = {label: _amount(values, label) for label in opened.targets}
  published = is_reference(values.mode)
  ask = ask_per_relation if published else ask_about
  questions = ask(
    opened.tokenizer,
    opened.people.of('test', 'known'),
    opened.people.of('test', 'unknown'),
    wording,
    per_class=values.questions,
    **({} if published else {'seed': values.seed}),
  )
  model = opened.load()
  norms = {
    label: stream_norms(
      model, questions, target.id.site, [target.id.layer], values.positions
    )[target.id.layer]
    for label, target in opened.targets.items()
  }
  alphas = {
    label: given.alpha
    if given.alpha is not None
    else given.dose * norms[label].value / opened.targets[label].norm
    for label, given in amounts.items()
  }
  arms = self_report_arms(
    opened.targets,
    alphas,
    norms,
    mode=values.mode,
    positions=values.positions,
    num_random=values.num_random,
    sweep=sweep,
    seed=values.seed,
  )
  replies = measure(
    model,
    questions,
    arms,
    token_ids,
    rows_per_batch=values.rows_per_batch,
    folder=opened.out / 'replies',
    identity=opened.about,
  )
  results = {
    'wording': dataclasses.asdict(wording),
    'metric': values.metric,
    'amounts': {
      label: {
        'alpha': alphas[label],
        'source': amounts[label].source,
        'direction_norm': target.norm,
        'stream_norm': norms[label].to_dict(),
        'dose': alphas[label] * target.norm / norms[label].value,
      }
      for label, target in opened.targets.items()
    },
    **summarise(questions, arms, replies),
  }
  examples = list(_examples(questions, arms, replies))
  outputs.write_lines(opened.out / 'examples.jsonl', examples)
  write_arrays(
    opened.out / 'effects.safetensors',
    {'logits': replies.logits, 'log_sum': replies.log_sum},
  )
  opened.write(
    'self_report',
    results,
    'Does the model say that it knows?',
    sentences(results, wording, values.metric),
    figures.sections(results, examples),
  )


def wording_of(values: flags.FlagValues) -> Wording:
  """The question of the flags; settles them, for flags.txt.

  Raises:
    ValueError: the question lacks {type} or {name}.
  """
  default = OWN_WORDS if values.chat_model == inputs.BUNDLED else PUBLISHED
  for name in _PARTS:
    if getattr(values, name) is None:
      setattr(values, name, getattr(default, name))
  return Wording(**{name: getattr(values, name) for name in _PARTS})


def _amount(values, label) -> Strength:
  """How much of a latent to add."""
  alpha = getattr(values, f'alpha_{label}')
  if alpha is not None:
    return Strength(alpha=alpha)
  if values.dose is not None:
    return Strength(dose=values.dose)
  if os.path.basename(os.path.normpath(values.chat_model)) in ALPHAS:
    alpha = published_alpha(values.chat_model, label)
    return Strength(alpha=alpha, source='published')
  return Strength(dose=DOSE, source='default')


def _examples(questions, arms, replies):
  """A record per question, with the arms that are no random ones."""
  shown = [
    i
    for i, arm in enumerate(arms)
    if arm.kind not in (*RANDOM_KINDS, *SWEEP_KINDS)
  ]
  assert arms[0].kind == ORIGINAL
  values = {name: replies.metric(name) for name in METRICS}
  for q, question in enumerate(questions):
    yield {
      'entity': question.entity,
      'type': question.type,
      'class': question.entity_class,
      'question': question.text,
      'arms': {
        arms[i].name: {
          'logits': np.round(replies.logits[i, q].astype(float), 5).tolist(),
          **{name: float(each[i, q]) for name, each in values.items()},
        }
        for i in shown
      },
    }


if __name__ == '__main__':
  outputs.start(define_flags, run)
