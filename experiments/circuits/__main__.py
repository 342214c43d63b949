r"""Which heads and MLPs carry a latent's effect from an entity to a refusal?

  python -m experiments.circuits --out=out/circuit

  python -m experiments.circuits --out=out/circuit_2b \
    --chat_model=google/gemma-2-2b-it --sae=gemma-scope-2b-pt-res \
    --entities=wikidata --run=out/recognition_2b --alpha_unknown=400

Asks a chat model about entities and changes one latent at the entity: adds it
where it is silent (+ unknown, + known), or sets it to 0 where it fires, keeping
the SAE's error (unknown ablated, known ablated). What that does to the logit of
a refusal's first token, less that of an answer's, is traced by exact path
patching, over heads and MLPs by layer and tokens:

  carried   a component's edited value, put into the unedited run
  lost      what of the effect is gone when it alone is held as unedited
  direct    what it writes to the logits itself, all others held

The fewest components that keep, and take with them, the share --goal of the
effect are chosen on validation questions. On test questions they are held (is
the effect gone?), all others are held (is it still there?), and as many random
components are. Edges among them are patched one by one. Direct logit
attribution takes the logits apart, before the soft cap, exactly; heads' outputs
are shown as tokens, as in Table 7 of arXiv 2411.14257 (--mode=reference does
not divide by the final norm's root mean square, as published).

And: does the model decline unless it knows the entity, or answer unless it does
not? It is asked with all sight of the entity cut off, and without its latents.

How much is added: --alpha_known, --alpha_unknown, coefficients of decoder rows;
or --dose, a norm in units of the stream's. --out gets flags.txt, results.json,
effects.safetensors (the effect of every question), answers.jsonl (the model's
own answers), report.html; causes/ and answers/, from which the same command
goes on.
"""

from collections.abc import Mapping, Sequence
import dataclasses

from absl import flags

from experiments import circuits
from experiments.circuits import figures, refusal_default
from experiments.circuits.latent_edits import CircuitStudy
from experiments.inputs import study_inputs as subject_lib
from experiments.latents import CLASSES
from experiments.runs import SHARE, SIGNED, define_number, outputs, real, whole
from experiments.steering import POSITIONS, make_questions

_KINDS = ('steer', 'ablate')
_TITLE = 'How does a latent make the model decline?'


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines this program's flags; returns their names."""
  before = set(values)
  subject_lib.define_flags(values, model='chat')
  common = {'flag_values': values}
  for label in CLASSES:
    define_number(
      f'alpha_{label}',
      None,
      f"Coefficient of the {label} latent's decoder row. Default: --dose.",
      SIGNED,
      **common,
    )
  define_number(
    'dose',
    0.5,
    "Norm of what is added, in units of the stream's mean norm there.",
    real(0, 1e6),
    **common,
  )
  flags.DEFINE_list(
    'causes',
    list(_KINDS),
    'What is done to each latent: steer (added, about entities of the other '
    'class), ablate (set to 0, about entities of its own).',
    **common,
  )
  flags.DEFINE_enum(
    'positions',
    'entity_last',
    list(POSITIONS),
    'Which tokens of a question are changed.',
    **common,
  )
  define_number(
    'questions', 6, 'Per entity type, class and split.', whole(), **common
  )
  define_number(
    'goal',
    0.8,
    'Share of the effect that a circuit keeps, and takes with it.',
    SHARE,
    **common,
  )
  define_number(
    'smallest_effect',
    0.5,
    'In logits: causes that do less on validation questions are not traced.',
    real(0, 1e6),
    **common,
  )
  define_number(
    'graph_nodes',
    10,
    'Edges are measured among so many components of a circuit at most.',
    whole(),
    **common,
  )
  define_number(
    'max_new_tokens', 30, 'Most tokens of an answer.', whole(), **common
  )
  define_number('rows_per_batch', 128, 'Rows run at once.', whole(), **common)
  return subject_lib.finish_flags(values, before)


