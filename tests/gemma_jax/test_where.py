"""Layers, positions and heads: Selection against lists and loops in Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gemma_jax as gj
from gemma_jax.text.spans import Span
from gemma_jax.where import select

# Padding, each place there may be, and one beyond every index.
SIZE = 9
AT = np.array([[-1, *range(SIZE), SIZE + 40]])


_gate = jax.jit(lambda selection, at: selection.gate(at))


def gates(selection, last=None, at=AT):
  """Rows of {index: gate}, those that are not 0."""
  if last is not None:
    selection = selection.resolved(jnp.asarray(last))
  weights = np.asarray(_gate(selection, np.asarray(at, np.int32)))
  at = np.broadcast_to(at, weights.shape)
  return [
    {int(i): float(g) for i, g in zip(*row, strict=True) if g}
    for row in zip(at, weights, strict=True)
  ]


def chosen(selection, last=None):
  """Each row's chosen indices, all of gate 1."""
  rows = gates(selection, last)
  assert all(gate == 1 for row in rows for gate in row.values())
  return [sorted(row) for row in rows]


def position(indices):
  return select(indices, 'position', last=True)


def some_of(rng):
  return sorted(rng.permutation(SIZE)[: rng.integers(0, SIZE + 1)].tolist())


@pytest.mark.parametrize('seed', range(8))
def test_random_selections_for_every_row(seed):
  rng = np.random.default_rng(seed)
  ids = some_of(rng)
  shuffled = rng.permutation(np.array(ids, int))
  a, b = sorted(rng.integers(0, SIZE + 1, 2).tolist())
  mask = np.isin(np.arange(SIZE), ids)
  for said, want in (
    (ids, ids),
    (tuple(ids), ids),
    (shuffled, ids),
    (jnp.asarray(shuffled, jnp.int32), ids),
    (range(a, b), list(range(a, b))),
    (Span(a, b), list(range(a, b))),
    (range(a, b, 2), list(range(a, b, 2))),
    (mask, ids),
    (mask.astype(float), ids),
    (mask.tolist(), ids),
    (a, [a]),
    (np.int32(a), [a]),
  ):
    if a == SIZE:
      want = [SIZE] if want == [a] else want
    want = [i for i in want if i in AT]
    assert chosen(position(said)) == [want], said


@pytest.mark.parametrize('seed', range(8))
def test_random_selections_per_row(seed):
  rng = np.random.default_rng(seed)
  rows = [some_of(rng) for _ in range(3)]
  rows[0] = rows[0] or [2]  # not all rows are empty
  longest = max(map(len, rows))
  filled = [r + [-1] * (longest - len(r)) for r in rows]
  gaps = [rng.permutation(row) for row in filled]  # -1 anywhere
  stretches = [sorted(rng.integers(0, SIZE, 2).tolist()) for _ in range(3)]
  ranges = [range(a, b) for a, b in stretches]
  mask = np.array([np.isin(np.arange(SIZE), row) for row in rows])
  one = rng.integers(0, SIZE, 3)
  for said, want in (
    (rows, rows),
    (filled, rows),
    (np.array(gaps), rows),
    (ranges, [list(r) for r in ranges]),
    ([Span(*each) for each in stretches], [list(r) for r in ranges]),
    (mask, rows),
    (mask.astype(np.float32), rows),
    (one, [[i] for i in one]),
    (one.tolist(), [[i] for i in one]),
  ):
    got = chosen(position(gj.per_row(said)))
    assert got == [list(map(int, row)) for row in want], said


def test_all_and_none():
  everything = [i for i in AT[0] if i >= 0]
  assert chosen(select(None, 'layer')) == [everything]
  for nothing in ([], (), np.zeros(0, int), np.zeros(SIZE), range(3, 3)):
    assert chosen(position(nothing)) == [[]], nothing
  assert chosen(position(gj.per_row([[], [4, 2], []]))) == [[], [2, 4], []]
  assert chosen(position(gj.per_row([[-1, -1], [3, -1]]))) == [[], [3]]
  again = position([1, 3])
  assert position(again) is again


