"""The whole experiment: how much to add, all arms, all answers, all numbers."""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib

from experiments.latents import Target
from experiments.stats.intervals import Estimate
from experiments.steering.arms import POSITIONS, SWEEP_SIZE, Arm, standard_arms
from experiments.steering.divergence import measure_divergences
from experiments.steering.doses import (
  GRID,
  OPPOSITE,
  grid_arms,
  smallest_sufficient,
  stream_norms,
)
from experiments.steering.generation import generate_answers
from experiments.steering.outcomes import REFUSAL, Rules, by_arm, make_examples
from experiments.steering.questions import Question
from experiments.steering.summary import summarise
from experiments.steering.weight_ablation import WAYS
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strength:
  """Says how much of a target to add: one of the three.

  Attributes:
    alpha: The coefficient of its decoder row.
    dose: The norm of what is added, in units of the mean norm of the stream.
    goal: The change of the refusal rate, in the expected direction and of
      questions about the other class, that the smallest sufficient dose of
      `grid` is to bring about on validation questions.
    grid: Doses to try for a goal.
    source: Where it comes from, for the report.
  """

  alpha: float | None = None
  dose: float | None = None
  goal: float | None = None
  grid: Sequence[float] = GRID
  source: str = 'given'

  def __post_init__(self):
    given = [self.alpha, self.dose, self.goal]
    if sum(value is not None for value in given) != 1:
      raise ValueError(
        'Say how much to add by a coefficient, a dose or a goal: exactly one '
        f'of them; got alpha={self.alpha}, dose={self.dose}, goal={self.goal}.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SteeringOptions:
  """Holds what does not depend on model and latents.

  Attributes:
    rules: How answers are read.
    positions: Which tokens are steered, one of arms.POSITIONS.
    generated: True if generated tokens are, too.
    max_new_tokens: Per answer.
    rows_per_batch: Bounds memory.
    num_random_directions, sweep, sweep_random, weight_ablation, seed: As
      `standard_arms` has them.
  """

  rules: Rules = Rules()
  positions: str = 'entity_last_to_end'
  generated: bool = False
  max_new_tokens: int = 30
  rows_per_batch: int = 256
  num_random_directions: int = 20
  sweep: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0)
  sweep_random: int = SWEEP_SIZE
  weight_ablation: Sequence[str] = WAYS
  seed: int = 0

  def __post_init__(self):
    if self.positions not in POSITIONS:
      raise ValueError(
        f'positions is {self.positions!r}, expected one of {POSITIONS}.'
      )
    if not set(self.weight_ablation) <= set(WAYS):
      raise ValueError(
        f'weight_ablation is {list(self.weight_ablation)}, expected some of '
        f'{WAYS}.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Decided:
  """An alpha, and how it came about."""

  alpha: float
  stream: Estimate
  choice: dict | None


def steer(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  questions: Sequence[Question],
  targets: Sequence[Target],
  strengths: Mapping[str, Strength],
  settings: SteeringOptions,
  *,
  validation: Sequence[Question] = (),
  folder: str | os.PathLike | None = None,
  identity: Mapping | None = None,
  redo: bool = False,
) -> tuple[dict, list[dict]]:
  """Steers a chat model with latents and their controls.

  Args:
    model: The chat model, stacked.
    tokenizer: The model's tokenizer.
    questions: What is reported, of the test split.
    targets: Latents of the base model's SAEs, at most one per label.
    strengths: Label -> how much.
    settings: All else.
    validation: Questions of another split, where a strength has a goal.
    folder: Where answers are kept as they come, to resume from.
    identity: Identity of the model, so that another one's answers are not taken
      for its.
    redo: True if answers that are there from other arguments are thrown away;
      else they are an error.

  Returns:
    Numbers for results.json; and a record per answer, from which they were
    computed (`outcomes.make_examples`), with its divergence.

  Raises:
    ValueError: arms, questions or folder do not fit; nothing has run by then,
      or what has run is kept.
  """
  ask = AnswerRunner(
    model, tokenizer, settings, folder, identity=identity, redo=redo
  )
  places = {}
  for target in targets:
    places.setdefault(target.id.site, []).append(target.id.layer)
  streams = {
    site: stream_norms(model, questions, site, layers, settings.positions)
    for site, layers in places.items()
  }
  decided = {
    target.label: _decide(
      ask,
      target,
      strengths[target.label],
      streams[target.id.site][target.id.layer],
      validation,
    )
    for target in targets
  }
  arms = standard_arms(
    targets,
    {label: each.alpha for label, each in decided.items()},
    {label: each.stream.value for label, each in decided.items()},
    positions=settings.positions,
    generated=settings.generated,
    num_random_directions=settings.num_random_directions,
    sweep=settings.sweep,
    sweep_random=settings.sweep_random,
    weight_ablation=settings.weight_ablation,
    seed=settings.seed,
  )
  examples = ask.and_measure(questions, arms)
  described = {
    target.label: _describe(
      target, decided[target.label], strengths[target.label]
    )
    for target in targets
  }
  results = {
    'settings': dataclasses.asdict(settings),
    'targets': described,
    **summarise(arms, examples),
  }
  return results, examples


class AnswerRunner:
  """Puts questions to the model, and reads the answers."""

  def __init__(
    self,
    model: gj.Decoder,
    tokenizer: gj.Tokenizer,
    settings: SteeringOptions,
    folder: str | os.PathLike | None = None,
    *,
    identity: Mapping | None = None,
    redo: bool = False,
  ):
    """Takes what `steer` takes."""
    self._model, self.settings = model, settings
    self._tokenizer = tokenizer
    self._folder = None if folder is None else pathlib.Path(folder)
    self._common = {
      'rows_per_batch': settings.rows_per_batch,
      'identity': identity or {},
      'redo': redo,
    }

  def __call__(
    self,
    questions: Sequence[Question],
    arms: Sequence[Arm],
    name: str,
    description: str,
  ) -> list[dict]:
    """Returns what every arm answers: records of `make_examples`.

    Args:
      questions: Q of them.
      arms: A of them.
      name: Name of the folder in which answers are kept.
      description: Text of the progress bar.
    """
    answers = self._answers(questions, arms, name, description)
    return self._read(questions, arms, answers)

  def and_measure(
    self,
    questions: Sequence[Question],
    arms: Sequence[Arm],
    name: str = '',
    description: str = 'Answering under all arms',
  ) -> list[dict]:
    """Returns what every arm answers, and how far it is from the first arm."""
    name = f'{name}-' if name else ''
    answers = self._answers(questions, arms, f'{name}answers', description)
    divergences = measure_divergences(
      self._model,
      questions,
      arms,
      answers[0],
      stop_ids=self._tokenizer.stop_ids,
      folder=self._place(f'{name}divergence'),
      **self._common,
    )
    return self._read(questions, arms, answers, divergences)

  def _answers(self, questions, arms, name, description):
    settings = self.settings
    return generate_answers(
      self._model,
      questions,
      arms,
      stop_ids=self._tokenizer.stop_ids if settings.rules.stop else (),
      max_new_tokens=settings.max_new_tokens,
      folder=self._place(name),
      description=description,
      **self._common,
    )

  def _place(self, name):
    return None if self._folder is None else self._folder / name

  def _read(self, questions, arms, answers, divergences=None):
    return make_examples(
      self._tokenizer,
      questions,
      arms,
      answers,
      self.settings.rules,
      divergences,
    )


def _decide(ask, target, strength, stream, validation) -> _Decided:
  """Returns how much of a target to add."""
  if strength.alpha is not None:
    return _Decided(alpha=strength.alpha, stream=stream, choice=None)
  dose, choice = strength.dose, None
  if strength.goal is not None:
    label, other = target.label, OPPOSITE[target.label]
    asked = [q for q in validation if q.entity_class == other]
    if not asked:
      raise ValueError(
        f'There are no validation questions about {other} entities to choose '
        f'the dose of the {label} latent on. Label more entities, or say a '
        'coefficient or a dose.'
      )
    arms = grid_arms(
      target,
      stream.value,
      strength.grid,
      ask.settings.positions,
      ask.settings.generated,
    )
    records = by_arm(
      ask(asked, arms, f'choose-{label}', f'Choosing a dose ({label})')
    )
    rates = {
      arm.dose or 0.0: sum(r['outcome'] == REFUSAL for r in records[arm.name])
      / len(asked)
      for arm in arms
    }
    dose, reached = smallest_sufficient(rates, label, strength.goal)
    choice = {
      'split': 'validation',
      'entity_class': other,
      'n': len(asked),
      'goal': strength.goal,
      'reached': reached,
      'refusal_rates': {f'{each:g}': rate for each, rate in rates.items()},
    }
  alpha = dose * stream.value / target.norm
  return _Decided(alpha=alpha, stream=stream, choice=choice)


def _describe(target, decided, strength) -> dict:
  """Returns what was added, in all units."""
  added = abs(decided.alpha) * target.norm
  return {
    'id': str(target.id),
    **target.id._asdict(),
    'alpha': decided.alpha,
    'direction_norm': target.norm,
    'added_norm': added,
    'stream_norm': decided.stream.to_dict(),
    'dose': added / decided.stream.value,
    'source': strength.source,
    'choice': decided.choice,
    'controls': list(map(str, target.controls)),
    'mean_difference_cosine': _cosine(target),
  }


def _cosine(target) -> float | None:
  """Returns the cosine of decoder row and difference of means."""
  if target.mean_difference is None:
    return None
  a, b = target.direction, target.mean_difference
  return float(a @ b / ((a @ a) ** 0.5 * (b @ b) ** 0.5))
