"""Verdicts."""

import math

import pytest

from experiments.paper import INSIDE, MISSING, OUTSIDE, UNJUDGED, Claim, compare


def _claim(**changes):
  fields = {
    'section': 's',
    'what': 'w',
    'source': 'x',
    'experiment': 'e',
    'at': 'a',
  }
  return Claim(**(fields | changes))


ESTIMATE = {'value': 0.3, 'low': 0.2, 'high': 0.45, 'n': 50}


@pytest.mark.parametrize(
  ('claim', 'ours', 'verdict'),
  [
    (_claim(published=0.44), ESTIMATE, INSIDE),
    (_claim(published=0.46), ESTIMATE, OUTSIDE),
    (_claim(published=33, scale=100.0), ESTIMATE, INSIDE),
    (_claim(published=0.3), 0.3, UNJUDGED),
    (_claim(published=0.3, low=0.29, high=0.31), 0.3, INSIDE),
    # Bounds judge alone, whatever our interval.
    (_claim(published=0.44, low=0.4), ESTIMATE, OUTSIDE),
    (_claim(low=0.2), ESTIMATE, INSIDE),
    (_claim(high=-0.2, scale=-1.0), ESTIMATE, INSIDE),
    (_claim(published=-0.21, scale=-1.0), ESTIMATE, INSIDE),
    (_claim(published='resid_post.12/7957'), 'resid_post.12/7957', INSIDE),
    (_claim(published='resid_post.12/7957'), 'resid_post.12/1', OUTSIDE),
    (_claim(published=1), None, MISSING),
    (_claim(published=1), True, MISSING),
    (_claim(published=1), {'value': math.nan}, MISSING),
    (_claim(published=1), [1], MISSING),
  ],
)
def test_verdict(claim, ours, verdict):
  assert compare(claim, {'e': {'a': ours}}).verdict == verdict


def test_interval_is_turned_with_its_sign():
  row = compare(_claim(published=0, scale=-2.0), {'e': {'a': ESTIMATE}})
  assert (row.value, row.low, row.high, row.n) == (-0.6, -0.9, -0.4, 50)


def test_missing_says_why():
  claim = _claim(published=1)
  assert 'has not run' in compare(claim, {}).why
  assert "no 'a'" in compare(claim, {'e': {}}).why
  never = _claim(published=1, experiment='', at='', note='Gemma 1')
  assert compare(never, {}).why == 'Gemma 1'


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    ({}, 'claims nothing'),
    ({'published': 1, 'at': ''}, 'both'),
    ({'published': 1, 'at': '', 'experiment': ''}, 'does not say why'),
  ],
)
def test_malformed(changes, says):
  with pytest.raises(ValueError, match=says):
    _claim(**changes)
