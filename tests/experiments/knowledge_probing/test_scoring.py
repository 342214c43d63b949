"""Scores of answers against closed forms."""

import dataclasses
import math
import time

import numpy as np
import pytest
from scipy import special, stats

from experiments.knowledge_probing import probe_records
from experiments.knowledge_probing.judging import JudgeSettings, others_of
from experiments.knowledge_probing.scoring import (
  categorise,
  entropies,
  score,
  upper_bound,
)
from tests.experiments.knowledge_probing.made import (
  question,
  said,
  sampled,
  verdict,
)

CASCADE = JudgeSettings()


def test_entropies_of_samples_that_all_mean_the_same():
  semantic, discrete, naive = entropies([-0.1, -2.0, -0.7], [0, 0, 0])
  assert semantic == discrete == 0
  assert naive == pytest.approx(2.8 / 3)


@pytest.mark.parametrize('n', [1, 2, 16])
def test_entropies_of_samples_that_all_differ(n):
  semantic, discrete, naive = entropies([-1.5] * n, range(n))
  assert semantic == pytest.approx(math.log(n), abs=1e-12)
  assert discrete == pytest.approx(math.log(n), abs=1e-12)
  assert naive == 1.5


def test_entropies_as_they_are_defined():
  rng = np.random.default_rng(0)
  mean = -rng.gamma(2, size=12)
  cluster = rng.integers(0, 4, 12)
  cluster[:4] = range(4)
  log_p = np.array(
    [
      special.logsumexp(mean[cluster == c]) - special.logsumexp(mean)
      for c in range(4)
    ]
  )
  semantic, discrete, naive = entropies(mean, cluster)
  assert semantic == pytest.approx(-(np.exp(log_p) * log_p).sum(), rel=1e-12)
  counts = np.bincount(cluster)
  assert discrete == pytest.approx(stats.entropy(counts), rel=1e-12)
  assert naive == pytest.approx(-mean.mean(), rel=1e-12)


def test_discrete_entropies_that_are_known():
  assert entropies([-1] * 4, [0, 0, 0, 1])[1] == pytest.approx(0.5623351446)
  assert entropies([-1] * 4, [0, 1, 0, 1])[1] == pytest.approx(math.log(2))


def test_entropies_of_samples_of_hardly_any_probability():
  semantic, _, _ = entropies([-1e4, -1.0], [0, 1])
  assert semantic == 0
  semantic, _, _ = entropies([-1e4, -1e4], [0, 1])
  assert semantic == pytest.approx(math.log(2))


@pytest.mark.parametrize('bad', [[], [-1.0, math.nan], [-math.inf]])
def test_entropies_of_what_is_not_finite(bad):
  with pytest.raises(ValueError, match="of 'Q1'.*finite"):
    entropies(bad, [0] * len(bad), 'Q1')


@pytest.mark.parametrize(
  'greedy, samples, category',
  [
    ('ccc', 'cccc', 'HighlyKnown'),
    ('ccc', 'wwww', 'HighlyKnown'),
    ('cwc', 'wwww', 'MaybeKnown'),
    ('www', 'wwcw', 'WeaklyKnown'),
    ('www', 'wrnw', 'Unknown'),
  ],
)
def test_categories(greedy, samples, category):
  found = score(question(), sampled('q', greedy, samples), CASCADE)
  assert found.category == category
  assert found.p_correct_greedy == greedy.count('c') / 3
  assert found.p_correct == samples.count('c') / 4
  assert categorise(found.p_correct_greedy, found.p_correct) == category


def test_a_score_from_end_to_end():
  texts = ['Right', 'It is right', 'Wrong', 'Sorry, I do not know.', 'WRONG!']
  logprobs = [-2.0, -6.0, -1.0, -8.0, -3.0]
  samples = tuple(
    dataclasses.replace(said('c', text, ntok=i + 1), logprob=logprob)
    for i, (text, logprob) in enumerate(zip(texts, logprobs, strict=True))
  )
  answers = probe_records.Sampled(id='q', greedy=(said('c'),), samples=samples)
  found = score(question(), answers, CASCADE)
  assert [v.rule for v in found.samples] == [
    'exact',
    'contains',
    'none: no match',
    'none: declines',
    'none: no match',
  ]
  assert found.cluster == (0, 1, 2, 3, 2)
  assert (found.n, found.p_correct) == (5, 0.4)
  interval = stats.binomtest(2, 5).proportion_ci(0.95, method='wilson')
  assert found.p_correct_interval == pytest.approx(tuple(interval))
  mean = [p / (i + 1) for i, p in enumerate(logprobs)]
  assert (
    found.semantic_entropy,
    found.discrete_entropy,
    found.naive_entropy,
  ) == entropies(mean, found.cluster)
  # It survives its file.
  assert probe_records.read_score(probe_records.to_json(found)) == found


def test_another_judge_goes_before():
  given = {'Wrong': dataclasses.replace(verdict('c'), rule='llm')}
  found = score(question(), sampled('q', 'w', 'wc'), CASCADE, verdicts=given)
  assert [v.rule for v in found.samples] == ['llm', 'exact']
  assert found.category == 'HighlyKnown'
  assert list(given) == ['Wrong']


def test_another_likeness():
  found = score(
    question(), sampled('q', 'c', 'cwWr'), CASCADE, alike=lambda a, b: True
  )
  assert found.cluster == (0,) * 4 and found.semantic_entropy == 0


def test_bad_input():
  with pytest.raises(ValueError, match="'b', not to 'q'"):
    score(question('q'), sampled('b'), CASCADE)
  with pytest.raises(ValueError, match="'q' has 0 greedy"):
    score(question(), sampled('q', ''), CASCADE)
  with pytest.raises(ValueError, match='0 samples'):
    score(question(), sampled('q', 'c', ''), CASCADE)


def test_what_samples_without_a_right_one_cannot_exclude():
  expected = {8: 0.31, 16: 0.17, 32: 0.09, 160: 0.019}
  for n, bound in expected.items():
    assert upper_bound(n) == pytest.approx(bound, abs=0.005)
    # Clopper and Pearson's one-sided bound.
    assert upper_bound(n) == pytest.approx(stats.beta.ppf(0.95, 1, n))
  with pytest.raises(ValueError, match='n is 0'):
    upper_bound(0)


def test_many_questions_score_fast():
  """300 x 27 answers, a tenth of a large study, in 2 s on a slow machine."""
  rng = np.random.default_rng(0)
  names = [f'Name{i} Surname{i % 50}' for i in range(200)]
  questions = [
    question(f'q{i}', (names[i % 200],), question=f'Who wrote book {i}?')
    for i in range(300)
  ]
  others = others_of(questions)
  answers = [
    probe_records.Sampled(
      id=q.id,
      greedy=tuple(said('c', str(x)) for x in rng.choice(names, 10)),
      samples=tuple(said('c', f'It was {x}') for x in rng.choice(names, 17)),
    )
    for q in questions
  ]
  start = time.process_time()
  for q, each in zip(questions, answers, strict=True):
    score(q, each, CASCADE, others[q.id])
  assert time.process_time() - start < 4
