"""A direction taken out of the weights is in nothing that blocks write."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.steering.weight_ablation import ablate_weights
import gemma_jax as gj
from tests import tiny

LAYERS = {'num_hidden_layers': 2}


@pytest.fixture(scope='module')
def model():
  return tiny.pair(**LAYERS)[1]


@pytest.fixture(scope='module')
def direction():
  d = np.random.default_rng(0).standard_normal(40).astype(np.float32)
  return 3 * d


SITES = ('attn_out_raw', 'attn_out', 'mlp_out_raw', 'mlp_out', 'resid_post')


def along(model, direction, interventions=None):
  """Site -> largest |cosine| with the direction, over tokens and layers."""
  tokens, positions = tiny.ragged(4, 9, 'right')
  out = gj.run(
    model,
    tokens,
    positions,
    interventions=interventions,
    capture=gj.capture(*SITES),
  )
  d = direction / np.linalg.norm(direction)
  found = {}
  for site, x in out.activations.items():
    x = np.asarray(x, np.float64)[:, positions >= 0]
    found[site] = np.abs(x @ d / np.linalg.norm(x, axis=-1)).max()
  return found


def test_exact_leaves_nothing_and_reference_some(model, direction):
  assert min(along(model, direction).values()) > 0.2
  exact = along(*edit(model, direction, 'exact'))
  for site in ('attn_out', 'mlp_out', 'resid_post'):
    assert exact[site] < 1e-6, site
  # What is orthogonal before a gain is not behind it.
  reference = along(*edit(model, direction, 'reference'))
  assert max(reference['attn_out_raw'], reference['mlp_out_raw']) < 1e-6
  assert min(reference['attn_out'], reference['mlp_out']) > 0.05


def edit(model, direction, way):
  edited, everywhere = ablate_weights(model, direction, way)
  return edited, direction, everywhere


def test_reference_equals_the_published_weight_edit_in_hf(model, direction):
  """W - (W.d) d on a copy of HF's weights, embeddings untied."""
  hf = copy.deepcopy(tiny.pair(**LAYERS)[0])
  d = torch.tensor(direction / np.linalg.norm(direction))
  with torch.no_grad():
    hf.lm_head.weight = torch.nn.Parameter(hf.lm_head.weight.clone())
    table = hf.model.embed_tokens.weight
    table -= (table @ d)[:, None] * d
    for layer in hf.model.layers:
      for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
        linear.weight -= d[:, None] * (d @ linear.weight)
  edited, everywhere = ablate_weights(model, direction, 'reference')
  tokens, positions = tiny.ragged(3, 8, 'right')
  want = tiny.hf_forward(hf, tokens, positions).logits.numpy()
  got = gj.run(
    edited, tokens, positions, interventions=everywhere, logits_at='all'
  ).logits
  real = positions >= 0
  np.testing.assert_allclose(np.asarray(got)[real], want[real], atol=2e-4)


def test_exact_equals_ablating_each_layers_own_direction(model, direction):
  """One edit per layer and sublayer, at its output before the post-norm."""
  weights = model.weights()
  edits = []
  for site, norm in (
    ('attn_out_raw', 'post_attn_norm'),
    ('mlp_out_raw', 'post_mlp_norm'),
  ):
    for layer in range(model.config.num_layers):
      u = direction * (1 + np.asarray(weights[norm][layer]))
      edits.append(gj.ablate_direction(site, u, layers=layer))
  edited, everywhere = ablate_weights(model, direction, 'exact')
  tokens, positions = tiny.ragged(3, 8, 'right')
  run = lambda model, interventions: np.asarray(
    gj.run(
      model, tokens, positions, interventions=interventions, logits_at='all'
    ).logits
  )
  np.testing.assert_allclose(
    run(edited, everywhere), run(model, [*edits, *everywhere]), atol=2e-4
  )


def test_the_direction_and_the_way_are_checked(model, direction):
  with pytest.raises(ValueError, match='exactly'):
    ablate_weights(model, direction, 'exactly')
  with pytest.raises(ValueError, match='norm 0'):
    ablate_weights(model, np.zeros(40), 'exact')


def test_bfloat16_keeps_its_dtype(direction):
  model = tiny.ours(jnp.bfloat16, **LAYERS)
  edited, everywhere = ablate_weights(model, direction, 'exact')
  assert edited.dtype == jnp.bfloat16
  assert along(edited, direction, everywhere)['attn_out'] < 1e-2
  shared = jax.tree.leaves(edited.embed)[0]
  assert shared is jax.tree.leaves(model.embed)[0]
