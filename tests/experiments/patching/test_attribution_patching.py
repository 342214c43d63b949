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
  site = MAPS[name]
  given = gj.run(model, donor.tokens, capture=gj.capture(site))
  at = {'z_last': T - 1, 'z_all': None}.get(name, column)

  def difference(gate):
    layers = np.zeros(model.config.num_layers)
    layers[layer] = gate
    change = gj.patch(
      site,
      given,
      layers=layers,
      heads=column if site == 'z' else None,
      positions=at,
    )
    logits = gj.run(
      model, base.tokens, interventions=[change], logits_at='last'
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
