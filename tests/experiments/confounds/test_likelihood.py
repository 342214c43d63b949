"""Correlations over tokens against numpy, and their intervals by documents."""

import numpy as np
import pytest

from experiments.confounds.likelihood import correlation, token_likelihood
from experiments.confounds.linear_readout import LinearReadout


def reader(threshold):
  return LinearReadout(
    name='one', label='known', site='resid_post', layer=0, id=None,
    weight=np.zeros(2, np.float32), bias=0.0, threshold=threshold,
  )  # fmt: skip


def documents(seed=0, count=60, effect=0.5):
  """ln p and two readers: one of p, and one that is constant."""
  rng = np.random.default_rng(seed)
  logp, values = [], []
  for _ in range(count):
    T = rng.integers(1, 9)
    p = rng.uniform(0.05, 1, T)
    x = effect * p + rng.normal(size=T) * 0.3 + rng.normal() * 0.2
    logp.append(np.log(p))
    values.append(np.stack([x, np.zeros(T)]).astype(np.float32))
  return logp, values


def test_numbers_are_those_of_numpy():
  logp, values = documents()
  found, silent = token_likelihood([reader(None), reader(0.5)], logp, values)
  p = np.exp(np.concatenate(logp))
  x = np.concatenate(values, axis=1)[0].astype(float)
  fires = x > 0
  assert found['r']['value'] == pytest.approx(np.corrcoef(x, p)[0, 1])
  assert found['r_log']['value'] == pytest.approx(
    np.corrcoef(x, np.log(p))[0, 1]
  )
  assert found['r_fires']['value'] == pytest.approx(np.corrcoef(fires, p)[0, 1])
  assert found['frequency']['value'] == pytest.approx(fires.mean())
  assert found['p_fires']['value'] == pytest.approx(p[fires].mean())
  assert found['p_silent']['value'] == pytest.approx(p[~fires].mean())
  assert found['r']['n'] == len(p) and found['documents'] == 60
  assert found['r']['low'] < found['r']['value'] < found['r']['high']
  assert silent['r']['value'] is None and silent['frequency']['value'] == 0
  assert silent['p_fires']['value'] is None


def test_documents_are_what_is_drawn():
  """Twice the tokens, all copies, are no more evidence."""
  logp, values = documents(count=40)
  doubled = [np.tile(one, 2) for one in logp]
  copies = [np.tile(one, 2) for one in values]
  (a, _), (b, _) = (
    token_likelihood([reader(None), reader(0.5)], *given)
    for given in ((logp, values), (doubled, copies))
  )
  assert b['r']['n'] == 2 * a['r']['n']
  assert b['r']['low'] == pytest.approx(a['r']['low'])


def test_intervals_cover_no_correlation():
  covered = 0
  for seed in range(100):
    logp, values = documents(seed, count=80, effect=0.0)
    (one, _) = token_likelihood([reader(None), reader(0.5)], logp, values, seed)
    covered += one['r']['low'] <= 0 <= one['r']['high']
  assert 87 <= covered <= 100


def test_squares_do_not_cancel():
  x = [np.array([1e8, 1e8 + 1, 1e8 + 2]), np.array([1e8 + 5, 1e8])]
  y = [np.array([1.0, 2.0, 3.0]), np.array([6.0, 1.0])]
  one = correlation(np.ones((3, 2)), x, y)
  assert one['value'] == pytest.approx(1.0) and one['n'] == 5


def test_too_few_documents():
  with pytest.raises(ValueError, match='1 documents'):
    token_likelihood(
      [reader(None)], [np.zeros(3), np.zeros(0)],
      [np.zeros((1, 3)), np.zeros((1, 0))],
    )  # fmt: skip
