"""Rows of a study, put together in batches, and what is kept of them.

A row is one question under one arm. Direction, layer, coefficient and
positions are data of the row, so one compiled program serves all arms that
steer the same site; only where weights are changed do rows run apart. What all
questions begin with, the template's opening, is run once.

Rows are put together by length and run in batches of a fixed size. What comes
out of a row depends on neither.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import json

import numpy as np
import tqdm

from experiments.runs.checksums import of_value
from experiments.runs.stages import Chunks
from experiments.steering.arms import Arm, steered_positions
from experiments.steering.questions import Question
from experiments.steering.weight_ablation import ablate_weights
import gemma_jax as gj


@dataclasses.dataclass(frozen=True)
class Batch:
  """Rows that run together.

  Attributes:
    name: Name of the file that keeps what comes out of them.
    rows: (arm, question) by number.
    size: B; a smaller batch is filled up.
    length: T, tokens per row after the shared ones.
    shared: How many tokens all rows share.
  """

  name: str
  rows: list[tuple[int, int]]
  size: int
  length: int
  shared: int

  @property
  def filled(self) -> list[tuple[int, int]]:
    """B rows: the last one again, where there are fewer."""
    return self.rows + self.rows[-1:] * (self.size - len(self.rows))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GroupContext:
  """Holds what the batches of a group run with.

  Attributes:
    model: With the group's weights.
    everywhere: Interventions of all rows, in place of what is added to single
      ones; [] for none.
    prefix: What all rows begin with, run already; None for nothing.
  """

  model: gj.Decoder
  everywhere: gj.Interventions
  prefix: object | None


def run_rows(
  model: gj.Decoder,
  questions: Sequence[Question],
  arms: Sequence[Arm],
  lengths: Sequence[int],
  run: Callable[[GroupContext, Batch], list],
  *,
  rows_per_batch: int,
  kept: Chunks,
  description: str,
  unit: str,
) -> Iterator[tuple[int, int, object]]:
  """Runs every question under every arm, except for what is kept.

  Args:
    model: The chat model, stacked.
    questions: Q of them.
    arms: A of them.
    lengths: Tokens of a row of each question.
    run: What comes out of the rows of a batch, for JSON.
    rows_per_batch: B.
    kept: Where that is kept.
    description, unit: Those of the progress bar.

  Yields:
    Arm and question by number, and what came out.
  """
  total = len(arms) * len(questions)
  with tqdm.tqdm(total=total, desc=description, unit=unit) as progress:
    for group in _plan(questions, arms, lengths, rows_per_batch):
      ready = None  # made where there is something left to run
      for batch in group:
        found = kept.read(batch.name)
        if found is None:
          ready = ready or _prepare(model, arms, questions, batch)
          found = run(ready, batch)
          kept.write(batch.name, found)
        for (arm, question), each in zip(batch.rows, found, strict=True):
          yield arm, question, each
        progress.update(len(batch.rows))


def shared_tokens(questions: Sequence[Question], arms: Sequence[Arm]) -> int:
  """Returns how many first tokens all questions share, unsteered."""
  first, modes = questions[0].ids, {a.positions for a in arms if a.steers}
  shared = min(question.length for question in questions) - 1
  for question in questions:
    starts = [steered_positions(mode, question)[0] for mode in modes]
    shared = min(shared, *starts) if starts else shared
    while question.ids[:shared] != first[:shared]:
      shared -= 1
  return shared


def pad(
  model: gj.Decoder, rows: Sequence[Sequence[int]], batch: Batch
) -> gj.TokenBatch:
  """Returns what follows the shared tokens of rows, and where it stands."""
  padded = gj.pad_rows(
    [ids[batch.shared :] for ids in rows],
    model.config.fill_id,
    buckets=batch.length,
  )
  positions = np.where(
    padded.positions < 0, -1, padded.positions + batch.shared
  )
  return gj.TokenBatch(padded.tokens, positions)


def steering(
  questions: Sequence[Question],
  arms: Sequence[Arm],
  batch: Batch,
  new_tokens: int = 0,
) -> list[gj.Change]:
  """Returns one edit per site that any arm steers: what each row adds there.

  Rows of other sites, and of the original, add 0.

  Args:
    questions, arms: All of them.
    batch: Whose rows are steered.
    new_tokens: How many tokens will follow a row.
  """
  rows = [(arms[arm], questions[question]) for arm, question in batch.filled]
  capacity = batch.shared + batch.length + new_tokens
  gates = np.zeros((len(rows), capacity), bool)
  for gate, (arm, question) in zip(gates, rows, strict=True):
    if arm.steers:
      gate[slice(*steered_positions(arm.positions, question))] = True
      gate[question.length :] = arm.generated
  edits = []
  for site in sorted({arm.site for arm in arms if arm.steers}):
    some = next(arm for arm in arms if arm.steers and arm.site == site)
    nothing = dataclasses.replace(some, coefficient=0.0)
    here = [
      arm if arm.steers and arm.site == site else nothing for arm, _ in rows
    ]
    edits.append(
      gj.steer(
        site,
        np.stack([arm.direction for arm in here]),
        layers=gj.per_row([arm.layer for arm in here]),
        coefficient=np.array([arm.coefficient for arm in here]),
        positions=gj.per_row(gates),
      )
    )
  return edits


def identity_of(questions: Sequence[Question], arms: Sequence[Arm]) -> dict:
  """Returns what tells questions and arms from others, in hashes."""
  asked = [(question.ids, question.span) for question in questions]
  done = [json.dumps(arm.to_dict()).encode() for arm in arms]
  done += [arm.direction.tobytes() for arm in arms if arm.direction is not None]
  return {
    'questions': of_value(asked),
    'arms': of_value(done),
  }


def _plan(questions, arms, lengths, rows_per_batch) -> list[list[Batch]]:
  """Batches, in groups that run with the same weights."""
  apart = [[i] for i, arm in enumerate(arms) if arm.weights]
  together = [i for i, arm in enumerate(arms) if not arm.weights]
  by_length = sorted(range(len(questions)), key=lambda q: lengths[q])
  groups = []
  for number, members in enumerate([together, *apart]):
    if not members:
      continue
    # What interventions do, a shared prefix is not subject to.
    chosen = [arms[i] for i in members]
    changed = any(arm.weights for arm in chosen)
    shared = 0 if changed else shared_tokens(questions, chosen)
    rows = [(arm, q) for q in by_length for arm in members]
    longest = lengths[by_length[-1]] - shared
    size = min(rows_per_batch, len(rows))
    group = []
    for start in range(0, len(rows), size):
      some = rows[start : start + size]
      # Halves of the longest: few programs, and at most half is padding.
      needed, length = lengths[some[-1][1]] - shared, longest
      while (length + 1) // 2 >= needed and length > 1:
        length = (length + 1) // 2
      name = f'{number:03d}-{len(group):05d}'
      group.append(Batch(name, some, size, length, shared))
    groups.append(group)
  return groups


def _prepare(model, arms, questions, batch) -> GroupContext:
  """Model, interventions of all rows, and prefix of a batch's group."""
  arm = arms[batch.rows[0][0]]
  everywhere = []
  if arm.weights:
    model, everywhere = ablate_weights(model, arm.direction, arm.weights)
  prefix = None
  if batch.shared:
    prefix = gj.share_prefix(model, questions[0].ids[: batch.shared])
  return GroupContext(model=model, everywhere=everywhere, prefix=prefix)
