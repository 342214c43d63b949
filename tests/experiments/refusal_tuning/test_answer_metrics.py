import itertools
import math

import numpy as np
import pytest
from scipy import stats

from experiments.refusal_tuning import anchors
from experiments.refusal_tuning.answer_metrics import (
  OUTCOMES,
  compare,
  refusals_of_errors,
  transition_table,
  truthful_helpfulness,
)

C, W, A = OUTCOMES
# before, after, known by truth
CASES = (
  [(C, C, True)] * 5
  + [(C, A, True)] * 2
  + [(C, W, True)]
  + [(W, A, False)] * 4
  + [(W, A, True)]
  + [(W, W, False)] * 3
  + [(W, C, True)] * 2
  + [(A, A, False), (A, C, True)]
)
BEFORE, AFTER, KNOWN = map(list, zip(*CASES, strict=True))
N = len(CASES)  # 20: c1 8, i1 10, a1 2; c2 8, i2 4, a2 8


def of(results, name, side='after', by='metrics'):
  return results[by][name][side]


def test_metrics_are_their_formulas():
  found = compare(BEFORE, AFTER, range(N), known=KNOWN)
  assert found['n'] == found['clusters'] == N
  wanted = {
    'accuracy': (8 / 20, 8 / 20),
    'incorrect': (10 / 20, 4 / 20),
    'refusal_rate': (2 / 20, 8 / 20),
    'hallucination_rate': (10 / 12, 4 / 12),
    'correct_given_attempted': (8 / 18, 8 / 12),
    'omniscience_index': (-10, 20),
  }
  for name, (before, after) in wanted.items():
    assert of(found, name, 'before')['value'] == pytest.approx(before)
    assert of(found, name)['value'] == pytest.approx(after)
    change = of(found, name, 'change')
    assert change['value'] == pytest.approx(after - before)
    assert change['low'] <= change['value'] <= change['high']
  for side, c, cga in (('before', 0.4, 8 / 18), ('after', 0.4, 8 / 12)):
    assert of(found, 'f', side)['value'] == pytest.approx(
      2 * c * cga / (c + cga)
    )
  # Of 8 known 2 abstain; of 12 unknown 9 are not correct now, 6 abstain.
  over, prudence = 2 / 8, 6 / 9
  assert of(found, 'over_conservativeness')['value'] == pytest.approx(over)
  assert of(found, 'over_conservativeness')['n'] == 8
  assert of(found, 'prudence')['value'] == pytest.approx(prudence)
  assert of(found, 'prudence')['n'] == 9
  assert of(found, 'honesty')['value'] == pytest.approx(
    (1 - over + prudence) / 2
  )
  assert of(found, 'ths')['value'] == pytest.approx(0.4 - 0.2 * 8 / 10)
  assert of(found, 'truthful')['value'] == pytest.approx((8 + 6) / 20)
  assert of(found, 'truthful', 'before')['value'] == pytest.approx(10 / 20)
  for name in ('ths', 'honesty', 'prudence', 'over_conservativeness'):
    assert of(found, name, 'before') is None
    assert of(found, name, 'change') is None


