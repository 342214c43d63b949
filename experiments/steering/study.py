"""The whole experiment: how much to add, all arms, all answers, all numbers."""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib

import numpy as np

from experiments.entities import refusal_tokens
from experiments.latents import Target
from experiments.stats.intervals import Estimate
from experiments.steering.arms import POSITIONS, Arm, standard_arms
from experiments.steering.controllers import cosines, last_streams
from experiments.steering.divergence import measure_divergences, text_questions
from experiments.steering.doses import (
  GRID,
  OPPOSITE,
  best_dose,
  grid_arms,
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
      questions about the other class, that is to be reached. Layer and dose are
      chosen by their effect on validation questions (`doses.best_dose`); the
      goal says whether that is enough.
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
    num_random_directions, sweep, weight_ablation, seed: As `standard_arms` has
      them.
  """

  rules: Rules = Rules()
  positions: str = 'entity_last_to_end'
  generated: bool = False
  max_new_tokens: int = 30
  rows_per_batch: int = 256
  num_random_directions: int = 20
  sweep: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0)
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
  """A target and an alpha, and how they came about."""

  target: Target
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
  texts: Sequence[str] = (),
  detectors: Mapping[str, tuple[int, np.ndarray]] | None = None,
  folder: str | os.PathLike | None = None,
  identity: Mapping | None = None,
  redo: bool = False,
) -> tuple[dict, list[dict]]:
  """Steers a chat model with latents and their controls.

  Args:
    model: The chat model, stacked.
    tokenizer: The model's tokenizer.
    questions: What is reported, of the test split.
    targets: Latents of the base model's SAEs. Of several of a label, at
      different layers, one is chosen on validation where its strength has a
      goal; else the first is taken.
    strengths: Label -> how much.
    settings: All else.
    validation: Questions of another split, where a strength has a goal.
    texts: Ordinary text, on which divergence is measured too; () leaves it out.
    detectors: Name -> layer of the targets' site, and direction [D] towards
      unknown entities, to compare with what controls refusals.
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
  candidates = {}
  for target in targets:
    candidates.setdefault(target.label, []).append(target)
  decided = {
    label: _decide(ask, of, strengths[label], streams, validation)
    for label, of in candidates.items()
  }
  targets = [each.target for each in decided.values()]
  arms = standard_arms(
    targets,
    {label: each.alpha for label, each in decided.items()},
    {label: each.stream.value for label, each in decided.items()},
    positions=settings.positions,
    generated=settings.generated,
    num_random_directions=settings.num_random_directions,
    sweep=settings.sweep,
    weight_ablation=settings.weight_ablation,
    seed=settings.seed,
  )
  examples = ask.and_measure(questions, arms)
  on_text = ask.on_text(questions, arms, texts) if texts else None
  described = {
    target.label: _describe(
      target, decided[target.label], strengths[target.label]
    )
    for target in targets
  }
  results = {
    'settings': dataclasses.asdict(settings),
    'targets': described,
    'refusal_ids': ask.refusal_ids,
    'cosines': _cosines(
      model,
      questions,
      targets,
      detectors or {},
      by_arm(examples)[arms[0].name],
      settings.rows_per_batch,
    ),
    'texts': 0 if on_text is None else on_text.shape[1],
    **summarise(arms, examples, on_text),
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
    refusal_ids: Sequence[int] | None = None,
  ) -> list[dict]:
    """Returns what every arm answers, and how far it is from the first arm.

    Args:
      questions: Q of them.
      arms: A of them, the original first.
      name: Begins the names of the folders in which answers are kept.
      description: Text of the progress bar.
      refusal_ids: Tokens that begin refusals. None is those that do in the
        answers of all arms: a steered model may leave out the first word.
    """
    name = f'{name}-' if name else ''
    answers = self._answers(questions, arms, f'{name}answers', description)
    if refusal_ids is None:
      read = self._read(questions, arms, answers)
      refusal_ids = refusal_tokens(
        [each[0] for of_arm in answers for each in of_arm],
        [record['outcome'] == REFUSAL for record in read],
      )
    self.refusal_ids = list(refusal_ids)
    divergences = measure_divergences(
      self._model,
      questions,
      arms,
      answers[0],
      stop_ids=self._tokenizer.stop_ids,
      refusal_ids=self.refusal_ids,
      folder=self._place(f'{name}divergence'),
      **self._common,
    )
    return self._read(questions, arms, answers, divergences)

  def on_text(
    self,
    questions: Sequence[Question],
    arms: Sequence[Arm],
    texts: Sequence[str],
  ) -> np.ndarray:
    """Returns how far arms are from the first one on ordinary text, [A, N].

    In nats per token; N pieces of text.
    """
    pieces, following = text_questions(self._tokenizer, texts, questions, arms)
    if not pieces:
      raise ValueError(
        f'{len(texts)} documents of ordinary text are too short for one window '
        'of tokens. Give more text, or none.'
      )
    found = measure_divergences(
      self._model,
      pieces,
      arms,
      following,
      stop_ids=(),
      folder=self._place('text-divergence'),
      description='Measuring divergence on text',
      **self._common,
    )
    return found[:, :, 0]

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


def _decide(ask, targets, strength, streams, validation) -> _Decided:
  """Returns which target of a label is added, and how much of it."""
  first = targets[0]
  norms = {layer: norm.value for layer, norm in streams[first.id.site].items()}
  stream = lambda target: streams[target.id.site][target.id.layer]

  def decided(target, alpha, choice=None):
    return _Decided(
      target=target, alpha=alpha, stream=stream(target), choice=choice
    )

  if strength.alpha is not None:
    return decided(first, strength.alpha)
  if strength.goal is None:
    return decided(first, strength.dose * stream(first).value / first.norm)
  label, other = first.label, OPPOSITE[first.label]
  asked = [q for q in validation if q.entity_class == other]
  if not asked:
    raise ValueError(
      f'There are no validation questions about {other} entities to choose '
      f'the dose of the {label} latent on. Label more entities, or say a '
      'coefficient or a dose.'
    )
  arms = grid_arms(
    targets,
    norms,
    strength.grid,
    ask.settings.positions,
    ask.settings.generated,
  )
  records = by_arm(
    ask(asked, arms, f'choose-{label}', f'Choosing layer and dose ({label})')
  )
  refused = {
    arm.name: sum(r['outcome'] == REFUSAL for r in records[arm.name])
    / len(asked)
    for arm in arms
  }
  before = refused[arms[0].name]
  rates = [
    {
      'id': str(target.id),
      'dose': dose,
      'steered': refused[f'+ {label} at dose {dose:g} ({target.id})'],
      'reversed': refused[f'- {label} at dose {dose:g} ({target.id})'],
    }
    for target in targets
    for dose in strength.grid
  ]
  best, effect = best_dose(rates, before, label)
  (target,) = (each for each in targets if str(each.id) == best['id'])
  choice = {
    'split': 'validation',
    'entity_class': other,
    'n': len(asked),
    'goal': strength.goal,
    'effect': effect,
    'reached': effect >= strength.goal,
    'before': before,
    'tried': rates,
  }
  alpha = best['dose'] * stream(target).value / target.norm
  return decided(target, alpha, choice)


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


def _cosines(
  model, questions, targets, detectors, original, rows_per_batch
) -> list[dict]:
  """Returns the cosines of detectors, and of the targets, with controllers."""
  directions = dict(detectors)
  for target in targets:
    sign = 1 if target.label == 'unknown' else -1
    name = f'{target.label} latent {target.id}'
    directions[name] = target.id.layer, sign * target.direction
    if target.mean_difference is not None:
      name = f'difference of means at {target.id.site}.{target.id.layer}'
      directions[name] = target.id.layer, sign * target.mean_difference
  streams = last_streams(
    model,
    questions,
    targets[0].id.site,
    [layer for layer, _ in directions.values()],
    rows_per_batch=rows_per_batch,
  )
  return cosines(
    streams,
    [record['outcome'] == REFUSAL for record in original],
    [f'{question.type}/{question.entity}' for question in questions],
    directions,
  )


def _cosine(target) -> float | None:
  """Returns the cosine of decoder row and difference of means."""
  if target.mean_difference is None:
    return None
  a, b = target.direction, target.mean_difference
  return float(a @ b / ((a @ a) ** 0.5 * (b @ b) ** 0.5))
