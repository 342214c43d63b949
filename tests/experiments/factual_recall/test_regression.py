"""The regression of MLPs on heads against lstsq, sklearn and plain loops."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

from experiments.factual_recall import least_squares, regression
from experiments.stats import resampling
from tests.experiments.factual_recall.planted import (
  ALPHA,
  BETA,
  LAYER,
  columns,
  flat,
  lstsq,
  planted,
  prompts,
  traced,
)

# Of a world in which the MLP reads the rest of the stream too.
decompose = functools.partial(regression.decompose, with_other=True)


class TestRegressors:
  @pytest.mark.parametrize('family', ['gemma2', 'gpt2'])
  @pytest.mark.parametrize('pairs', [None, [(0, 1), (2, 3), (0, 2)]])
  def test_sum_to_what_the_mlp_reads(self, family, pairs):
    model, run = traced(family)
    heads, other = regression.regressors(model, run, LAYER, pairs)
    assert heads.shape[1] == (4 if pairs is None else 3)
    middle = run['resid_mid'][LAYER]
    np.testing.assert_allclose(heads.sum(1) + other, middle, atol=1e-5)
    if pairs is None:
      # What is left is the stream before, and attention's bias.
      bias = model.blocks.bo[LAYER] if model.config.out_bias else 0
      before = run['resid_pre'][LAYER] + np.asarray(bias)
      np.testing.assert_allclose(other, before, atol=1e-4)

  def test_a_head_of_a_layer_below_is_that_head(self):
    model, run = traced('gemma2')
    some, _ = regression.regressors(model, run, LAYER, [(2, 3), (0, 1)])
    for column, (layer, head) in enumerate([(2, 3), (0, 1)]):
      every, _ = regression.regressors(model, run, layer)
      np.testing.assert_array_equal(some[:, column], every[:, head])

  @pytest.mark.parametrize('pairs', [[(3, 0)], [(1, 4)], [(1, 1), (1, 1)]])
  def test_refuses_heads(self, pairs):
    model, run = traced('gpt2')
    with pytest.raises(ValueError, match='[Hh]ead'):
      regression.regressors(model, run, LAYER, pairs)


class TestDecompose:
  def test_finds_a_planted_world(self):
    model, run, b, _ = planted()
    found = decompose(model, run, prompts(), LAYER, resamples=200)
    np.testing.assert_allclose(found.fit.coefficients, ALPHA, atol=1e-4)
    assert found.fit.other == pytest.approx(BETA, abs=1e-4)
    np.testing.assert_allclose(found.fit.intercept, b, atol=1e-4)
    results = found.to_results()
    assert [row['verdict'] for row in results['regressors'][:3]] == [
      'erases',
      'amplifies',
      'erases',
    ]
    assert results['regressors'][-1]['name'] == 'other'
    gain = results['regressors'][1]['gain']
    assert gain['value'] == pytest.approx(1.5, abs=1e-4)
    assert gain['n'] == 48
    assert found.r2.value == pytest.approx(1, abs=1e-6)
    assert found.r2_held_out.value == pytest.approx(1, abs=1e-6)
    vectors = ('intercept', 'control')
    json.dumps({k: v for k, v in results.items() if k not in vectors})

  def test_the_rest_of_the_stream_is_no_regressor_by_default(self):
    model, run, _, _ = planted(noise=0.5)
    found = regression.decompose(model, run, prompts(), LAYER, resamples=10)
    mlp, heads, _ = columns(model, run)
    alone = least_squares.fit(mlp, heads)
    np.testing.assert_allclose(found.fit.intercept, alone.intercept)
    np.testing.assert_allclose(found.fit.coefficients, alone.coefficients)
    assert found.fit.other is None and found.control.other is None
    assert found.names == ['L2H0', 'L2H1', 'L2H2', 'L2H3']
    assert len(found.to_results()['regressors']) == 4
    assert 'other' not in found.carried['fit']

  def test_intervals_cover_what_is_planted(self):
    inside = []
    for seed in range(20):
      model, run, _, _ = planted(noise=3.0, seed=seed)
      found = decompose(model, run, prompts(), LAYER, seed=seed, resamples=300)
      truth = [*ALPHA, BETA]
      inside += [
        each.low <= true <= each.high
        for each, true in zip(found.coefficients, truth, strict=True)
      ]
    # 100 of them at 95 %; a percentile bootstrap of 12 units is a bit narrow.
    assert 0.82 <= np.mean(inside) <= 0.99

  @pytest.mark.parametrize('with_other', [True, False])
  def test_bootstrap_is_a_loop_of_refits(self, with_other):
    model, run, _, _ = planted(subject_share=0.5, noise=1.0)
    asked, R = prompts(), 40
    found = regression.decompose(
      model, run, asked, LAYER, with_other=with_other, seed=7, resamples=R
    )
    mlp, heads, other = columns(model, run)
    other = other if with_other else None
    groups = [
      np.flatnonzero(np.array(asked.units) == each) for each in found.subjects
    ]
    draws = resampling.draw(12, np.random.default_rng(7), R)
    coefficients, shares, control_shares = [], [], []
    for counts in draws:
      drawn = [i for i, c in enumerate(counts.astype(int)) for _ in range(c)]
      rows = np.concatenate([groups[i] for i in drawn])
      take = lambda x, rows=rows: None if x is None else x[rows]
      coefficients.append(lstsq(take(mlp), take(heads), take(other)))
      X, y = flat(take(mlp), take(heads), take(other))
      shares.append(LinearRegression(fit_intercept=False).fit(X, y).score(X, y))
      # The control: each subject's rows less their own means.
      own = [
        flat(mlp[g], heads[g], None if other is None else other[g])
        for g in (groups[i] for i in drawn)
      ]
      X = np.concatenate([x for x, _ in own])
      left = np.concatenate([t for _, t in own])
      left = left - X @ np.linalg.lstsq(X, left, rcond=None)[0]
      control_shares.append(1 - (left @ left) / (y @ y))
    low, high = resampling.bounds(np.stack(coefficients))
    got = found.coefficients
    np.testing.assert_allclose([e.low for e in got], low, atol=1e-9)
    np.testing.assert_allclose([e.high for e in got], high, atol=1e-9)
    for estimate, loop in (
      (found.r2, shares),
      (found.r2_control, control_shares),
    ):
      np.testing.assert_allclose(
        (estimate.low, estimate.high), resampling.bounds(np.array(loop))
      )

  @pytest.mark.parametrize('subjects', [12, 6])
  def test_held_out_share_is_sklearns(self, subjects):
    model, run, _, _ = planted(0.3, noise=2.0, subjects=subjects)
    asked = prompts(subjects)
    found = decompose(model, run, asked, LAYER, resamples=10)
    mlp, heads, other = columns(model, run)
    fold = dict(zip(found.subjects, found.folds, strict=True))
    group = np.array([fold[unit] for unit in asked.units])
    assert len(set(group)) == (5 if subjects == 12 else 6)
    splits = (
      GroupKFold(len(set(group))) if subjects == 12 else LeaveOneGroupOut()
    )
    wrong = whole = 0.0
    for train, test in splits.split(mlp, groups=group):
      assert not set(np.array(asked.units)[train]) & set(
        np.array(asked.units)[test]
      )
      means = [x[train].mean(0) for x in (mlp, heads, other)]
      coefficients = lstsq(mlp[train], heads[train], other[train])
      regressor = np.concatenate([heads, other[:, None]], axis=1)
      at = np.concatenate([means[1], means[2][None]])
      predicted = means[0] + np.einsum(
        'nkD,k->nD', regressor[test] - at, coefficients
      )
      wrong += ((mlp[test] - predicted) ** 2).sum()
      whole += ((mlp[test] - means[0]) ** 2).sum()
    assert found.r2_held_out.value == pytest.approx(1 - wrong / whole, abs=1e-9)
    assert (
      found.r2_held_out.low < found.r2_held_out.value < found.r2_held_out.high
    )

  def test_control_is_a_regression_with_a_dummy_per_subject(self):
    model, run, _, _ = planted(subject_share=0.5, noise=1.0)
    asked = prompts()
    found = decompose(model, run, asked, LAYER, resamples=10)
    mlp, heads, other = columns(model, run)
    n, D = mlp.shape
    dummies = np.eye(12)[asked.subjects]
    # One design for all coordinates: dummies times coordinates, by a residual.
    project = dummies @ np.linalg.pinv(dummies)
    without = lambda x: x - np.einsum('mn,n...->m...', project, x)
    X = without(np.concatenate([heads, other[:, None]], axis=1))
    rows = X.swapaxes(1, 2).reshape(n * D, -1)
    sk = LinearRegression(fit_intercept=False).fit(rows, without(mlp).ravel())
    control = found.control
    np.testing.assert_allclose(
      [*control.coefficients, control.other], sk.coef_, rtol=1e-8
    )
    predicted = np.einsum('nkD,k->nD', heads, control.coefficients)
    predicted += control.other * other + control.intercept
    place = {name: i for i, name in enumerate(found.subjects)}
    own = [place[unit] for unit in asked.units]
    predicted += found.subject_intercepts[own]
    score = r2_score(
      (mlp - mlp.mean(0)).ravel(), (predicted - mlp.mean(0)).ravel()
    )
    assert found.r2_control.value == pytest.approx(score)
    assert control.r2 == pytest.approx(score)
    means = np.stack([mlp[asked.subjects == s].mean(0) for s in range(12)])
    between = ((means[asked.subjects] - mlp.mean(0)) ** 2).sum()
    alone = between / ((mlp - mlp.mean(0)) ** 2).sum()
    assert found.subjects_alone.value == pytest.approx(alone)
    assert found.subjects_by_chance == pytest.approx(11 / 47)

  def test_finds_what_depends_on_the_subject(self):
    model, run, b, c = planted(subject_share=30.0)
    found = decompose(model, run, prompts(), LAYER, resamples=50)
    assert found.r2.value < 0.3
    assert found.r2_held_out.value < 0.2
    assert found.r2_control.value == pytest.approx(1, abs=1e-6)
    assert found.subjects_alone.value > 0.8
    np.testing.assert_allclose(found.control.coefficients, ALPHA, atol=1e-3)
    place = [int(name.split()[1]) for name in found.subjects]
    together = found.control.intercept + found.subject_intercepts
    np.testing.assert_allclose(together, b + c[place], atol=1e-3)

  def test_parts_carry_what_the_mlp_carries(self):
    model, run, _, _ = planted(subject_share=1.0, noise=0.5)
    asked = prompts()
    found = decompose(model, run, asked, LAYER, resamples=10)
    mlp = run['mlp_out'][LAYER].astype(np.float64)
    table = np.asarray(model.unembedding, np.float64)
    gain = np.asarray(model.final_norm[...], np.float64)
    final = run.final.astype(np.float64)
    centred = mlp - mlp.mean(-1, keepdims=True)
    scale = np.sqrt(final.var(-1) + model.config.norm_eps)
    logits = (centred * gain / scale[:, None]) @ table.T
    logits -= logits.mean(-1, keepdims=True)
    for read, tokens in (('answer', asked.answers), ('name', asked.names)):
      truth = logits[np.arange(len(tokens)), tokens].mean()
      for fit in ('mlp', 'fit', 'control'):
        parts = found.carried[fit]
        total = sum(part[read].value for part in parts.values())
        assert total == pytest.approx(truth, rel=1e-5)
    assert set(found.carried['control']) == {
      'heads',
      'other',
      'intercept',
      'subject',
      'residual',
    }

  def test_one_subject_has_no_interval(self):
    model, run, _, _ = planted(noise=1.0)
    asked = prompts()
    rows = np.flatnonzero(asked.subjects == 3)
    part = dataclasses.replace(
      run, activations={s: x[:, rows] for s, x in run.activations.items()}
    )
    found = regression.decompose(
      model, part, asked.take(rows), LAYER, resamples=10
    )
    assert np.isfinite(found.coefficients[0].value)
    assert np.isnan(found.coefficients[0].low)
    assert np.isnan(found.r2_held_out.value)
    row = found.to_results()['regressors'][0]
    assert row['verdict'] == 'neither'
    assert row['gain']['low'] is None

  def test_refuses_a_trace_of_other_prompts(self):
    model, run = traced('gpt2')
    with pytest.raises(ValueError, match='prompts'):
      regression.decompose(model, run, prompts().take([0, 1, 2]), LAYER)


def test_compares_intercepts_layer_by_layer():
  one = np.array([[1.0, 0], [0, 2], [0, 0]])
  two = np.array([[1.0, 1], [0, -1], [1, 0]])
  found = regression.compare_intercepts({'a': one, 'b': two, 'c': one})
  assert {first: list(rest) for first, rest in found.items()} == {
    'a': ['b', 'c'],
    'b': ['c'],
  }
  np.testing.assert_allclose(found['a']['b'][:2], [0.5**0.5, -1])
  assert found['a']['b'][2] is None
  np.testing.assert_allclose(found['a']['c'][:2], 1)
  with pytest.raises(ValueError, match='shape|\\[L, D\\]'):
    regression.compare_intercepts({'a': one, 'b': two[:2]})
