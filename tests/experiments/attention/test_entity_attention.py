"""Measured attention against whole runs, one direction at a time."""

import numpy as np
import pytest

from experiments.attention import entity_attention as ea
from experiments.attention import shifts
from experiments.attention.cases import pad_cases
from experiments.attention.shifts import first_changed, measure_shift
from experiments.latents import LatentId, Target
import gemma_jax as gj
from tests.experiments.attention import small

CONFIG = small.model().config
D = CONFIG.d_model


def target(site='resid_post', layer=1, controls=3) -> Target:
  rng = np.random.default_rng(5)
  rows = rng.standard_normal((controls + 1, D)).astype(np.float32)
  return Target(
    label='known',
    id=LatentId(site, layer, 0),
    direction=rows[0],
    controls={
      LatentId(site, layer, 1 + i): 2.0 * row for i, row in enumerate(rows[1:])
    },
  )


def by_hand(cases, changes) -> np.ndarray:
  """[P, L, M, A, N] from captured patterns and streams, edge by edge."""
  model = small.model()
  batch = pad_cases(cases, 0, 10)
  out = gj.run(
    model,
    *batch,
    interventions=changes,
    capture=gj.capture('pattern', 'resid_pre'),
  )
  weights = {k: np.asarray(w, np.float64) for k, w in model.weights().items()}
  L, N, group = CONFIG.num_layers, CONFIG.num_heads, 2
  found = np.zeros((len(cases), L, 3, 2, N))
  for p, case in enumerate(cases):
    start, stop = case.span
    for layer in range(L):
      row = np.asarray(out['pattern'])[layer, p, :, case.length - 1]
      x = np.asarray(out['resid_pre'])[layer, p].astype(float)
      y = x / np.sqrt((x * x).mean(-1, keepdims=True) + CONFIG.norm_eps)
      y = y * (1 + weights['pre_attn_norm'][layer])
      for n in range(N):
        v = y @ weights['wv'][layer, n // group].T  # [S, H]
        written = v @ weights['wo'][layer, :, n].T  # [S, D]
        lengths = (
          np.ones(len(x)),
          np.linalg.norm(v, axis=1),
          np.linalg.norm(written, axis=1),
        )
        for m, each in enumerate(lengths):
          edges = row[n] * each
          found[p, layer, m, 0, n] = edges[stop - 1]
          found[p, layer, m, 1, n] = edges[start:stop].sum()
  return found


@pytest.mark.parametrize('site', ['resid_post', 'resid_pre'])
def test_shift_is_what_whole_runs_give(site, tmp_path):
  """Latent and controls, all measures, and the unsteered prompts."""
  cases, one = small.cases(), target(site)
  shift = measure_shift(
    small.model(),
    cases,
    one,
    alpha=3.0,
    rows_per_batch=8,  # two prompts at once, as four directions each
    folder=tmp_path,
    identity={},
  )
  assert shift.first == first_changed(one) == (2 if site == 'resid_post' else 1)
  before = by_hand(cases, [steering(cases, site, one.direction, 0.0)])
  np.testing.assert_allclose(shift.before, before, rtol=1e-4, atol=1e-5)
  norm = 3.0 * np.linalg.norm(one.direction)
  for r, direction in enumerate((one.direction, *one.controls.values())):
    after = by_hand(cases, [steering(cases, site, direction, norm)])
    np.testing.assert_allclose(
      shift.after[:, r], after[:, shift.first :], rtol=2e-4, atol=2e-5
    )
    # Nothing before the edit changes, so nothing is left out.
    same = after[:, : shift.first], before[:, : shift.first]
    np.testing.assert_allclose(*same, atol=1e-5)
    assert np.abs(after - before)[:, :, 0].max() > 0.1


def steering(cases, site, direction, norm):
  """Adds so much of a direction to the entities' last tokens, in layer 1."""
  return gj.steer(
    site,
    direction / np.linalg.norm(direction),
    layers=1,
    coefficient=norm,
    positions=gj.per_row([case.span[1] - 1 for case in cases]),
  )


def test_directions_layers_and_places_are_data(tmp_path, monkeypatch):
  """One program; and batches that are there are not run again."""
  cases = small.cases()[:2]

  def run(one, name, alpha):
    return measure_shift(
      small.model(),
      cases,
      one,
      alpha=alpha,
      rows_per_batch=8,
      folder=tmp_path / name,
      identity={},
    )

  first = run(target(), 'a', 1.0)
  programs = ea.attention_to_entity._cache_size()
  run(target(layer=2), 'b', 2.0)
  run(target(layer=0), 'c', -2.0)
  assert ea.attention_to_entity._cache_size() == programs
  monkeypatch.delattr(shifts, 'record')  # whatever runs now fails
  np.testing.assert_array_equal(run(target(), 'a', 1.0).after, first.after)
  with pytest.raises(NameError):
    run(target(), 'a', 1.5)
