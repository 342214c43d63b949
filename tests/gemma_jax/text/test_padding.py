"""Rows to batches: shapes, sides, positions."""

import numpy as np
import pytest

from gemma_jax.text.padding import BUCKETS, check_buckets, pad_rows


@pytest.mark.parametrize('side', ['left', 'right'])
def test_rows_stand_where_starts_says(side):
  rows = [[7], [8, 9, 10], []]
  batch = pad_rows(rows, 5, side=side, buckets=(2, 4))
  tokens, positions = batch
  assert tokens.shape == positions.shape == (3, 4)
  assert tokens.dtype == positions.dtype == batch.starts.dtype == np.int32
  for row, ids in enumerate(rows):
    start = batch.starts[row]
    assert tokens[row, start : start + len(ids)].tolist() == ids
    assert positions[row, start : start + len(ids)].tolist() == [
      *range(len(ids))
    ]
    there = positions[row] >= 0
    assert there.sum() == len(ids)
    assert (tokens[row][~there] == 5).all() and (positions[row] >= -1).all()
  assert batch.starts[:2].tolist() == ([3, 1] if side == 'left' else [0, 0])


def test_left_is_the_default_and_gives_all_rows_one_end():
  _, positions = pad_rows([[1], [1, 2]], 0)
  assert (positions[:, -1] == [0, 1]).all()


def test_lengths_are_few():
  shapes = {pad_rows([[1] * n], 0).tokens.shape[1] for n in range(1, 1025)}
  assert shapes == {16, 32, 64, 128, 256, 512, 1024}


@pytest.mark.parametrize(
  ('longest', 'length'), [(0, 3), (3, 3), (4, 10), (10, 10)]
)
def test_the_smallest_bucket_that_fits(longest, length):
  rows = [[1] * longest, [1] * (longest // 2)]
  assert pad_rows(rows, 0, buckets=(3, 10)).tokens.shape == (2, length)


def test_no_rows():
  assert pad_rows([], 0, buckets=8).tokens.shape == (0, 8)


def test_nothing_is_cut():
  with pytest.raises(
    ValueError, match='Row 1 has 9 tokens.*bucket 8.*truncate'
  ):
    pad_rows([[1], [1] * 9], 0, buckets=(4, 8))
  with pytest.raises(ValueError, match='8193.*8192'):
    pad_rows([[1] * 8193], 0)


@pytest.mark.parametrize('buckets', [(), (4, 4), (8, 4), 0, -1, (0, 4)])
def test_malformed_buckets(buckets):
  with pytest.raises(ValueError, match='increasing positive'):
    check_buckets(buckets)


def test_unknown_side():
  with pytest.raises(ValueError, match="'middle'"):
    pad_rows([[1]], 0, side='middle')


def test_the_largest_bucket_is_gemmas_context():
  assert check_buckets(BUCKETS)[-1] == 8192
