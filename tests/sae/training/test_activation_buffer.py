"""Every row is used once, in an order that the number of the update gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae.training.activation_buffer import ActivationBuffer, ActivationsEnded
from sae.training.recipe import TrainConfig

CONFIG = TrainConfig(width=4, num_steps=7, batch_size=4, bucket_size=12)
ROWS = np.arange(100 * 3, dtype=np.float32).reshape(100, 3)


def pieces(rows, sizes):
  at = 0
  for size in sizes:
    yield rows[at : at + size]
    at += size


def used(buckets, number):
  """The rows of a bucket in the order of use; the last bucket is short."""
  buckets.load(number)
  n = min(12, 28 - 12 * number)
  return np.asarray(buckets.array)[0][np.asarray(buckets.order)[:n]]


@pytest.mark.parametrize('sizes', [[100], [1] * 100, [5] * 20, [12, 0, 40, 48]])
def test_every_row_once(sizes):
  buckets = ActivationBuffer(CONFIG, pieces(ROWS, sizes))
  assert buckets.shape == (1, 3)
  for number, n in enumerate([12, 12, 4]):
    got = used(buckets, number)
    assert len(got) == n
    want = ROWS[12 * number :][:n]
    assert not np.array_equal(got, want)  # shuffled
    np.testing.assert_array_equal(np.sort(got[:, 0]), want[:, 0])


def test_masked_rows_are_left_out():
  keep = np.arange(100) % 3 != 0

  def stream():
    for i in range(10):
      part = slice(10 * i, 10 * i + 10)
      yield np.where(keep[part, None], ROWS[part], np.nan), keep[part]

  buckets = ActivationBuffer(CONFIG, stream())
  got = np.concatenate([used(buckets, number) for number in range(3)])
  np.testing.assert_array_equal(np.sort(got[:, 0]), ROWS[keep][:28, 0])


@pytest.mark.parametrize('form', ['iterable', 'function'])
def test_opened_in_the_middle(form):
  whole = ActivationBuffer(CONFIG, pieces(ROWS, [7] * 10))
  for number in range(2):
    used(whole, number)
  source = pieces(ROWS, [7] * 10)
  if form == 'function':
    source = lambda first: pieces(ROWS[first:], [9] * 9)
  resumed = ActivationBuffer(
    CONFIG, source, first_step=6
  )  # the third bucket's first
  np.testing.assert_array_equal(used(resumed, 2), used(whole, 2))


def test_several_sources_and_device_arrays():
  x = np.stack([ROWS, -ROWS, 2 * ROWS])
  buckets = ActivationBuffer(CONFIG, iter([jnp.asarray(x, jnp.bfloat16)]))
  buckets.load(0)
  assert buckets.shape == (3, 3)
  assert buckets.array.dtype == jnp.bfloat16
  np.testing.assert_array_equal(buckets.array[0], -buckets.array[1])
  norms = np.sqrt((ROWS[:12] ** 2).sum(1).mean())
  np.testing.assert_allclose(
    buckets.scale(), norms * np.array([1, 1, 2]), rtol=1e-2
  )


def test_rows_are_split_over_devices():
  axes = (jax.sharding.AxisType.Auto,) * 2
  mesh = jax.make_mesh((4, 2), ('data', 'model'), axes)
  buckets = ActivationBuffer(CONFIG, iter([ROWS]), mesh=mesh)
  buckets.load(0)
  assert buckets.array.sharding.shard_shape((1, 12, 3)) == (1, 3, 3)
  np.testing.assert_array_equal(buckets.array[0], ROWS[:12])


def test_ends_and_errors():
  with pytest.raises(ActivationsEnded, match='after 0 rows'):
    ActivationBuffer(CONFIG, [])
  buckets = ActivationBuffer(CONFIG, [ROWS[:11]])
  with pytest.raises(ActivationsEnded, match='after 11 rows'):
    buckets.load(0)
  with pytest.raises(ValueError, match='next, not 2'):
    ActivationBuffer(CONFIG, [ROWS]).load(2)
  for bad, words in [
    (ROWS.astype(int), 'int64'),
    (ROWS[0], r'\(3,\)'),
    ((ROWS, np.ones(99, bool)), '99'),
    ((ROWS, np.ones(100)), 'float64'),
  ]:
    with pytest.raises(ValueError, match=words):
      ActivationBuffer(CONFIG, [bad])
  with pytest.raises(ValueError, match='width 2, after 1 of width 3'):
    ActivationBuffer(CONFIG, [ROWS[:5], ROWS[:, :2]]).load(0)
