"""Answers of all arms to all questions.

A row is one question under one arm. Direction, layer, coefficient and
positions are data of the row, so one compiled program answers all arms that
steer the same site; only where weights are changed do rows run apart. What all
questions begin with, the template's opening, is run once.

Rows are put together by the length of their questions and run in batches of a
fixed size. An answer depends on neither.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import tqdm

from experiments import outputs
from experiments.steering.arms import Arm, steered_positions
from experiments.steering.orthogonalise import orthogonalise
from experiments.steering.questions import Question
import gemma_jax as gj

_IDENTITY_FILE = 'run.json'


@dataclasses.dataclass(frozen=True)
class _Batch:
  """Rows that run together.

  Attributes:
    name: Of the file that keeps their answers.
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


def generate_answers(
  model: gj.Gemma2,
  questions: Sequence[Question],
  arms: Sequence[Arm],
  *,
  stop_ids: Sequence[int],
  max_new_tokens: int = 30,
  rows_per_batch: int = 256,
  folder: str | os.PathLike | None = None,
  identity: Mapping | None = None,
  description: str = 'Answering',
) -> list[list[list[int]]]:
  """Greedy answers of every arm to every question.

  Args:
    model: The chat model, stacked.
    questions: Q of them.
    arms: A of them.
    stop_ids: An answer ends with one of these; [] goes on to the last token.
    max_new_tokens: At most so many tokens per answer.
    rows_per_batch: B: bounds memory.
    folder: Where answers are kept batch by batch. Called again with the same
      arguments, those that are there are not made anew.
    identity: What answers depend on besides the other arguments: the model.
    description: Of the progress bar.

  Returns:
    Token ids of the answers, [A][Q], stop token included.

  Raises:
    ValueError: the folder has answers to other questions or of other arms, or
      an arm does not fit the model.
  """
  batches = _plan(questions, arms, rows_per_batch)
  folder = None if folder is None else pathlib.Path(folder)
  if folder is not None:
    names = [
      folder / f'{batch.name}.json' for group in batches for batch in group
    ]
    about = _identity(questions, arms, stop_ids, max_new_tokens, rows_per_batch)
    outputs.check_same_run(
      folder / _IDENTITY_FILE,
      {**about, **(identity or {})},
      resumes=any(name.is_file() for name in names),
    )
  answers = [[None] * len(questions) for _ in arms]
  total = len(arms) * len(questions)
  with tqdm.tqdm(total=total, desc=description, unit='answer') as progress:
    for group in batches:
      ready = None  # made where there is something left to answer
      for batch in group:
        found = _read(folder, batch)
        if found is None:
          ready = ready or _prepare(model, arms, questions, batch)
          found = _run(*ready, questions, arms, batch, stop_ids, max_new_tokens)
          _write(folder, batch, found)
        for (arm, question), ids in zip(batch.rows, found, strict=True):
          answers[arm][question] = ids
        progress.update(len(batch.rows))
  return answers


def shared_tokens(questions: Sequence[Question], arms: Sequence[Arm]) -> int:
  """How many first tokens are the same in all questions, and not steered."""
  first, modes = questions[0].ids, {a.positions for a in arms if a.steers}
  shared = min(question.length for question in questions) - 1
  for question in questions:
    starts = [steered_positions(mode, question)[0] for mode in modes]
    shared = min(shared, *starts) if starts else shared
    while question.ids[:shared] != first[:shared]:
      shared -= 1
  return shared


def _plan(questions, arms, rows_per_batch) -> list[list[_Batch]]:
  """Batches, in groups that run with the same weights."""
  apart = [[i] for i, arm in enumerate(arms) if arm.weights]
  together = [i for i, arm in enumerate(arms) if not arm.weights]
  by_length = sorted(range(len(questions)), key=lambda q: questions[q].length)
  groups = []
  for number, members in enumerate([together, *apart]):
    if not members:
      continue
    # What interventions do, a shared prefix is not subject to.
    chosen = [arms[i] for i in members]
    changed = any(arm.weights for arm in chosen)
    shared = 0 if changed else shared_tokens(questions, chosen)
    rows = [(arm, q) for q in by_length for arm in members]
    longest = questions[by_length[-1]].length - shared
    size = min(rows_per_batch, len(rows))
    group = []
    for start in range(0, len(rows), size):
      some = rows[start : start + size]
      # Halves of the longest: few programs, and at most half is padding.
      needed, length = questions[some[-1][1]].length - shared, longest
      while (length + 1) // 2 >= needed and length > 1:
        length = (length + 1) // 2
      group.append(
        _Batch(
          name=f'{number:03d}-{len(group):05d}',
          rows=some,
          size=size,
          length=length,
          shared=shared,
        )
      )
    groups.append(group)
  return groups