def run(values: flags.FlagValues, names: Sequence[str]) -> int:
  """Does what parsed flags say; returns the exit code."""
  try:
    settings = circuits.Settings(
      goal=values.goal,
      smallest_effect=values.smallest_effect,
      graph_nodes=values.graph_nodes,
      num_random=values.num_random,
      mode=values.mode,
      rows_per_batch=values.rows_per_batch,
      seed=values.seed,
    )
    if not values.causes or not set(values.causes) <= set(_KINDS):
      raise ValueError(
        f'--causes={",".join(values.causes)} must be some of '
        f'{", ".join(_KINDS)}.'
      )
    subject = subject_lib.open_subject(values, names, model='chat')
    splits = {
      part: make_questions(
        subject.tokenizer,
        subject.people.of(part, 'known'),
        subject.people.of(part, 'unknown'),
        per_class=values.questions,
        # Published ones are drawn with 42.
        seed=42 if values.mode == 'reference' else values.seed,
      )
      for part in ('validation', 'test')
    }
    saes = {
      label: subject.sae(target.id.layer)
      for label, target in subject.targets.items()
    }
    subject.begin()
    study = CircuitStudy(subject, subject.load(), splits, saes, settings)
    causes = [study.trace(*each) for each in study.causes()]
    results = {
      'settings': dataclasses.asdict(settings),
      'metric': study.metric,
      'causes': causes,
      'polarity': study.polarity(causes),
    }
    study.write_arrays()
    outputs.write_lines(subject.out / 'answers.jsonl', study.examples)
    subject.write(
      'circuits',
      results,
      _TITLE,
      summary(results),
      figures.sections(results),
    )
  except (OSError, ValueError, ImportError) as error:
    return outputs.failed(error)
  return 0


def summary(results: Mapping) -> list[str]:
  """The effects, the circuits, and the default, in sentences."""
  lines = []
  for cause in results['causes']:
    total, random = cause['total'], cause['random_latents']
    line = (
      f'{cause["name"]} ({cause["latent"]}, at {cause["positions"]}), '
      f'{cause["entity_class"]} entities: the refusal gains '
      f'{_interval(total, "{:+.2f}")} logits on the answer'
    )
    if random['n']:
      line += (
        f'; {random["n"]} random latents: {min(random["means"]):+.2f} to '
        f'{max(random["means"]):+.2f}, p = {random["p"]:.2g}'
      )
    lines.append(line + '.')
    if not cause['traced']:
      lines.append(
        f'{cause["name"]}: too small an effect on validation questions to '
        f'trace, {_interval(cause["validation_total"], "{:+.2f}")}.'
      )
      continue
    check = cause['verification']
    lines.append(
      f'{cause["name"]}: {check["size"]} of {check["candidates"]} components '
      f'that it changes keep {_interval(check["share_kept"], "{:.0%}")} of it '
      f'with all others held; with them held '
      f'{_interval(check["share_left"], "{:.0%}")} is left.'
    )
    first = [c for c in cause['components'] if c['in_circuit']][:4]
    said = ', '.join(f'{c["name"]} ({c["part"]["value"]:+.2f})' for c in first)
    lines.append(f'{cause["name"]}: most goes through {said}.')
  default = results['polarity']['default']
  lines.append(
    {
      'decline': 'The model declines by default',
      'answer': 'The model answers by default',
      'unclear': 'Whether the model declines or answers by default is open',
    }[default['verdict']]
    + ': with all sight of the entity cut off, '
    f'{_interval(default["refused"], "{:.0%}")} of first tokens decline '
    f'(n = {default["refused"]["n"]}: all that differs then among '
    f'{default["questions"]} questions).'
  )
  shares = {
    entry['name']: entry['classes']['unknown']['refused']
    for entry in results['polarity']['conditions']
    if 'unknown' in entry['classes']
  }
  if refusal_default.CIRCUIT_CUT in shares:
    original, circuit, rest = (
      _interval(shares[getattr(refusal_default, name)], '{:.0%}')
      for name in ('ORIGINAL', 'CIRCUIT_CUT', 'REST_CUT')
    )
    lines.append(
      f'Unknown entities are declined in {original}; if heads of the circuits '
      f'do not see the entity in {circuit}; if all others do not in {rest}.'
    )
  return lines


def _interval(estimate: Mapping, form: str) -> str:
  """'+1.20 [+0.80, +1.60]'."""
  value, low, high = (estimate[key] for key in ('value', 'low', 'high'))
  said = form.format(value)
  if low is None:
    return said
  return f'{said} [{form.format(low)}, {form.format(high)}]'


if __name__ == '__main__':
  outputs.start(define_flags, run)
