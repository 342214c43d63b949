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

from collections.abc import Mapping
import dataclasses
from typing import Annotated, Literal

from experiments.circuits import figures, refusal_default
from experiments.circuits.latent_edits import CircuitStudy, tracing_options
from experiments.inputs.settings import ChatStudy, ControlledLatents
from experiments.inputs.study_inputs import open_inputs
from experiments.runs import (
  Count,
  KeepFlags,
  Share,
  Signed,
  outputs,
  real,
  start,
  whole,
)
from experiments.steering import Positions, make_questions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ChatStudy, ControlledLatents):
  """Says which edits of latents are traced, and how.

  Attributes:
    alpha_known: Coefficient of the known latent's decoder row. Default: as
      --dose says.
    alpha_unknown: Coefficient of the unknown latent's decoder row. Default: as
      --dose says.
    dose: Norm of what is added, in units of the mean norm of the residual
      stream there.
    causes: What is done to each latent: 'steer' adds it, in questions about
      entities of the other class; 'ablate' sets it to 0, in questions about
      entities of its own class.
    num_random: Number of random latents that each latent is compared with, and
      of random sets of components that a circuit is compared with. Latents are
      matched if there is a run.
    positions: Tokens of a question that are edited.
    questions: Questions per entity type, class and split.
    goal: Share of the effect that a circuit keeps, and takes with it.
    smallest_effect: Smallest effect on validation questions, in logits, that is
      traced.
    graph_nodes: Most components of a circuit that edges are measured among.
    max_new_tokens: Most tokens of an answer.
    rows_per_batch: Rows that are run at once.
  """

  alpha_known: Signed | None = None
  alpha_unknown: Signed | None = None
  dose: Annotated[float, real(0, 1e6)] = 0.5
  causes: tuple[Literal['steer', 'ablate'], ...] = ('steer', 'ablate')
  num_random: Annotated[int, whole(0, 10_000)] = 20
  positions: Positions = 'entity_last'
  questions: Count = 6
  goal: Share = 0.8
  smallest_effect: Annotated[float, real(0, 1e6)] = 0.5
  graph_nodes: Count = 10
  max_new_tokens: Count = 30
  rows_per_batch: Count = 128

  def __post_init__(self):
    super().__post_init__()
    if not self.causes:
      raise ValueError('Give --causes, some of steer, ablate.')
    tracing_options(self)  # which refuses some goals


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Traces the edits, writes the results; returns the summary."""
  given = open_inputs(settings, keep_flags)
  splits = {
    part: make_questions(
      given.tokenizer,
      given.people.of(part, 'known'),
      given.people.of(part, 'unknown'),
      per_class=settings.questions,
      # Published ones are drawn with 42.
      seed=42 if settings.mode == 'reference' else settings.seed,
    )
    for part in ('validation', 'test')
  }
  saes = {
    label: given.sae(target.id.layer) for label, target in given.targets.items()
  }
  given.begin()
  study = CircuitStudy(given, given.load(), splits, saes)
  traced = [study.trace(*each) for each in study.edits()]
  results = {
    'settings': dataclasses.asdict(tracing_options(settings)),
    'metric': study.metric,
    'causes': traced,
    'polarity': study.polarity(traced),
  }
  study.write_arrays()
  outputs.write_lines(given.out / 'answers.jsonl', study.examples)
  return given.write(
    'circuits',
    results,
    'How does a latent make the model decline?',
    summary(results),
    figures.sections(results),
  )


def summary(results: Mapping) -> list[str]:
  """Says the effects, the circuits, and the default, in sentences."""
  lines = []
  for edit in results['causes']:
    total, random = edit['total'], edit['random_latents']
    line = (
      f'{edit["name"]} ({edit["latent"]}, at {edit["positions"]}), '
      f'{edit["entity_class"]} entities: the refusal gains '
      f'{_interval(total, "{:+.2f}")} logits on the answer'
    )
    if random['n']:
      line += (
        f'; {random["n"]} random latents: {min(random["means"]):+.2f} to '
        f'{max(random["means"]):+.2f}, p = {random["p"]:.2g}'
      )
    lines.append(line + '.')
    if not edit['traced']:
      lines.append(
        f'{edit["name"]}: too small an effect on validation questions to '
        f'trace, {_interval(edit["validation_total"], "{:+.2f}")}.'
      )
      continue
    check = edit['verification']
    lines.append(
      f'{edit["name"]}: {check["size"]} of {check["candidates"]} components '
      f'that it changes keep {_interval(check["share_kept"], "{:.0%}")} of it '
      f'with all others held; with them held '
      f'{_interval(check["share_left"], "{:.0%}")} is left.'
    )
    first = [c for c in edit['components'] if c['in_circuit']][:4]
    said = ', '.join(f'{c["name"]} ({c["part"]["value"]:+.2f})' for c in first)
    lines.append(f'{edit["name"]}: most goes through {said}.')
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
  """Returns an estimate such as '+1.20 [+0.80, +1.60]'."""
  value, low, high = (estimate[key] for key in ('value', 'low', 'high'))
  said = form.format(value)
  if low is None:
    return said
  return f'{said} [{form.format(low)}, {form.format(high)}]'


if __name__ == '__main__':
  start(Settings, work)
