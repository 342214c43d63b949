"""What is kept is of the SAEs and settings that are given."""

import dataclasses
import pathlib
import types

import numpy as np
import pytest

from experiments.confounds import plan
from experiments.confounds.chat_stages import ChatStages
from experiments.confounds.kept_stages import Stages
from experiments.confounds.prompt_variants import PromptVariant
from experiments.entities import Entity, activation_prompt
from experiments.latents import LatentId
from sae import JumpReLUSAE, Weights
from tests.experiments.latents import small
from tests.experiments.steering import planted


def given(folder: pathlib.Path, saes, latents=(small.KNOWN, small.UNKNOWN)):
  """Of the small model, as far as stages and plans read one."""
  by_layer = {sae.origin.layer: sae for sae in saes}
  return types.SimpleNamespace(
    out=folder,
    tokenizer=small.tokenizer(),
    about={'model': 'small'},
    settings=types.SimpleNamespace(sae='saes'),
    targets={
      label: types.SimpleNamespace(id=id)
      for label, id in zip(('known', 'unknown'), latents, strict=True)
    },
    load=small.model,
    reader=types.SimpleNamespace(folder='small'),
    sae=by_layer.__getitem__,
    sae_choices=by_layer,
  )


def other(sae: JumpReLUSAE) -> JumpReLUSAE:
  """The same name and thresholds, other weights."""
  return JumpReLUSAE(
    Weights(
      W_enc=np.asarray(sae.W_enc[...]) * 2,
      W_dec=np.asarray(sae.W_dec[...]),
      b_enc=np.asarray(sae.b_enc[...]) + 1,
      b_dec=np.asarray(sae.b_dec[...]),
      threshold=np.asarray(sae.threshold[...]),
    ),
    sae.origin,
  )


def prompts():
  return [
    activation_prompt(Entity(name, small.TYPES[e], {}))
    for name, e in zip(
      small.data()['train'].entities.names,
      small.data()['train'].entities.type_of,
      strict=True,
    )
  ]


def test_readers_and_firing_are_of_the_saes_given(tmp_path):
  train = small.data()['train'].entities
  first, again = (
    Stages(given(tmp_path, saes))
    for saes in (small.saes(), [other(sae) for sae in small.saes()])
  )
  before = first.readers(train, prompts())
  fired = first.firing('firing', small.saes(), prompts())
  # Means are kept; nothing of the model is run for them again.
  again.given.load = lambda: pytest.fail('the model was loaded')
  after = again.readers(train, prompts())
  assert [one.name for one in after] == [one.name for one in before]
  for a, b in zip(before[::2], after[::2], strict=True):
    assert np.asarray(b.weight) == pytest.approx(2 * np.asarray(a.weight))
    assert b.bias == pytest.approx(a.bias + 1)
  for a, b in zip(before[1::2], after[1::2], strict=True):
    assert (a.weight == b.weight).all() and a.bias == b.bias
    assert a.id is b.id is None
  again.given.load = small.model
  found = again.firing(
    'firing', [other(sae) for sae in small.saes()], prompts()
  )
  for a, b in zip(fired, found, strict=True):
    assert a.where == b.where and (a.matrix != b.matrix).nnz > 0


def test_other_settings_ask_again(tmp_path):
  """In the same folder; those that were finished, or killed half way."""
  stages = ChatStages(
    types.SimpleNamespace(out=tmp_path),
    types.SimpleNamespace(load=planted.model),
    planted.tokenizer(),
  )
  shown = [
    PromptVariant(kind='test', label=label, of=0, entity=entity, prompt=None)
    for label, names in (
      ('known', planted.KNOWN),
      ('unknown', planted.UNKNOWN),
    )
    for entity in planted.entities(names)['player']
  ]

  def refused(shown, tokens, rows):
    found = stages.refusals(
      shown,
      max_new_tokens=tokens,
      rows_per_batch=rows,
      mode='default',
      identity={'model': 'planted'},
    )
    return [one['answer'] for one in found]

  every = refused(shown, 4, 8)
  assert refused(shown[:4], 3, 8) == every[:4]
  assert refused(shown, 4, 16) == every


def planned(folder, saes, sums=None, latents=(small.KNOWN, small.UNKNOWN)):
  """Layers, sums, and what is said of their lack."""
  of = given(folder, saes, latents)
  made, groups = small.sums()
  of.findings = types.SimpleNamespace(
    latents={'types': list(groups.types)},
    sums=lambda: made if sums is None else sums,
  )
  said = []
  return *plan._searched(of, said), said


def test_layers_of_the_run_are_searched(tmp_path):
  made, _ = small.sums()
  saes = small.saes()
  layers, sums, said = planned(tmp_path, saes)
  assert layers == [1, 3] == [one.layer for one in sums] and not said
  # The run searched one of them alone; its filter of text holds there.
  layers, sums, said = planned(tmp_path, saes, made[1:])
  assert layers == [3] == [one.layer for one in sums] and not said
  layers, sums, said = planned(tmp_path, saes, [])
  assert layers == [1, 3] and not sums and 'there is no run' in said[0]
  layers, sums, said = planned(tmp_path, saes, made[:1])
  assert layers == [1, 3] and not sums and 'are named in layers' in said[0]
  without = [dataclasses.replace(one, n=_no_text(one)) for one in made]
  layers, sums, said = planned(tmp_path, saes, without)
  assert layers == [1, 3] and not sums and 'not harvested any' in said[0]
  id = LatentId('resid_post', 3, 1)
  layers, _, said = planned(tmp_path, saes[1:], latents=(id, id))
  assert layers == [3] and said[0].startswith('Layers 1 in the searches')


def _no_text(sums):
  n = np.array(sums.n)
  n[small.sums()[1].text] = 0
  return n
