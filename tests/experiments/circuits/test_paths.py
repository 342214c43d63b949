"""Held components and paths, against patches put together one by one."""

import numpy as np
import pytest

from experiments.circuits.components import (
  CLEAN,
  FREE,
  GIVEN,
  GROUPS,
  Component,
  components_where,
  states_of,
)
from experiments.circuits.effects import (
  LATENT,
  LOGITS,
  Edge,
  component_effects,
  edge_effects,
  possible_edges,
  set_effects,
)
import gemma_jax as gj
from tests.experiments.circuits import small

N, L = 4, 5


def positions_of(group: str) -> np.ndarray:
  """bool [4, 10]."""
  gates = np.zeros((4, 10), bool)
  for row, length in zip(gates, small.LENGTHS, strict=True):
    start, stop = small.SPAN
    row[
      {
        'before': slice(0, start),
        'entity': slice(start, stop),
        'after': slice(stop, length - 1),
        'last': slice(length - 1, length),
      }[group]
    ] = True
  return gates


def patched(component: Component, edited: bool = True, source=None):
  """The library's own patch of one component."""
  return gj.patch(
    component.site,
    small.captured(edited) if source is None else source,
    layers=component.layer,
    heads=component.head,
    positions=gj.per_row(positions_of(component.group)),
  )


def test_the_metric_is_of_logits_before_the_cap():
  tracer = small.tracer()
  clean = small.run()
  np.testing.assert_allclose(tracer.clean_metric, clean, atol=2e-4)
  edited = small.run([small.steering()])
  np.testing.assert_allclose(tracer.total, edited - clean, atol=2e-4)
  assert np.abs(tracer.total).min() > 0.05


def test_what_changes_is_behind_the_edit():
  changed = small.tracer().changed()
  assert not changed[: small.LAYER + 1].any()
  assert not changed[:, :, GROUPS.index('before')].any()
  assert changed[small.LAYER + 1 :, :, 1:].all()
  assert len(components_where(changed)) == 3 * (N + 1) * 3


def test_with_all_held_nothing_is_left():
  tracer = small.tracer()
  np.testing.assert_array_equal(set_effects(tracer, [[]], CLEAN)[0], 0)
  np.testing.assert_array_equal(
    set_effects(tracer, [[]], FREE)[0], tracer.total
  )
  # Where the last token is edited too, its stream goes to the logits.
  everywhere = small.tracer('entity_last_to_end')
  assert np.abs(set_effects(everywhere, [[]], CLEAN)[0]).min() > 0.01


@pytest.mark.parametrize(
  'component',
  [
    Component(2, 1, 'last'),
    Component(3, 0, 'after'),
    Component(2, None, 'entity'),
    Component(4, None, 'last'),
  ],
)
def test_carried_and_lost_equal_plain_patches(component):
  found = component_effects(small.tracer(), [component])
  carried = small.run([patched(component)]) - small.run()
  np.testing.assert_allclose(found['carried'][0], carried, atol=2e-4)
  edit, change = small.steering(), patched(component, edited=False)
  lost = small.run([edit]) - small.run([edit, change])
  np.testing.assert_allclose(found['lost'][0], lost, atol=2e-4)


def test_any_set_equals_one_patch_per_component():
  """Heads of several layers and tokens: no product of gates."""
  rng = np.random.default_rng(2)
  everything = components_where(small.tracer().changed())
  chosen = [everything[i] for i in rng.permutation(len(everything))[:5]]
  changes = [patched(component, edited=False) for component in chosen]
  want = small.run([small.steering(), *changes])
  got = set_effects(small.tracer(), [chosen], FREE)[0]
  np.testing.assert_allclose(got, want - small.run(), atol=2e-4)


def norm(x, weight, eps):
  x = np.asarray(x, np.float64)
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * (1 + weight)


