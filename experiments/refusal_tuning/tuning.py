"""Trains one arm: from rows to weights.

All weights or LoRA adapters, by completions or by preferences. What is judged
is the loss on validation rows, refusals and answers counting alike.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.factual_recall import batches
from experiments.knowledge_probing import Format, Row
from experiments.refusal_tuning.settings import Settings
import gemma_jax as gj
from gemma_jax import training

Weights = Mapping[str, jax.Array]
_WARMUP = 10  # steps
# Rows of pairs have a multiple of so many tokens, so that programs are few.
_ROUND = 16


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tuned:
  """Holds what training an arm gives.

  Attributes:
    trained: All weights of the model, float32; or LoRA's adapters.
    records: Loss and score at each judgement.
    steps: Updates that were planned; `records` says where training stopped.
    rows: Packed rows of tokens.
  """

  trained: dict[str, jax.Array]
  records: list[dict]
  steps: int
  rows: int


class _Objective(NamedTuple):
  """A loss, as it is trained and as it is measured."""

  loss: Callable
  measure: Callable


class Tuner:
  """Trains a model on rows; the same settings for every arm.

  Attributes:
    model: The untuned model, float32, stacked.
    lora: None where all weights are trained.
  """

  def __init__(
    self,
    settings: Settings,
    model: gj.Decoder,
    format: Format,
    *,
    lora: training.LoraConfig | None,
    length: int,
  ):
    """Takes how rows are packed: `length` tokens each."""
    self.model, self.lora = model, lora
    self._settings, self._format, self._length = settings, format, length
    dtype = jnp.dtype(settings.compute)
    self._dtype = None if dtype == jnp.float32 else dtype
    self._score = jax.jit(training.sequence_logprobs)

  def weights(self, trained: Weights) -> dict[str, jax.Array]:
    """Returns the weights of the whole model."""
    if self.lora is None:
      return dict(trained)
    return training.merge(self.model.weights(), trained, self.lora)

  def decoder(self, trained: Weights) -> gj.Decoder:
    """Returns the tuned model."""
    return gj.Decoder(self.model.config, self.weights(trained))

  def examples(self, rows: Sequence[Row]) -> list[training.Example]:
    """Rows as tokens."""
    return [
      self._example(row.question, row.completion, row.weight) for row in rows
    ]

  def supervised(
    self,
    rows: Sequence[Row],
    validation: Sequence[Row],
    *,
    snapshot: pathlib.Path,
    name: str,
    epochs: int | None = None,
    start: Weights | None = None,
    ordinary: Mapping[str, str] | None = None,
  ) -> Tuned:
    """Trains on completions.

    Args:
      rows: What to learn from.
      validation: What training is stopped by; none trains for all epochs.
      snapshot: File that a killed training goes on from.
      name: For the progress bar.
      epochs: Most passes; None is the settings'.
      start: What to begin with, as `Tuned.trained`; None is the untuned model.
      ordinary: Requests that are rehearsed beside the rows -> their answers.
    """
    rehearsed = [self._example(*each) for each in (ordinary or {}).items()]
    data = self._pack([*self.examples(rows), *rehearsed])
    judged = [
      self._pack(
        self.examples([row for row in validation if row.refusal == refusal])
      )
      for refusal in (False, True)
      if any(row.refusal == refusal for row in validation)
    ]
    return self._fit(
      self._completions,
      data,
      judged,
      snapshot=snapshot,
      name=name,
      epochs=epochs,
      start=start,
      learning_rate=self._settings.learning_rate,
    )

  def preferred(
    self,
    rows: Sequence[Row],
    validation: Sequence[Row],
    *,
    snapshot: pathlib.Path,
    name: str,
    start: Weights | None = None,
  ) -> Tuned:
    """Trains by DPO on pairs of a completion and a rejected one.

    The arguments are those of `supervised`; the reference is `start`.

    Raises:
      ValueError: no row has a rejected completion.
    """
    weights = self.model.weights() if start is None else self.weights(start)
    reference = training.as_model(weights, self.model.config)
    data = self._pairs(rows, reference, name)
    settings = self._settings
    judged = []
    if any(row.rejected is not None for row in validation):
      judged = [self._pairs(validation, reference, name)]
    rate = settings.dpo_learning_rate or settings.learning_rate / 10
    return self._fit(
      self._preferences,
      data,
      judged,
      snapshot=snapshot,
      name=name,
      epochs=None,
      start=start,
      learning_rate=rate,
    )

  # Functions that all arms share: what is compiled for one serves the others.

  @functools.cached_property
  def _completions(self) -> '_Objective':
    return self._objective(training.completion_sums)

  @functools.cached_property
  def _preferences(self) -> '_Objective':
    beta = self._settings.beta

    def loss(model, batch):
      pairs, logprobs = batch
      return training.dpo_loss(model, logprobs, pairs, beta)

    return self._objective(loss)

  def _objective(self, loss) -> '_Objective':
    """Returns a loss of trained weights, a batch, and frozen weights if any."""
    config, lora, dtype = self.model.config, self.lora, self._dtype

    def objective(trained, batch, *frozen):
      if lora is not None:
        trained = training.merge(*frozen, trained, lora)
      return loss(training.as_model(trained, config, dtype), batch)

    return _Objective(objective, jax.jit(objective))

  def _example(self, question, answer, weight=1.0) -> training.Example:
    return training.Example(
      self._format.prompt_ids(question), self._format.answer_ids(answer), weight
    )

  def _pack(self, examples):
    return training.pack(examples, self._length, self._pad)

  @property
  def _pad(self) -> int:
    return self.model.config.fill_id

  def _pairs(self, rows, reference, name):
    """Pairs, and what the reference says of them, row by row."""
    rows = [row for row in rows if row.rejected is not None]
    if not rows:
      raise ValueError(
        f'{name}: no row has a rejected completion, which DPO needs: the model '
        'never gave an answer where it should decline. Draw more samples, or '
        'leave the arm out.'
      )
    chosen = self.examples(rows)
    rejected = [
      training.Example(each.prompt, self._format.answer_ids(row.rejected))
      for each, row in zip(chosen, rows, strict=True)
    ]
    sizes = [
      len(each.prompt) + len(each.completion) for each in (*chosen, *rejected)
    ]
    # Rows of one example each are no longer than they must be.
    length = min(self._length, -(-max(sizes) // _ROUND) * _ROUND)
    pairs = training.pack_pairs(chosen, rejected, length, self._pad)
    score = self._score
    size = self._settings.batch
    logprobs = []
    for side in pairs:
      found = []
      for at in batches(len(rows), size):
        some = training.Packed(*(array[at] for array in side))
        found.append(np.asarray(score(reference, some)))
      logprobs.append(np.concatenate(found)[: len(rows)])
    return pairs, tuple(logprobs)

  def _fit(
    self,
    objective,
    data,
    judged,
    *,
    snapshot,
    name,
    epochs,
    start,
    learning_rate,
  ) -> Tuned:
    settings = self._settings
    epochs = settings.epochs if epochs is None else epochs
    R = len(jax.tree.leaves(data)[0])
    steps = math.ceil(R * epochs / settings.batch)
    trained, frozen = dict(self.model.weights()), None
    if self.lora is not None:
      key = jax.random.key(settings.seed)
      frozen, trained = trained, training.init_lora(trained, self.lora, key)
    trained = trained if start is None else dict(start)

    judge = None
    if judged:
      more = () if frozen is None else (frozen,)
      judge = functools.partial(
        _judge, objective.measure, judged, more, settings.batch
      )
    found, records = training.fit(
      objective.loss,
      trained,
      lambda step: training.draw(data, step, settings.batch, settings.seed),
      training.FitConfig(
        steps=steps,
        learning_rate=learning_rate,
        warmup=_WARMUP,
        weight_decay=0.0,
        average=settings.average,
        snapshot_every=max(1, math.ceil(R / settings.batch)),
      ),
      snapshot=snapshot,
      name=name,
      frozen=frozen,
      accumulation=settings.accumulation,
      judge=judge,
      patience=settings.patience if judged else None,
    )
    return Tuned(trained=dict(found), records=records, steps=steps, rows=R)


def _judge(measure, judged, frozen, size, trained) -> dict[str, float]:
  """Less the loss on validation data, parts counting alike.

  Args:
    measure: A compiled loss: a mean, or a numerator and a denominator.
    judged: Parts of the data, pytrees of rows.
    frozen: What `measure` takes besides.
    size: Rows at once.
    trained: What is judged.
  """
  losses = []
  for data in judged:
    R = len(jax.tree.leaves(data)[0])
    totals = np.zeros(2)
    # Whole batches, the first rows again at the end: one program serves all.
    for start in range(0, R, size):
      at = np.arange(start, start + size) % R
      found = measure(trained, jax.tree.map(lambda x: x[at], data), *frozen)  # noqa: B023
      found = found if isinstance(found, tuple) else (found, 1.0)
      totals += np.array([float(x) for x in found])
    losses.append(totals[0] / totals[1])
  return {'score': -float(np.mean(losses))}
