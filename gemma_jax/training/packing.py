"""Prompts with completions as rows of tokens, several to a row if they fit."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np


class Example(NamedTuple):
  """Holds what a model learns to say after a prompt.

  Attributes:
    prompt: Token ids, BOS included where the model has one; at least one.
    completion: Token ids to learn, what ends the answer included; at least one.
    weight: How much its tokens count, beside those of other examples.
  """

  prompt: Sequence[int]
  completion: Sequence[int]
  weight: float = 1.0


class Packed(NamedTuple):
  """Rows of examples; R rows, T tokens, M places.

  Some of the rows are a batch: every array begins with R.

  Attributes:
    tokens: int32 [R, T], pad_id at padding.
    positions: int32 [R, T], from 0 in every example; -1 at padding.
    segments: int32 [R, T], the example's number; -1 at padding.
    learnt: bool [R, T], the tokens of completions.
    weights: float32 [R, T], the example's weight; 0 at padding.
    places: int32 [R, M], the columns of a row's learnt tokens, then -1. Logits
      are computed at so many places: M is the most that a row has, rounded up
      to a multiple of 8, so that other data seldom needs another program.
  """

  tokens: np.ndarray
  positions: np.ndarray
  segments: np.ndarray
  learnt: np.ndarray
  weights: np.ndarray
  places: np.ndarray


class Pairs(NamedTuple):
  """Two completions per prompt; row i of both is pair i.

  Attributes:
    chosen: The better ones, one example per row.
    rejected: The worse ones.
  """

  chosen: Packed
  rejected: Packed


def pack(
  examples: Sequence[Example], length: int, pad_id: int, *, pack: bool = True
) -> Packed:
  """Puts examples into rows of `length` tokens, padded on the right.

  First fit, decreasing: the longest example first, each into the first row
  that has room. Examples do not see each other, if `segments` is passed on to
  `forward`, and give what they give alone.

  Args:
    examples: At least one.
    length: T.
    pad_id: What fills empty places of `tokens`; the model does not see it.
    pack: If true, a row may hold several examples; else row i is example i.

  Raises:
    ValueError: an example has no prompt, nothing to learn, a negative token id
      or weight, or is longer than a row: it is named by its number.
  """
  _check(examples, length)
  sizes = [len(e.prompt) + len(e.completion) for e in examples]
  if pack:
    rows = _first_fit(sizes, length)
  else:
    rows = [[number] for number in range(len(sizes))]
  shape = len(rows), length
  tokens = np.full(shape, pad_id, np.int32)
  positions = np.full(shape, -1, np.int32)
  segments = np.full(shape, -1, np.int32)
  learnt = np.zeros(shape, bool)
  weights = np.zeros(shape, np.float32)
  for row, numbers in enumerate(rows):
    start = 0
    for number in numbers:
      example = examples[number]
      stop = start + sizes[number]
      tokens[row, start:stop] = [*example.prompt, *example.completion]
      positions[row, start:stop] = np.arange(sizes[number])
      segments[row, start:stop] = number
      learnt[row, start + len(example.prompt) : stop] = True
      weights[row, start:stop] = example.weight
      start = stop
  most = -(-learnt.sum(1).max() // 8) * 8
  places = np.full((len(rows), most), -1, np.int32)
  for row, columns in enumerate(map(np.flatnonzero, learnt)):
    places[row, : len(columns)] = columns
  return Packed(tokens, positions, segments, learnt, weights, places)


def pack_pairs(
  chosen: Sequence[Example],
  rejected: Sequence[Example],
  length: int,
  pad_id: int,
) -> Pairs:
  """Rows of pairs, for `dpo_loss`; arguments and errors as in `pack`.

  Raises:
    ValueError: numbers differ, or the prompts of a pair do, or its completions
      do not.
  """
  if len(chosen) != len(rejected):
    raise ValueError(
      f'{len(chosen)} chosen and {len(rejected)} rejected examples are no '
      'pairs.'
    )
  for number, (good, bad) in enumerate(zip(chosen, rejected, strict=True)):
    if list(good.prompt) != list(bad.prompt):
      raise ValueError(f'Pair {number} has two prompts; expected the same one.')
    if list(good.completion) == list(bad.completion):
      raise ValueError(f'Pair {number} prefers a completion to itself.')
  # Together, so that both have the same number of places.
  rows = pack([*chosen, *rejected], length, pad_id, pack=False)
  n = len(chosen)
  return Pairs(
    Packed(*(array[:n] for array in rows)),
    Packed(*(array[n:] for array in rows)),
  )


def draw(data, step: int, rows: int, seed: int = 0):
  """Returns the batch of a step: rows of every array, all once per epoch.

  Args:
    data: A pytree of arrays that begin with the same R, such as a Packed.
    step: From 0; the same step gets the same batch.
    rows: How many. A batch may end one epoch and begin the next.
    seed: Random seed of the order.
  """
  total = len(jax.tree.leaves(data)[0])
  numbers = step * rows + np.arange(rows)
  chosen = np.empty(rows, int)
  for epoch in np.unique(numbers // total):
    here = numbers // total == epoch
    order = np.random.default_rng([seed, epoch]).permutation(total)
    chosen[here] = order[numbers[here] % total]
  return jax.tree.map(lambda array: array[chosen], data)


def _check(examples, length):
  if not examples:
    raise ValueError('There are no examples to learn from.')
  for number, example in enumerate(examples):
    size = len(example.prompt) + len(example.completion)
    ids = (*example.prompt, *example.completion)
    if not len(example.completion):
      raise ValueError(
        f'Example {number} has an empty completion: nothing to learn, its loss '
        'mask would be empty. Leave it out.'
      )
    if not len(example.prompt):
      raise ValueError(
        f'Example {number} has an empty prompt: nothing predicts its first '
        'token. Begin the prompt with BOS, or with the first token.'
      )
    if size > length:
      raise ValueError(
        f'Example {number} has {size} tokens, a row {length}. Nothing is cut: '
        'use longer rows, or leave it out.'
      )
    if min(ids) < 0:
      raise ValueError(f'Example {number} has the token id {min(ids)}.')
    if not 0 <= example.weight < np.inf:
      raise ValueError(
        f'Example {number} has the weight {example.weight}, expected a number '
        'that is not negative.'
      )


def _first_fit(sizes: list[int], length: int) -> list[list[int]]:
  """Numbers of the examples of every row; ties keep their order."""
  rows, room = [], []
  for number in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
    fits = (row for row, free in enumerate(room) if sizes[number] <= free)
    row = next(fits, len(rows))
    if row == len(rows):
      rows.append([])
      room.append(length)
    rows[row].append(number)
    room[row] -= sizes[number]
  return rows