def test_direct_effects_are_sums_of_the_stream():
  """The last stream, with one part exchanged, by hand."""
  model, config = small.model(), small.model().config
  weights = {k: np.asarray(v, np.float64) for k, v in model.weights().items()}
  clean, edited = small.captured(False), small.captured(True)
  last = np.array(small.LENGTHS) - 1
  at = lambda x, layer: np.asarray(x[layer], np.float64)[np.arange(4), last]
  components = [Component(2, 0, 'last'), Component(4, 3, 'last')]
  components += [Component(3, None, 'last')]
  found = component_effects(small.tracer(), components)['direct']
  for row, component in zip(found, components, strict=True):
    layer = component.layer
    if component.head is None:
      change = at(edited['mlp_out'], layer) - at(clean['mlp_out'], layer)
    else:
      z = at(clean['z'], layer).reshape(4, N, -1)
      z[:, component.head] = at(edited['z'], layer).reshape(4, N, -1)[
        :, component.head
      ]
      raw = np.einsum('BNH,DNH->BD', z, weights['wo'][layer])
      gain = weights['post_attn_norm'][layer]
      added = norm(raw, gain, config.norm_eps)
      change = added - at(clean['attn_out'], layer)
    x = at(clean['resid_post'], L - 1) + change
    y = norm(x, weights['final_norm'], config.norm_eps)
    logits = y @ weights['embed'].T
    rows = np.arange(4)
    metric = (
      logits[rows, small.PAIRS.refusal] - logits[rows, small.PAIRS.answer]
    )
    np.testing.assert_allclose(row, metric - small.run(), atol=2e-4)
  assert np.abs(found).max() > 0.05


def test_an_edge_equals_two_runs_of_plain_patches():
  """From a head of layer 2 to the MLP of layer 3, both at the last token."""
  sender, receiver = Component(2, 1, 'last'), Component(3, None, 'last')
  clean = small.captured(False)
  others = gj.per_row(~positions_of('last'))
  where = 'entity_last_to_end'
  out = gj.run(
    small.model(),
    *small.padded(),
    interventions=[
      gj.patch('z', clean),
      patched(sender, source=small.captured(True, where)),
      gj.patch('mlp_out', clean, layers=[0, 1, 2, 4]),
      gj.patch('mlp_out', clean, layers=3, positions=others),
    ],
    capture=gj.capture('mlp_out'),
  )
  want = small.run([patched(receiver, source=out)]) - small.run()
  got = edge_effects(small.tracer(where), [Edge(sender, receiver)])[0]
  np.testing.assert_allclose(got, want, atol=2e-4)
  assert np.abs(want).max() > 0.01


def test_edges_go_forward_and_mlps_read_their_own_token():
  a, b = Component(2, 0, 'entity'), Component(2, None, 'last')
  c, d = Component(3, 1, 'last'), Component(2, 1, 'last')
  edges = set(possible_edges(small.tracer(), [a, b, c, d]))
  inner = {e for e in edges if LATENT not in e and LOGITS not in e}
  assert inner == {Edge(a, c), Edge(b, c), Edge(d, b), Edge(d, c)}
  assert {e.sender for e in edges if e.receiver == LOGITS} == {b, c, d}
  assert Edge(LATENT, LOGITS) not in edges
  everywhere = possible_edges(small.tracer('entity_last_to_end'), [c])
  assert Edge(LATENT, LOGITS) in everywhere


def test_an_edge_to_the_logits_is_the_direct_effect():
  component = Component(3, 2, 'last')
  direct = component_effects(small.tracer(), [component])['direct']
  edge = edge_effects(small.tracer(), [Edge(component, LOGITS)])
  np.testing.assert_allclose(edge, direct, atol=1e-6)


def test_states_name_components():
  config = small.model().config
  chosen = [Component(1, 2, 'after'), Component(4, None, 'last')]
  states = states_of(config, chosen, GIVEN, CLEAN)
  assert components_where(states == GIVEN) == chosen
  assert (states == CLEAN).sum() == L * (N + 1) * 4 - 2
  assert list(map(str, chosen)) == ['z.1/2 after', 'mlp_out.4 last']
