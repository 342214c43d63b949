"""Path patching into a later component against whole runs, step by step."""

import numpy as np
import pytest

from experiments.factual_recall.path_patching import donors
from experiments.factual_recall.receivers import effects_through, parse_receiver
from experiments.factual_recall.trace import Readout, trace
import gemma_jax as gj
from tests import tiny
from tests.experiments.factual_recall import random_prompts


def plain(model, receiver, sender, donor, prompts, readout):
  """One sender and one receiver by three whole runs, pi [n, 2]."""
  layer, head = receiver
  at, number = sender
  tokens, positions = prompts.whole()
  clean = gj.run(model, tokens, positions, capture=gj.capture('z'))
  changes = [gj.patch('z', source=clean)]
  where = {'layers': at, 'positions': 'last'}
  if number < model.config.num_heads:
    source = donor['z'][at][:, None]
    changes.append(gj.patch('z', source=source, heads=number, **where))
  else:
    source = donor['mlp_out'][at][:, None]
    changes.append(gj.patch('mlp_out', source=source, **where))
  read, written = (
    ('resid_mid', 'mlp_out') if head is None else ('resid_pre', 'z')
  )
  last = lambda site: gj.capture(site, layers=layer, positions='last')
  here = {'layers': layer, 'positions': 'last'}
  seen = gj.run(
    model, tokens, positions, interventions=changes, capture=last(read)
  )[read, layer]
  wrote = gj.run(
    model,
    tokens,
    positions,
    interventions=[gj.patch(read, source=np.asarray(seen), **here)],
    capture=last(written),
  )[written, layer]
  final = model.config.num_layers - 1
  out = gj.run(
    model,
    tokens,
    positions,
    interventions=[
      gj.patch(written, source=np.asarray(wrote), heads=head, **here)
    ],
    capture=gj.capture('resid_post', layers=final, positions='last'),
  )
  return readout.pi(np.asarray(out['resid_post', final][:, 0]))


@pytest.mark.parametrize(
  ('family', 'prefix', 'name'),
  [
    ('gemma2', 0, 'L2H1'),
    ('llama', 2, 'MLP1'),
    pytest.param('gpt2', 3, 'MLP2', marks=pytest.mark.slow),
    pytest.param('llama', 0, 'L1H0', marks=pytest.mark.slow),
  ],
)
def test_effects_are_those_of_three_whole_runs(family, prefix, name):
  _, model = tiny.pair(0, family)
  prompts = random_prompts.make(subjects=4, templates=2, prefix=prefix)
  other = random_prompts.make(subjects=4, templates=2, prefix=prefix, seed=9)
  clean, corrupted = trace(model, prompts), trace(model, other)
  donor = donors(corrupted, mean=True)
  readout = Readout.of(model, prompts.answers, prompts.names)
  receiver = parse_receiver(name, model.config)
  found = effects_through(
    model, receiver, clean, donor, prompts, readout, rows_per_batch=3
  )
  layer, head = receiver
  assert len(found) == layer + (head is None)
  moved = 0
  for at in range(len(found)):
    for number in range(model.config.num_heads + (at < layer)):
      expected = plain(model, receiver, (at, number), donor, prompts, readout)
      np.testing.assert_allclose(found[at, number], expected, atol=2e-5)
      moved = max(moved, np.abs(expected - readout.pi(clean.final)).max())
  assert moved > 1e-3


@pytest.mark.parametrize('name', ['L9H0', 'L0H99', 'MLP9', 'H3', 'L1', ''])
def test_no_receiver(name):
  _, model = tiny.pair(0, 'llama')
  with pytest.raises(ValueError, match='no receiver'):
    parse_receiver(name, model.config)
