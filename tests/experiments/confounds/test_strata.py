"""Comparisons inside strata against loops, and planted confounds."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from experiments.confounds.strata import (
  balance,
  compare,
  make_strata,
  resamples,
)
from tests.experiments.confounds import names


def loop(known, strata, fires, values):
  """Mantel-Haenszel difference, and pairs in order, stratum by stratum."""
  total = weight = right = pairs = 0.0
  for s in set(strata.tolist()):
    a, b = ((strata == s) & side for side in (known, ~known))
    n1, n0 = a.sum(), b.sum()
    if n1 and n0:
      w = n1 * n0 / (n1 + n0)
      total += w * (fires[a].mean() - fires[b].mean())
      weight += w
      for x in values[a]:
        for y in values[b]:
          right += (x > y) + 0.5 * (x == y)
          pairs += 1
  return total / weight, right / pairs


def test_strata_are_exact_in_tokens_and_in_quantile_bins_else():
  people, found, _, _ = names.confounded(80)
  strata = make_strata(people, found, bins=3)
  edges = np.quantile(names.column(found, 'surprisal'), [1 / 3, 2 / 3])
  cells = [
    (e, tokens, int((surprisal >= edges).sum()))
    for e, tokens, surprisal in zip(
      people.type_of,
      names.column(found, 'tokens'),
      names.column(found, 'surprisal'),
      strict=True,
    )
  ]
  same = np.array([[a == b for b in cells] for a in cells])
  np.testing.assert_array_equal(strata[:, None] == strata, same)
  np.testing.assert_array_equal(
    make_strata(people)[:, None] == make_strata(people),
    people.type_of[:, None] == people.type_of,
  )


def test_comparison_is_that_of_a_loop():
  people, found, _, fires = names.confounded(90, seed=2)
  values = np.round(np.random.default_rng(0).normal(size=90), 1) + fires
  strata = make_strata(people, found, bins=4)
  for label in ('known', 'unknown'):
    mine = people.known == (label == 'known')
    one = compare(people, strata, values, fires, label)
    difference, area = loop(mine, strata, fires, values)
    assert one['difference']['value'] == pytest.approx(difference)
    assert one['auroc']['value'] == pytest.approx(area)
  both = [
    s for s in set(strata.tolist())
    if 0 < people.known[strata == s].sum() < (strata == s).sum()
  ]  # fmt: skip
  assert one['strata'] == len(both)
  assert one['n'] == np.isin(strata, both).sum() and one['of'] == 90


def test_one_stratum_is_the_plain_auroc_and_difference():
  people, _, _, fires = names.confounded(100, seed=1)
  values = np.random.default_rng(1).normal(size=100) + people.known
  one = compare(people, np.zeros(100, int), values, fires, 'known')
  assert one['auroc']['value'] == pytest.approx(
    roc_auc_score(people.known, values)
  )
  assert one['difference']['value'] == pytest.approx(
    fires[people.known].mean() - fires[~people.known].mean()
  )


def test_a_reader_of_length_is_found_out_and_one_of_knowledge_is_not():
  people, found, length, known = names.confounded()
  raw, alike = make_strata(people), make_strata(people, found)

  def difference(fires, strata):
    return compare(people, strata, fires * 1.0, fires, 'known')['difference']

  assert difference(length, raw)['low'] > 0.03
  matched = difference(length, alike)
  assert matched['low'] < 0 < matched['high']
  # The truth is 0.5, alike or not.
  for strata in (raw, alike):
    one = difference(known, strata)
    assert one['low'] < 0.5 < one['high'] and one['low'] > 0.3


def test_intervals_cover():
  """95 % intervals of matched differences hold the truth, 0.5."""
  covered = 0
  for seed in range(60):
    people, found, _, known = names.confounded(160, seed=seed)
    one = compare(
      people, make_strata(people, found), known * 1.0, known, 'known', seed
    )['difference']
    covered += one['low'] <= 0.5 <= one['high']
  assert 50 <= covered <= 60


def test_nobody_to_compare_with():
  """What text has often is what is known: there is no answer."""
  people = names.entities(40)
  found = names.covariates(name_frequency=np.where(people.known, 3.0, 0.0))
  one = compare(
    people, make_strata(people, found), people.known * 1.0, people.known,
    'known',
  )  # fmt: skip
  assert one['n'] == one['strata'] == 0
  assert one['difference'] == {'value': None, 'low': None, 'high': None, 'n': 0}
  # Frequencies are alike within a factor of two; never met is alone.
  counts = np.array([0, 1, 2, 3, 6, 7] + [0] * 34)
  found = names.covariates(name_frequency=np.log1p(counts))
  alone = names.LabelledEntities(
    types=('player',), names=people.names, known=people.known,
    type_of=np.zeros(40, int),
  )  # fmt: skip
  assert make_strata(alone, found)[:7].tolist() == [0, 1, 1, 2, 2, 3, 0]


def test_resamples_keep_classes():
  people = names.entities(50)
  weights = resamples(people, 20)
  for e in range(2):
    for known in (True, False):
      mine = (people.type_of == e) & (people.known == known)
      np.testing.assert_array_equal(weights[:, mine].sum(1), mine.sum())


def test_balance():
  people, found, _, _ = names.confounded(200)
  column = names.column(found, 'tokens')
  a, b = column[people.known], column[~people.known]
  one = balance(people, found)['tokens']
  expected = (a.mean() - b.mean()) / np.sqrt(
    (a.var(ddof=1) + b.var(ddof=1)) / 2
  )
  assert one['standardised_difference']['value'] == pytest.approx(expected)
  assert one['standardised_difference']['high'] < 0
  same = names.covariates(tokens=np.full(200, 2))
  assert (
    balance(people, same)['tokens']['standardised_difference']['value'] is None
  )


def test_errors():
  people, found, _, _ = names.confounded(20)
  with pytest.raises(ValueError, match='bins is 0'):
    make_strata(people, found, bins=0)
  with pytest.raises(ValueError, match='20 names for 10'):
    make_strata(people.take(np.arange(10)), found)
