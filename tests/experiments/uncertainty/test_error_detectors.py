"""Chosen latents and detectors against scipy and loops."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from experiments.latents import ClassSums, LatentId
from experiments.uncertainty import error_detectors
from experiments.uncertainty.asked_questions import Asked
from experiments.uncertainty.begun_answers import Answer
from experiments.uncertainty.error_labels import judge
from experiments.uncertainty.latent_reading import across_types
from experiments.uncertainty.latent_search import choose

TYPES = ('city', 'song')


def sums_of(values, error, types, layer):
  """ClassSums of latents [n, F]."""
  cells = [
    [values[(types == name) & (error == wrong)] for wrong in (False, True)]
    for name in TYPES
  ]
  of = lambda f: np.array([[f(x) for x in row] for row in cells], np.float64)
  return ClassSums(
    site='resid_post',
    layer=layer,
    types=TYPES,
    n=of(len).astype(int),
    active=of(lambda x: (x > 1e-6).sum(axis=0)),
    total=of(lambda x: x.sum(axis=0)),
    squares=of(lambda x: (x**2).sum(axis=0)),
    stream_total=np.zeros((2, 2, 3)),
    norm_total=np.zeros((2, 2)),
    text_n=0,
    text_active=np.zeros(values.shape[1]),
  )


@pytest.fixture(scope='module')
def planted():
  """Latent 2 of layer 5 fires on errors of both types, 1 on those of one."""
  rng = np.random.default_rng(0)
  n = 120
  error = rng.random(n) < 0.5
  types = np.array(TYPES)[rng.integers(2, size=n)]
  layers = {}
  for layer in (4, 5):
    values = np.maximum(rng.standard_normal((n, 6)), 0)
    values[:, 5] = 0  # never fires
    layers[layer] = values
  layers[5][:, 2] += error * 1.0
  layers[4][:, 1] += (error & (types == 'city')) * 3.0
  layers[4][:, 3] += ~error * 1.0
  return error, types, layers


def test_the_lowest_t_over_types(planted):
  error, types, layers = planted
  sums = [sums_of(x, error, types, layer) for layer, x in layers.items()]
  best = {}
  for layer, values in layers.items():
    for j in range(6):
      t = {}
      for name in TYPES:
        mine = types == name
        if values[mine, j].any():
          t[name] = stats.ttest_ind(
            values[mine & error, j],
            values[mine & ~error, j],
            equal_var=False,
          ).statistic
        else:
          t[name] = 0.0
      best[layer, j] = t
  for label, sign in (('error', 1), ('correct', -1)):
    order = sorted(best, key=lambda k: -min(sign * t for t in best[k].values()))
    found = choose(sums, label, 3)
    assert [(f.id.layer, f.id.latent) for f in found] == order[:3]
    for one in found:
      t = best[one.id.layer, one.id.latent]
      assert one.scores == pytest.approx({k: sign * v for k, v in t.items()})
      assert one.score == pytest.approx(min(one.scores.values()))
  assert choose(sums, 'error', 1)[0].id[1:] == (5, 2)
  assert choose(sums, 'correct', 1)[0].id[1:] == (4, 3)
  # What the other type does not see is chosen without it.
  found = choose(sums, 'error', 1, without='song')[0]
  assert found.id[1:] == (4, 1) and set(found.scores) == {'city'}


def test_readers(planted):
  error, types, layers = planted
  rng = np.random.default_rng(1)
  n = len(error)
  x = rng.standard_normal((n, 8)) + np.outer(error, np.eye(8)[3]) * 3
  train = np.arange(n) < 60
  validation = (np.arange(n) >= 60) & (np.arange(n) < 80)
  test = np.arange(n) >= 80
  direction = np.mean(
    [
      x[train & error & (types == name)].mean(0)
      - x[train & ~error & (types == name)].mean(0)
      for name in TYPES
    ],
    axis=0,
  )
  means = error_detectors.difference_of_means(x, error, train, types)
  assert means == pytest.approx(x @ direction)
  scores, about = error_detectors.probe(x, error, train, validation, types)
  assert set(about) == {'C', 'validation_auroc', 'converged'}
  better = lambda s: np.mean(s[test & error][:, None] > s[test & ~error][None])
  assert better(scores) > 0.9 and better(means) > 0.9
  few = error_detectors.balanced(error, train, rng)
  assert (few & error).sum() == (few & ~error).sum() and not few[60:].any()
  published = error_detectors.published_probe(x, error, few)
  model = LogisticRegression(random_state=42, max_iter=10_000)
  model.fit(x[few], error[few])
  assert published == pytest.approx(model.decision_function(x))
  p = error_detectors.calibrated(scores, error, validation)
  assert ((p > 0) & (p < 1)).all()
  assert (np.argsort(p) == np.argsort(scores)).all()
  with_gap = np.where(test, np.nan, scores)
  gaps = error_detectors.calibrated(with_gap, error, validation)
  assert np.isnan(gaps[test]).all()
  assert gaps[~test] == pytest.approx(p[~test])
  with pytest.raises(ValueError, match='No type has both'):
    error_detectors.probe(x, error, train, validation & error, types)


def asked(name, known, split='test'):
  return Asked(
    id=name,
    cluster=name,
    type='city',
    split=split,
    entity_class='known' if known else 'unknown',
    prompt_type='city_country',
    prompt=f"What country contains the city of '{name}'?",
    answers=('Italy',),
  )


def answer(text, right):
  samples = ['Italy'] * right + ['France'] * (10 - right)
  return Answer(
    text=text,
    logprob=-1.0,
    num_tokens=1,
    samples=samples,
    sample_logprobs=[-1.0] * 10,
    entropy=1.0,
  )


def test_groups():
  questions = [asked('A', True), asked('B', True), asked('C', False)] * 2
  # The rule of 3 samples, whatever the greedy answer; refusals go first.
  said = [
    answer('France', 3),
    answer('Italy', 2),
    answer('France', 0),
    answer('I am sorry', 10),
    answer('Italy', 10),
    answer('Italy', 3),
  ]
  judged = judge(questions, said)
  assert judged.group.tolist() == [
    'correct',
    'error (known)',
    'error (unknown)',
    'refusal',
    'correct',
    'correct',
  ]
  assert judged.used.tolist() == [True, True, True, False, True, True]
  assert judged.error.tolist() == [False, True, True, False, False, False]
  # As published: errors that have a known name in them are left out, even
  # where it stands by chance.
  published = judge(questions, said, 'reference', known_names={'B', 'C'})
  assert published.used.tolist() == [True, False, False, False, True, True]
  few = dataclasses.replace(said[0], samples=['Italy'] * 2)
  with pytest.raises(ValueError, match='2 samples cannot have 3 right'):
    judge(questions[:1], [few])


def test_detectors_of_other_types_read_where_the_others_choose():
  """Errors of each type are at a place of their own; nothing is elsewhere."""
  rng = np.random.default_rng(3)
  n = 240
  error = rng.random(n) < 0.5
  types = np.array(TYPES)[np.arange(n) % 2]
  splits = np.repeat(['train', 'validation', 'test'], n // 3)
  stream = {
    ('resid_post', layer): rng.standard_normal((n, 3)) for layer in (2, 4)
  }
  # The latent that is chosen without a type reads where the other one's are.
  latents = {
    name: LatentId('resid_post', layer, 0)
    for name, layer in zip(TYPES, (4, 2), strict=True)
  }
  for name, x in zip(TYPES, stream.values(), strict=True):
    x[:, 0] += 3 * (error & (types == name))
  activation = {id: rng.standard_normal(n) for id in latents.values()}
  skipped = []
  found = across_types(
    stream,
    SimpleNamespace(error=error, types=types, splits=splits),
    {name: SimpleNamespace(id=id) for name, id in latents.items()},
    activation,
    skipped,
  )
  assert not skipped
  for name, id in latents.items():
    other = types != name
    x, train = stream[id[:2]], other & (splits == 'train')
    towards = x[train & error].mean(0) - x[train & ~error].mean(0)
    assert abs(towards[0]) > 2
    mine = found[name]
    assert mine[error_detectors.MEANS] == pytest.approx(x @ towards)
    assert mine[error_detectors.LATENT] == pytest.approx(activation[id])
    test = other & (splits == 'test')
    assert roc_auc_score(error[test], mine[error_detectors.PROBE][test]) > 0.9
