"""Attribution is the derivative of a patch at gate 0."""

import numpy as np
import pytest

from experiments.patching import MAPS, attribute
import gemma_jax as gj
from tests.experiments.patching import small
from tests.experiments.patching.small import DIFFER, T, n

STEP = 2e-3


@pytest.fixture(scope='module')
def found():
  return attribute(small.model(), *small.runs())


@pytest.mark.parametrize(
  'name, layer, column',
  [
    ('resid_pre', 0, DIFFER),
    ('resid_pre', 3, T - 1),
    ('attn_out', 2, 4),
    ('mlp_out', 1, DIFFER + 1),
    ('z_last', 3, 1),
    ('z_all', 0, 2),
  ],
)
def test_small_steps_towards_the_donor(found, name, layer, column):
  """Central differences of whole runs with a patch that is hardly open."""
  model, (base, donor) = small.model(), small.runs()
  config, site = model.config, MAPS[name]
  given = gj.run(model, donor.tokens, capture=gj.capture(site)).activations
  features = None
  if site == 'z':
    features = np.zeros((1, config.num_heads, config.head_dim))
    features[:, column] = 1
    features = features.reshape(1, -1)
  at = {'z_last': T - 1, 'z_all': None}.get(name, column)

  def difference(gate):
    layers = np.zeros((1, config.num_layers))
    layers[0, layer] = gate
    change = gj.patch(
      config,
      site,
      given[site],
      layers=layers,
      source_positions=np.arange(T),
      positions=at,
      num_positions=None if at is None else T,
      features=features,
    )
    logits = gj.run(
      model,
      base.tokens,
      interventions={site: (change,)},
      logits_at=np.array([[T - 1]]),
    ).logits[:, 0]
    chosen = np.take_along_axis(np.asarray(logits), base.answers, 1)
    return chosen[:, 0] - chosen[:, 1]

  slope = (difference(STEP) - difference(-STEP)) / (2 * STEP)
  assert found[name].shape[-1] == n
  np.testing.assert_allclose(
    found[name][layer, column], slope, atol=2e-2, rtol=3e-2
  )


def test_nothing_before_the_sides_differ(found):
  for name in ('resid_pre', 'attn_out', 'mlp_out'):
    assert not found[name][:, :DIFFER].any()
    assert found[name][:, DIFFER].any()
  np.testing.assert_allclose(found['resid_pre'][0, DIFFER + 2 :], 0, atol=1e-5)
