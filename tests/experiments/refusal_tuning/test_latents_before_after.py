import dataclasses

import numpy as np
import pytest
from sklearn import metrics

from experiments import inputs
from experiments.entities import activation_prompt, tokenize_prompt
from experiments.knowledge_probing.world_questions import bundled_world
from experiments.latents import LatentId
from experiments.refusal_tuning import latents_before_after as lib
from experiments.refusal_tuning.asked import Asked
import gemma_jax as gj
from sae.jumprelu import encode

LAYERS = (2, 4)


@pytest.fixture(scope='module')
def world():
  """Base and chat model, SAEs, prompts of entities to choose and to compare."""
  base = inputs.open_model(str(inputs.BASE))
  tokenizer = inputs.read_tokenizer(base)
  found = bundled_world(inputs.BUNDLE)

  def prompts(known, unknown):
    ids, spans, entities, labels = [], [], [], []
    for group, label in ((known, True), (unknown, False)):
      for entity in found.entities(group)[:96]:
        tokens = tokenize_prompt(tokenizer, activation_prompt(entity))
        ids.append(tuple(tokens.ids))
        spans.append(tokens.entity)
        entities.append(entity.name)
        labels.append(label)
    return Asked(
      ids=tuple(ids),
      spans=np.array(spans),
      entities=tuple(entities),
      known=np.array(labels),
    )

  named = inputs.choose_saes(
    str(inputs.SAES),
    base.config,
    layers=LAYERS,
    width=None,
    l0=None,
  )
  return {
    'base': base.load(),
    'chat': inputs.open_model(str(inputs.CHAT)).load(),
    'saes': {one.layer: one.load(base) for one in named},
    'train': prompts('validation', 'unseen_validation'),
    'test': prompts('held_out', 'unseen'),
  }


def test_the_bundled_world_keeps_its_latents(world):
  saes, test = world['saes'], world['test']
  found = lib.find_latents(world['base'], saes, world['train'], count=1)
  assert not set(world['train'].entities) & set(test.entities)
  result = lib.compare_latents(
    world['base'], world['chat'], saes, test, found, controls=4
  )
  by = {each['label']: each for each in result['latents']}
  assert result['n'] == len(test) == result['entities']
  unknown = by['unknown']
  # The chat model was tuned from the base: it tells the same entities.
  assert unknown['auroc']['before']['low'] > 0.7
  assert unknown['auroc']['after']['low'] > 0.7
  assert unknown['spearman']['low'] > 0.7
  assert unknown['rank'] == 1 and len(unknown['random']) == 4
  for other in unknown['random']:
    assert other['auroc']['after'] < unknown['auroc']['after']['value']
    assert (
      other['name'] != unknown['name'] and other['layer'] == unknown['layer']
    )
  # Values are those of the SAE itself.
  id = LatentId.parse(unknown['name'])
  for side, model in (('before', 'base'), ('after', 'chat')):
    batch = test.padded(0)
    at = gj.per_row(test.name_ends)
    out = gj.run(
      world[model],
      *batch,
      capture=gj.capture('resid_post', layers=id.layer, positions=at),
    )
    x = out['resid_post', id.layer][:, 0]
    latent = np.asarray(encode(saes[id.layer].weights(), x))[:, id.latent]
    assert unknown['auroc'][side]['value'] == pytest.approx(
      metrics.roc_auc_score(~test.known, latent), abs=1e-3
    )


def test_the_same_model_changes_nothing(world):
  base, test = world['base'], world['test']
  id = LatentId('resid_post', 2, 236)
  found = lib.find_latents(
    base, world['saes'], world['train'], latents={'unknown': [id]}
  )
  result = lib.compare_latents(
    base, base, world['saes'], test, found, controls=2
  )
  (latent,) = result['latents']
  assert latent['name'] == 'resid_post.2/236'
  assert latent['auroc']['change']['value'] == 0
  assert latent['spearman']['value'] == pytest.approx(1)
  with pytest.raises(ValueError, match='There is no SAE for resid_post.3/1'):
    lib.find_latents(
      base,
      world['saes'],
      world['train'],
      latents={'known': [LatentId('resid_post', 3, 1)]},
    )


def test_directions_need_no_saes(world):
  (found,) = lib.compare_directions(
    world['base'], world['chat'], [4], world['train'], world['test']
  )
  assert found['auroc']['before']['low'] > 0.9
  assert found['auroc']['after']['low'] > 0.9
  assert found['layer'] == 4 and found['label'] == 'known'
  few = world['train'].take(world['train'].known)
  with pytest.raises(ValueError, match='training entities are all known'):
    lib.compare_directions(
      world['base'], world['chat'], [4], few, world['test']
    )


def test_plain_text_filters_latents(world):
  # Of the same prompts, as if they were text: what fires on them is left out.
  text = [
    ids[: end + 1]
    for ids, end in zip(
      world['train'].ids, world['train'].name_ends, strict=True
    )
  ]
  free = lib.find_latents(world['base'], world['saes'], world['train'], count=1)
  bound = lib.find_latents(
    world['base'], world['saes'], world['train'], count=1, text=text
  )
  assert free.latents['unknown'] != bound.latents['unknown']
  assert dataclasses.is_dataclass(bound)