def _prepare(model, arms, questions, batch):
  """Model, interventions of all rows, and prefix of a group."""
  arm = arms[batch.rows[0][0]]
  everywhere = {}
  if arm.weights:
    model, everywhere = orthogonalise(model, arm.direction, arm.weights)
  prefix = None
  if batch.shared:
    prefix = gj.share_prefix(model, questions[0].ids[: batch.shared])
  return model, everywhere, prefix


def _run(
  model, everywhere, prefix, questions, arms, batch, stop_ids, max_new_tokens
) -> list[list[int]]:
  """Token ids of the answers of a batch."""
  rows = batch.rows + batch.rows[-1:] * (batch.size - len(batch.rows))
  asked = [questions[question] for _, question in rows]
  padded = gj.pad_rows(
    [question.ids[batch.shared :] for question in asked],
    model.config.pad_id,
    buckets=batch.length,
  )
  positions = np.where(
    padded.positions < 0, -1, padded.positions + batch.shared
  )
  capacity = batch.shared + batch.length + max_new_tokens
  steering = _steering(
    model.config, [arms[arm] for arm, _ in rows], asked, arms, capacity
  )
  made = gj.generate(
    model,
    padded.tokens,
    positions,
    max_new_tokens=max_new_tokens,
    stop_ids=stop_ids,
    interventions=everywhere or steering,
    prefix=prefix,
  )
  tokens, lengths = np.asarray(made.tokens), np.asarray(made.lengths)
  return [
    tokens[row, : lengths[row]].tolist() for row in range(len(batch.rows))
  ]


def _steering(config, row_arms, asked, arms, capacity) -> gj.Interventions:
  """One edit per site that any arm steers: what each row adds there.

  Rows of other sites, and of the original, add 0.
  """
  gates = np.zeros((len(asked), capacity), np.float32)  # [B, S]
  for gate, arm, question in zip(gates, row_arms, asked, strict=True):
    if arm.steers:
      gate[slice(*steered_positions(arm.positions, question))] = 1
      gate[question.length :] = arm.generated
  interventions = {}
  for site in sorted({arm.site for arm in arms if arm.steers}):
    D = gj.site_width(config, site)
    here = [arm.steers and arm.site == site for arm in row_arms]
    pick = lambda value, default, here=here: [
      value(arm) if mine else default
      for arm, mine in zip(row_arms, here, strict=True)
    ]
    edit = gj.steer(
      config,
      site,
      jnp.asarray(np.stack(pick(lambda arm: arm.direction, np.zeros(D)))),
      layers=pick(lambda arm: arm.layer, 0),
      coefficient=np.asarray(pick(lambda arm: arm.coefficient, 0.0)),
      positions=gates,
      num_positions=capacity,
    )
    interventions[site] = (edit,)
  return interventions


def _read(folder, batch) -> list[list[int]] | None:
  if folder is None or not (file := folder / f'{batch.name}.json').is_file():
    return None
  return json.loads(file.read_text(encoding='utf-8'))


def _write(folder, batch, found):
  if folder is not None:
    outputs.write_text(folder / f'{batch.name}.json', json.dumps(found))


def _identity(questions, arms, stop_ids, max_new_tokens, rows_per_batch):
  """What answers depend on, in words and hashes."""
  asked = [(question.ids, question.span) for question in questions]
  done = [json.dumps(arm.to_dict()).encode() for arm in arms]
  done += [arm.direction.tobytes() for arm in arms if arm.direction is not None]
  return {
    'questions': hashlib.sha256(repr(asked).encode()).hexdigest(),
    'arms': hashlib.sha256(b'\0'.join(done)).hexdigest(),
    'stop_ids': list(map(int, stop_ids)),
    'max_new_tokens': max_new_tokens,
    'rows_per_batch': rows_per_batch,
  }