@pytest.mark.parametrize('seed', range(5))
def test_weights_are_gates(seed):
  rng = np.random.default_rng(seed)
  weights = rng.uniform(-2, 2, (3, SIZE)).astype(np.float32)
  want = [{i: float(g) for i, g in enumerate(row)} for row in weights]
  assert gates(position(gj.per_row(weights))) == want
  assert gates(position(weights[0])) == want[:1]
  # Rows of indices of their own, against a mask for all.
  at = rng.integers(-1, SIZE, (4, 6))
  got = np.asarray(position(weights[0]).gate(jnp.asarray(at)))
  np.testing.assert_array_equal(got, np.where(at >= 0, weights[0][at], 0))


def test_last_is_each_rows_last():
  last = [4, 0, 7]
  assert chosen(position('last'), last) == [[4], [0], [7]]
  # Once it is known, tokens that follow do not move it.
  resolved = position('last').resolved(jnp.asarray(last))
  assert chosen(resolved, [8, 8, 8]) == [[4], [0], [7]]
  for other in (3, [1, 5], None, np.ones(SIZE), gj.before(2)):
    selection = position(other)
    assert chosen(selection, last) == chosen(selection)


@pytest.mark.parametrize('length', [0, 1, 5, SIZE])
def test_before_and_since_split_positions(length):
  """A prompt's tokens, and what is generated; -1 is in neither."""
  there = AT[0][AT[0] >= 0]
  prompt, new = gj.before(length), gj.since(length)
  assert chosen(prompt) == [[i for i in there if i < length]]
  assert chosen(new) == [[i for i in there if i >= length]]
  rows = gj.before([length, 2])
  assert chosen(rows) == chosen(prompt) + [[0, 1]]
  assert chosen(gj.since(np.array([length, 2])))[0] == chosen(new)[0]


