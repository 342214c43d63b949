"""Packing: rows hold every example once, and examples do not see each other."""

import jax
import numpy as np
import pytest

import gemma_jax as gj
from gemma_jax.training import Example, draw, pack, pack_pairs
from tests import tiny
from tests.gemma_jax.training.examples import random_examples

LENGTH = 32


@pytest.mark.parametrize('together', [True, False])
def test_every_example_is_there_once(together):
  examples = random_examples(23, seed=1)
  rows = pack(examples, LENGTH, pad_id=0, pack=together)
  for number, example in enumerate(examples):
    at = rows.segments == number
    assert len(set(np.nonzero(at)[0])) == 1, 'in one row'
    assert np.diff(np.nonzero(at)[1]).tolist() == [1] * (at.sum() - 1)
    ids = [*example.prompt, *example.completion]
    assert rows.tokens[at].tolist() == ids
    assert rows.positions[at].tolist() == list(range(len(ids)))
    assert rows.tokens[at & rows.learnt].tolist() == example.completion
    if not together:
      assert at[number].any() and rows.positions[number, 0] == 0
  empty = rows.segments == -1
  assert (rows.positions[empty] == -1).all() and not rows.learnt[empty].any()
  assert (rows.tokens[empty] == 0).all() and (rows.weights[empty] == 0).all()
  for row, places in enumerate(rows.places):
    want = np.flatnonzero(rows.learnt[row])
    assert places[places >= 0].tolist() == want.tolist()
  assert rows.places.shape[1] % 8 == 0


def test_first_fit_decreasing_by_hand():
  """7 + 3 and 6 + 2 + 2 fill rows of ten; the order of input would need 3."""
  sizes = [3, 2, 6, 7, 2]
  examples = [Example([5], [6] * (size - 1)) for size in sizes]
  rows = pack(examples, 10, pad_id=0)
  got = [sorted(set(row) - {-1}) for row in rows.segments.tolist()]
  assert got == [[0, 3], [1, 2, 4]]


@pytest.mark.parametrize(
  'example, message',
  [
    (Example([4], []), 'Example 2 has an empty completion.*loss mask'),
    (Example([], [4]), 'Example 2 has an empty prompt'),
    (Example([4] * 30, [5] * 3), 'Example 2 has 33 tokens, a row 32'),
    (Example([4], [-1]), 'Example 2 has the token id -1'),
    (Example([4], [5], np.nan), 'Example 2 has the weight nan'),
  ],
)
def test_what_cannot_be_learnt_is_named(example, message):
  with pytest.raises(ValueError, match=message):
    pack([*random_examples(2), example], LENGTH, pad_id=0)


def test_an_example_as_long_as_a_row_fits():
  rows = pack([Example([4] * 30, [5] * 2)], LENGTH, pad_id=0)
  assert (rows.positions == np.arange(LENGTH)).all()


def test_no_examples_are_refused():
  with pytest.raises(ValueError, match='no examples'):
    pack([], LENGTH, pad_id=0)


def test_pairs():
  first, second = random_examples(2)
  pairs = pack_pairs(
    [first, second],
    [first._replace(completion=[9]), second._replace(completion=[8, 9, 9])],
    LENGTH,
    pad_id=0,
  )
  assert jax.tree.map(np.shape, pairs.chosen) == jax.tree.map(
    np.shape, pairs.rejected
  )
  assert pairs.rejected.tokens[1][pairs.rejected.learnt[1]].tolist() == [
    8,
    9,
    9,
  ]
  with pytest.raises(ValueError, match='Pair 1 has two prompts'):
    pack_pairs([first, second], [first._replace(completion=[9]), first], 32, 0)
  with pytest.raises(ValueError, match='Pair 0 prefers a completion to itself'):
    pack_pairs([first], [first], 32, 0)
  with pytest.raises(ValueError, match='1 chosen and 2 rejected'):
    pack_pairs([first], [first, second], 32, 0)


@pytest.mark.parametrize('rows', [3, 5, 12])
def test_an_epoch_has_every_row_once(rows):
  data = {'x': np.arange(5)}
  seen = np.concatenate([draw(data, step, rows)['x'] for step in range(20)])
  for epoch in seen[: len(seen) // 5 * 5].reshape(-1, 5):
    assert sorted(epoch) == [0, 1, 2, 3, 4]
  again = draw(data, 7, rows)['x']
  np.testing.assert_array_equal(again, seen[7 * rows : 8 * rows])
  other = np.concatenate([draw(data, s, rows, seed=1)['x'] for s in range(20)])
  assert (other != seen).any()


# Llama: rotary; Gemma 2: a window of 5 in every second layer; GPT-2: learned.
@pytest.mark.parametrize('family', ['llama', 'gemma2', 'gpt2'])
@pytest.mark.parametrize('chunk', [LENGTH, 10])
def test_packed_examples_are_as_if_alone(family, chunk):
  """Also where queries are attended to in chunks that cut examples."""
  model = tiny.pair(family=family)[1]
  if chunk == LENGTH:
    model = gj.unstack_layers(model)
  examples = random_examples(9, seed=2)
  rows = pack(examples, LENGTH, pad_id=0)
  assert len(rows.tokens) < 5
  look = gj.capture('pattern', 'resid_post')
  run = jax.jit(gj.forward, static_argnames=('logits_at', 'query_chunk'))
  packed = run(
    model,
    rows.tokens,
    rows.positions,
    segments=rows.segments,
    capture=look,
    logits_at='all',
    query_chunk=chunk,
  )
  alone = pack(examples, LENGTH, pad_id=0, pack=False)
  single = run(
    model, alone.tokens, alone.positions, capture=look, logits_at='all'
  )
  for number in range(len(examples)):
    here, there = rows.segments == number, alone.segments == number
    for site in ('logits', 'resid_post'):
      a, b = (
        np.asarray(out.logits if site == 'logits' else out[site, 4])
        for out in (packed, single)
      )
      np.testing.assert_allclose(a[here], b[there], atol=5e-5)
    # What is looked at outside of the example is exactly nothing.
    row = np.nonzero(here)[0][0]
    pattern = np.asarray(packed['pattern', 3])[row][:, here[row]]
    assert (pattern[..., ~here[row]] == 0).all()


def test_segments_do_not_go_with_what_needs_places():
  model = tiny.pair()[1]
  tokens = np.full((2, 4), 5, np.int32)
  segments = np.zeros_like(tokens)
  positions = np.tile(np.arange(4, dtype=np.int32), (2, 1))
  refused = {
    'a prefix': {'prefix': gj.share_prefix(model, [5, 6])},
    'a cache': {
      'cache': gj.share_prefix(model, [5, 6]),
      'cache_is_empty': True,
    },
    'interventions': {
      'interventions': [gj.steer('resid_post', np.ones(40), layers=1)]
    },
    'captured positions': {
      'capture': gj.capture('resid_post', positions='last')
    },
    'logits_at': {'logits_at': 'last'},
  }
  for name, more in refused.items():
    with pytest.raises(ValueError, match=f'do not go with {name}'):
      gj.forward(model, tokens, positions, segments=segments, **more)
  with pytest.raises(ValueError, match=r'segments have shape \(4,\)'):
    gj.forward(model, tokens, positions, segments=segments[0])