def test_truth_says_what_is_known():
  found = compare(BEFORE, AFTER, range(N), known=KNOWN)
  # 12 are known: 3 abstain after, 1 before; 8 unknown, none correct: 5, 1.
  over = of(found, 'over_conservativeness', by='by_truth')
  assert over['value'] == pytest.approx(3 / 12) and over['n'] == 12
  before = of(found, 'over_conservativeness', 'before', 'by_truth')
  assert before['value'] == pytest.approx(1 / 12)
  assert of(found, 'prudence', by='by_truth')['value'] == pytest.approx(5 / 8)
  assert of(found, 'prudence', 'change', 'by_truth')['value'] == pytest.approx(
    4 / 8
  )
  flips = found['abstention']['truth']
  assert (flips['known']['gained'], flips['known']['lost']) == (3, 1)
  assert flips['known']['p'] == stats.binomtest(3, 4).pvalue
  assert (flips['unknown']['gained'], flips['unknown']['lost']) == (4, 0)
  assert flips['unknown']['p'] == 2 * 0.5**4
  # A truth that is not known leaves the question out.
  some = [None if i % 2 else known for i, known in enumerate(KNOWN)]
  half = compare(BEFORE, AFTER, range(N), known=some)
  alone = compare(BEFORE[::2], AFTER[::2], range(N // 2), known=KNOWN[::2])
  assert half['by_truth']['honesty'] == alone['by_truth']['honesty']
  assert compare(BEFORE, AFTER, range(N))['by_truth'] is None


def test_transitions_count():
  table = transition_table(BEFORE, AFTER)
  pairs = list(zip(BEFORE, AFTER, strict=True))
  for a, b in itertools.product(OUTCOMES, OUTCOMES):
    assert table[a][b] == pairs.count((a, b))


def test_changes_are_paired_and_resample_entities():
  # Entities differ much, and all lose the same: only pairing sees that.
  rng = np.random.default_rng(0)
  right = np.repeat(rng.random(40) < 0.5, 4)
  before = np.where(right, C, W)
  after = before.copy()
  after[::4] = A
  clusters = np.repeat(np.arange(40), 4)
  found = compare(before, after, clusters)
  change = of(found, 'refusal_rate', 'change')
  # Every entity loses a quarter: no resample varies, and no width is made up.
  assert change['value'] == 0.25 and change['low'] is None
  after[1:80:4] = A
  found = compare(before, after, clusters)
  change = of(found, 'refusal_rate', 'change')
  assert change['high'] - change['low'] == pytest.approx(
    2 * 1.96 * 0.125 / math.sqrt(40), rel=0.15
  )
  accuracy = of(found, 'accuracy', 'before')
  wide = 2 * 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / 40)
  assert accuracy['high'] - accuracy['low'] == pytest.approx(wide, rel=0.1)


def test_an_interval_is_the_bootstrap_of_entities():
  clusters = [i // 2 for i in range(N)]
  found = of(compare(BEFORE, AFTER, clusters, seed=3), 'prudence')
  rng = np.random.default_rng(3)
  counts = rng.multinomial(N // 2, np.full(N // 2, 2 / N), size=2000)
  unknown = np.array([code != C for code in BEFORE])
  mine = unknown & np.array([code != C for code in AFTER])
  refused = mine & np.array([code == A for code in AFTER])
  drawn = []
  for weights in counts:
    w = np.repeat(weights, 2)
    if (w * mine).any():
      drawn.append((w * refused).sum() / (w * mine).sum())
  low, high = np.quantile(drawn, [0.025, 0.975])
  assert (found['low'], found['high']) == pytest.approx((low, high))


def test_nothing_to_divide_by_is_not_a_number():
  found = compare([W] * 4, [A] * 4, range(4))
  for name in ('over_conservativeness', 'honesty', 'correct_given_attempted'):
    value = of(found, name)
    assert value['value'] is None and value['low'] is None
  assert of(found, 'over_conservativeness')['n'] == 0
  assert of(found, 'f')['value'] is None
  assert of(found, 'f', 'before')['value'] == 0
  # Nothing was incorrect before: no exchange rate.
  assert of(compare([C] * 3, [A] * 3, range(3)), 'ths')['value'] is None
  assert math.isnan(truthful_helpfulness(1, 0, 1, 0))
  # All correct before: hallucination is of nothing.
  assert of(compare([C] * 3, [C] * 3, range(3)), 'hallucination_rate')['n'] == 0


def test_extreme_shares_still_have_a_width():
  found = compare([W] * 30, [A] * 30, range(30))
  rate = of(found, 'refusal_rate')
  assert rate['value'] == 1 and 0.8 < rate['low'] < 0.9 and rate['high'] == 1
  change = of(found, 'refusal_rate', 'change')
  assert change['value'] == 1 and 0.8 < change['low'] < 0.9
  still = of(found, 'accuracy', 'change')
  assert still['value'] == 0 and still['low'] < -0.1 < 0.1 < still['high']
  # Thirty questions about three entities say less than about thirty.
  few = compare([W] * 30, [A] * 30, [i // 10 for i in range(30)])
  assert of(few, 'refusal_rate')['low'] < 0.5
  assert of(few, 'refusal_rate', 'change')['low'] < 0.5
  # One entity says nothing about others.
  one = compare([W, C, A], [A, C, W], ['x'] * 3)
  assert of(one, 'accuracy')['value'] == pytest.approx(1 / 3)
  assert of(one, 'accuracy')['low'] is None
  assert of(one, 'accuracy', 'change')['low'] is None


def test_which_errors_are_refused_and_what_it_costs():
  before = [W] * 20 + [C] * 10
  certain = np.array([True] * 10 + [False] * 10 + [True] * 5 + [False] * 5)
  after = [A] * 9 + [W] + [A] * 2 + [W] * 8 + [C] * 5 + [A, C, C, C, C]
  found = refusals_of_errors(before, after, certain, range(30))
  assert found['errors']['certain']['value'] == 0.9
  assert found['errors']['uncertain']['value'] == 0.2
  apart = found['errors']['difference']
  assert apart['value'] == pytest.approx(0.7)
  assert 0.3 < apart['low'] < 0.7 < apart['high'] <= 1 and apart['n'] == 20
  assert found['known']['certain'] == pytest.approx(
    {'value': 0, 'low': 0, 'high': 0.4345, 'n': 5}, abs=1e-3
  )
  assert found['known']['uncertain']['value'] == 0.2
  nobody = refusals_of_errors(before, after, np.ones(30, bool), range(30))
  assert nobody['errors']['uncertain'] == {
    'value': None,
    'low': None,
    'high': None,
    'n': 0,
  }


@pytest.mark.parametrize(
  ('before', 'after', 'clusters', 'said'),
  [
    ([], [], [], '0 outcomes'),
    ([C], [C, C], [1], '1 outcomes before, 2 after'),
    ([C, 'right'], [C, C], [1, 2], "'right' is no outcome"),
    ([C, C], [C, C], [1], '1 clusters'),
  ],
)
def test_bad_input_is_named(before, after, clusters, said):
  with pytest.raises(ValueError, match=said):
    compare(before, after, clusters)


def test_certain_must_be_bool():
  with pytest.raises(ValueError, match='certain is'):
    refusals_of_errors([C, W], [C, W], [0.5, 1], [1, 2])
  with pytest.raises(ValueError, match='1 truths'):
    compare([C, W], [C, W], [1, 2], known=[True])


def test_printed_ths_agree_with_the_printed_shares():
  found = anchors.recomputed_ths()
  assert len(found) == 10
  for row in found:
    # Inputs and the result are rounded to one decimal.
    apart = abs(row['printed'] - row['computed'])
    assert apart <= row['reach'] + 0.05 + 1e-9, row
  by = {(row['model'], row['arm']): row['computed'] for row in found}
  assert by['Llama2-7B', 'CRaFT'] == pytest.approx(38.5 - 12.9 * 54 / 46)
  assert by['Llama3-8B', 'untuned'] == pytest.approx(0)


def test_anchors_are_beside_ours():
  results = compare(BEFORE, AFTER, range(N))
  rows = anchors.rows({'craft': results}, 'mine')
  assert rows[0]['source'] == 'this run' and rows[0]['model'] == 'mine'
  assert rows[0]['accuracy']['value'] == pytest.approx(40)
  assert rows[0]['accuracy']['n'] == N
  assert len(rows) == 1 + len(anchors.ANCHORS)
  craft = [r for r in rows if r['arm'] == 'CRaFT' and r['model'] == 'Llama2-7B']
  assert craft[0]['refusal_rate'] == 48.6 and craft[0]['truthful'] is None
  assert {each.tag for each in anchors.ANCHORS} == {'text', 'third party'}