@pytest.mark.parametrize('width', [1, 2, 3, 4, 9])
def test_layer_windows_are_those_of_geva_et_al(width):
  """Their `wnd` code: from layer - width // 2, width layers, in the model."""
  L = 7
  want = [
    [i for i in range(c - width // 2, c - width // 2 + width) if 0 <= i < L]
    for c in range(L)
  ]
  assert chosen(gj.layer_window(gj.per_row(range(L)), width, L)) == want
  for center in range(L):
    assert chosen(gj.layer_window(center, width, L)) == [want[center]]


def test_traced_values_choose_what_concrete_ones_do():
  """Under jit, and under vmap as a row each."""
  at = jnp.asarray(AT, jnp.int32)
  gate = lambda x: position(x).gate(at)
  rows = lambda x: position(gj.per_row(x)).gate(at)
  rng = np.random.default_rng(0)
  for function, x in (
    (gate, np.int32(4)),
    (gate, np.array([1, 2, 5], np.int32)),
    (gate, np.array([6, 1], np.int32)),
    (gate, rng.uniform(size=SIZE).astype(np.float32)),
    (rows, np.array([3, 1, 8], np.int32)),
    (rows, np.array([[3, -1, 2], [0, 5, 8]], np.int32)),
    (rows, rng.uniform(size=(3, SIZE)).astype(np.float32)),
  ):
    np.testing.assert_array_equal(jax.jit(function)(x), function(x))
  numbers = jnp.arange(5)
  np.testing.assert_array_equal(
    jax.vmap(gate)(numbers), [gate(int(i)) for i in numbers]
  )
  windows = jax.jit(lambda c: gj.layer_window(gj.per_row(c), 3, SIZE).gate(at))(
    numbers
  )
  np.testing.assert_array_equal(
    windows, [gj.layer_window(int(i), 3, SIZE).gate(at)[0] for i in numbers]
  )
  lengths = jax.jit(lambda n: gj.since(n).gate(at))(jnp.array([2, 4]))
  np.testing.assert_array_equal(lengths, gj.since([2, 4]).gate(at))


def test_a_traced_last_is_resolved():
  """A selection that is an argument of jit may be 'last' or not."""
  function = jax.jit(
    lambda selection, last: selection.resolved(last).gate(jnp.asarray(AT))
  )
  last = jnp.array([3, 5])
  for said in ('last', 2, range(1, 4), None):
    want = position(said).resolved(last).gate(jnp.asarray(AT))
    got = np.broadcast_to(function(position(said), last), (2, AT.shape[1]))
    np.testing.assert_array_equal(got, np.broadcast_to(want, got.shape))


@pytest.mark.parametrize('rowwise', [False, True])
def test_weights_have_gradients(rowwise):
  """Of a sum of gates: how often each index was asked for, by row."""
  rng = np.random.default_rng(1)
  at = rng.integers(-1, SIZE, (3, 20))

  def total(weights):
    said = gj.per_row(weights) if rowwise else weights
    return (position(said).gate(jnp.asarray(at)) ** 2).sum() / 2

  weights = rng.uniform(size=(3, SIZE) if rowwise else SIZE)
  counts = np.array([np.bincount(row[row >= 0], minlength=SIZE) for row in at])
  counts = counts if rowwise else counts.sum(0)
  got = jax.jit(jax.grad(total))(weights.astype(np.float32))
  np.testing.assert_allclose(got, counts * weights, rtol=1e-5)


def test_indices_are_what_was_said():
  """What checks and messages read; a row that chooses all has all."""
  rows = lambda s: [row.tolist() for row in s.indices(SIZE)]
  assert rows(position([5, 1])) == [[1, 5]]
  assert rows(position(range(2, 40))) == [list(range(2, 40))], 'out of range'
  assert rows(position(None)) == [list(range(SIZE))]
  assert rows(gj.since(6)) == [[6, 7, 8]]
  assert rows(position(gj.per_row([[3, -1], [4, 2]]))) == [[3], [2, 4]]
  assert rows(position(np.arange(SIZE) == 4)) == [[4]]
  assert jax.jit(lambda x: x.indices(SIZE) is None)(position(3))
  assert position(None).is_all and gj.since(0).is_all
  assert not any(position(s).is_all for s in (0, range(SIZE), 'last', [0]))


@pytest.mark.parametrize(
  'said, words',
  [
    (-1, "position -1 .*'last'"),
    ([0, -1], 'position -1 .*Count from 0'),
    (range(-2, 2), 'position -2'),
    ([3, 3], r'\[3, 3\] of one row are repeated'),
    ([0, 1, 1, 0], 'mask of 0 and 1 must be bool or float'),
    ([[1], [2]], 'per_row'),
    (np.ones((2, SIZE)), 'per_row'),
    ('first', "only word is 'last'"),
    (2.0, 'must be integers'),
    (gj.per_row(3), r'per_row takes \[R\] or \[R, m\]'),
    (gj.per_row([[[1]]]), r'\(1, 1, 1\)'),
    (gj.per_row([2, -1]), r'position -1 \(row 1\)'),
    (gj.per_row([[2, 3], [4, -2]]), r'position -2 \(row 1\)'),
    (gj.per_row([[2, 2], [4, 5]]), 'repeated'),
    (gj.per_row([range(3), range(0, 6, 2)]), 'row 1 are range.*steps of 1'),
    (gj.per_row([range(-1, 3)]), 'row 0'),
    (gj.per_row(np.ones(SIZE)), r'expected \[R, size\]'),
  ],
)
def test_refused(said, words):
  with pytest.raises(ValueError, match=words):
    position(said)


def test_messages_name_what_is_counted():
  with pytest.raises(ValueError, match='head -3'):
    select(-3, 'head')
  with pytest.raises(ValueError, match='layers=.last.*no word is understood'):
    select('last', 'layer')
