"""Many SAEs measured together give what each gives alone."""

import numpy as np
import pytest

from experiments.sae_training.sae_evaluation import (
  EvaluationText,
  measure_metrics,
  measure_splicing,
  measure_uniformity,
)
from experiments.sae_training.splicing import Splicer, own_gradients
from experiments.sae_training.token_activations import read_batch
import gemma_jax as gj
from sae.metrics.evaluation import evaluate
from sae.metrics.fidelity import measure_fidelity
from sae.metrics.uniformity import mean_uniformity
from tests.experiments import worlds
from tests.experiments.sae_training.test_splicing import random_sae

LAYERS = [1, 3]


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  folder = tmp_path_factory.mktemp('rows')
  rows = worlds.write(folder / 'rows', worlds.texts(9))
  saes = [[random_sae(40, layer, seed=i) for i in (0, 1)] for layer in LAYERS]
  text = EvaluationText(rows=rows, num_tokens=100, batch_size=6)
  return worlds.model(), 'resid_post', LAYERS, saes, text


@pytest.fixture(scope='module')
def found(world):
  metrics = measure_metrics(*world)
  *where, text = world
  means = [row[0].mean for row in metrics]
  return metrics, measure_splicing(*where, means, text)


def batches(world):
  return list(world[-1].batches(''))


def test_metrics(world, found):
  model, site, layers, saes, _ = world
  for s, layer in enumerate(layers):
    look = gj.capture(site, layers=[layer])
    x = [
      (gj.run(model, *batch[:2], capture=look)[site][0], batch.keep)
      for batch in batches(world)
    ]
    for r, sae in enumerate(saes[s]):
      alone = evaluate(sae, x)
      together = found[0][s][r]
      assert alone.to_dict(per_latent=True) == together.to_dict(per_latent=True)
      assert 100 <= alone.num_tokens < 110


def test_fidelity_and_intervals(world, found):
  model, site, layers, saes, _ = world
  for s, layer in enumerate(layers):
    run = Splicer(model, site, [layer]).runner(layer)
    for r, sae in enumerate(saes[s]):
      metrics, spliced = found[0][s][r], found[1][s][r]
      alone = measure_fidelity(run, batches(world), sae, mean=metrics.mean)
      for name, losses in alone.losses.items():
        np.testing.assert_allclose(
          spliced.fidelity.losses[name], losses, rtol=1e-6, err_msg=name
        )
      assert spliced.fidelity.num_tokens == alone.num_tokens
      for name in ('fvu', 'l0'):
        again = getattr(spliced, name)
        value = getattr(metrics, name)
        np.testing.assert_allclose(again.value, value, rtol=1e-5)
        assert again.low < value < again.high


def test_interval_of_fvu_is_that_of_a_ratio_over_sequences(world, found):
  """Against a jackknife over sequences."""
  model, site, layers, saes, _ = world
  sae, look = saes[0][0], gj.capture(site, layers=[layers[0]])
  errors, scatters = [], []
  mean = found[0][0][0].mean
  for batch in batches(world):
    x = np.asarray(gj.run(model, *batch[:2], capture=look)[site][0])
    y = np.asarray(sae(x))
    for row, keep in enumerate(batch.keep):
      if keep.any():
        errors.append(((x - y)[row][keep] ** 2).sum())
        scatters.append(((x[row][keep] - mean) ** 2).sum())
  errors, scatters = np.array(errors), np.array(scatters)
  n = len(errors)
  without = (errors.sum() - errors) / (scatters.sum() - scatters)
  jackknife = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
  got = found[1][0][0].fvu.standard_error
  np.testing.assert_allclose(got, jackknife, rtol=0.1)


def test_uniformity(world):
  model, site, layers, saes, text = world
  got = measure_uniformity(*world, num_tokens=7, seed=3)
  x, gradients, masks = [], [], []
  for number in range(2):
    batch = read_batch(text.rows, number, 6, stop=7)
    counts = batch.keep[:, :-1] & batch.keep[:, 1:]
    counts = np.pad(counts, ((0, 0), (0, 1)))
    drawn = np.random.default_rng([3, number]).random(counts.shape)
    at = np.where(counts, drawn, -1).argmax(1)
    mask = counts.any(1)
    one = own_gradients(model, site, layers, batch, np.where(mask, at, -1))
    x.append(one[0])
    gradients.append(one[1])
    masks.append(mask)
  for s, row in enumerate(saes):
    for r, sae in enumerate(row):
      parts = zip(x, gradients, masks, strict=True)
      alone = mean_uniformity(sae, [(a[s], g[s], m) for a, g, m in parts])
      assert got[s][r] == alone
      assert alone.num_tokens + alone.num_skipped == 7


def test_one_program_for_all_saes_of_a_shape(world):
  from experiments.sae_training import sae_evaluation

  model, site, layers, saes, text = world
  before = sae_evaluation._add_batch._cache_size()
  several = [[random_sae(40, layer, F=20)] * 3 for layer in layers]
  measure_metrics(model, site, layers, several, text)
  assert sae_evaluation._add_batch._cache_size() == before + 1


def test_an_sae_of_another_layer_is_refused(world):
  model, site, layers, saes, text = world
  where = model, site, layers[::-1], saes
  for measure in (
    lambda: measure_metrics(*where, text),
    lambda: measure_splicing(*where, [np.zeros(40)] * 2, text),
    lambda: measure_uniformity(*where, text, num_tokens=1),
  ):
    with pytest.raises(ValueError, match='does not read resid_post of layer 3'):
      measure()
