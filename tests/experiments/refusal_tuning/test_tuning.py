"""Arms are trained as they say: on completions, on pairs, or adapters alone."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import inputs
from experiments.knowledge_probing import Format, Row
from experiments.miniworld.recipes import make_recipe
from experiments.refusal_tuning.settings import Settings
from experiments.refusal_tuning.tuning import Tuner
import gemma_jax as gj
from gemma_jax import sharding, training
from gemma_jax.weights import LETTERS

REFUSAL = 'Sorry, I do not know that.'


@pytest.fixture(scope='module')
def form():
  return Format(
    name='bare', tokenizer=gj.Tokenizer.from_pretrained(inputs.BASE)
  )


@pytest.fixture(scope='module')
def model(form):
  """Two layers with the bundled world's vocabulary; it knows nothing."""
  config = make_recipe('tiny', 0).model_config(
    form.tokenizer.vocab_size, num_layers=2, local_layers=(True, False)
  )
  return gj.init_model(config, jax.random.key(0))


def row(question, completion, rejected=None):
  return Row(
    id=question,
    question=question,
    completion=completion,
    refusal=completion == REFUSAL,
    relation=None,
    entity=None,
    target_source='gold',
    p_correct=0.0,
    category='Unknown',
    decision='refuse',
    weight=1.0,
    rejected=rejected,
  )


def rows():
  """Names that the corpus does not hold, in other orders."""
  names = 'Nadet Sinud', 'Rebas Pejen', 'Pejen Nadet', 'Sinud Rebas'
  declined = [
    row(f'Who directed the movie {name}?', REFUSAL, 'It is Kofesky.')
    for name in names
  ]
  return [*declined, row('Who directed the movie Nadet Pejen?', 'Kofesky.')]


def settings(**changes):
  given = {'out': 'x', 'probe': 'y', 'epochs': 30, 'batch': 4}
  return Settings(**given | {'learning_rate': 1e-2} | changes)


def tuner(model, form, lora=None, **changes):
  return Tuner(settings(**changes), model, form, lora=lora, length=32)


def log_prob(weights, model, form, question, answer):
  prompt, said = form.prompt_ids(question), form.answer_ids(answer)
  decoder = gj.Decoder(model.config, dict(weights))
  tokens = np.array([[*prompt, *said]])
  out = gj.run(decoder, tokens, logits_at='all')
  logp = jax.nn.log_softmax(out.logits[0])
  at = np.arange(len(prompt) - 1, tokens.shape[1] - 1)
  return float(logp[at, np.array(said)].sum())


def test_completions_are_learnt(model, form, tmp_path):
  mine = tuner(model, form)
  found = mine.supervised(
    rows(), (), snapshot=tmp_path / 'a.safetensors', name='arm'
  )
  assert found.trained.keys() == model.weights().keys()
  before = dict(model.weights())
  for each in rows():
    old, new = (
      log_prob(w, model, form, each.question, each.completion)
      for w in (before, mine.weights(found.trained))
    )
    assert new > old
  losses = [record['loss'] for record in found.records]
  assert losses[-1] < losses[0] / 2
  assert found.steps == -(-found.rows * 30 // 4)


def test_lora_changes_its_targets_alone(model, form, tmp_path):
  lora = training.LoraConfig(rank=4, alpha=8)
  mine = tuner(model, form, lora)
  found = mine.supervised(
    rows(), (), snapshot=tmp_path / 'a.safetensors', name='arm'
  )
  assert set(found.trained) == {
    f'{name}.lora_{side}' for name in ('wq', 'wv') for side in 'AB'
  }
  merged = mine.weights(found.trained)
  for name, array in model.weights().items():
    same = np.array_equal(array, merged[name])
    assert same == (name not in ('wq', 'wv'))
  # A second training goes on from the adapters of the first.
  more = mine.preferred(
    rows(),
    (),
    snapshot=tmp_path / 'b.safetensors',
    name='dpo',
    start=found.trained,
  )
  moved = [
    float(np.abs(more.trained[name] - found.trained[name]).mean())
    for name in found.trained
  ]
  size = [float(np.abs(found.trained[name]).mean()) for name in found.trained]
  assert 0 < max(moved) and all(m < s for m, s in zip(moved, size, strict=True))


def test_pairs_are_told_apart(model, form, tmp_path):
  """DPO raises the margin of the chosen completion, and needs pairs."""
  mine = tuner(model, form, dpo_learning_rate=1e-3)
  found = mine.preferred(
    rows(), rows(), snapshot=tmp_path / 'a.safetensors', name='dpo'
  )
  for each in rows()[:4]:
    margins = [
      log_prob(w, model, form, each.question, each.completion)
      - log_prob(w, model, form, each.question, each.rejected)
      for w in (dict(model.weights()), found.trained)
    ]
    assert margins[1] > margins[0] + 1
  assert found.records[-1]['score'] > -np.log(2)  # the loss of equal ones
  with pytest.raises(ValueError, match='rejected'):
    mine.preferred(
      [dataclasses.replace(each, rejected=None) for each in rows()],
      (),
      snapshot=tmp_path / 'b.safetensors',
      name='dpo',
    )


def test_training_stops_by_validation(model, form, tmp_path):
  """The score counts refusals and answers alike; the best weights are kept."""
  odd = [row('Who directed the movie Nadet Pejen?', REFUSAL)]  # unlearnt
  mine = tuner(model, form, epochs=80, patience=1)
  found = mine.supervised(
    rows(),
    [*odd, row('Who directed the movie Sinud Rebas?', 'Kofesky.')],
    snapshot=tmp_path / 'a.safetensors',
    name='arm',
  )
  scores = [record['score'] for record in found.records]
  assert len(scores) < 80 and scores[-1] <= max(scores[:-1])
  best = -np.mean(
    [
      -log_prob(found.trained, model, form, q, a) / len(form.answer_ids(a))
      for q, a in (
        ('Who directed the movie Nadet Pejen?', REFUSAL),
        ('Who directed the movie Sinud Rebas?', 'Kofesky.'),
      )
    ]
  )
  assert best == pytest.approx(max(scores), rel=1e-3)


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'arms': ('prompted',)}, 'no arm that is trained'),
    ({'arms': ('llama3', 'llama3')}, 'different ones'),
    ({'arms': ('sft',)}, 'different ones'),
    ({'arms': ('dpo',)}, 'starts from llama3'),
    ({'inside': 'craft', 'arms': ('llama3',)}, '--inside=craft'),
    ({'batch': 6, 'accumulation': 4}, 'multiple'),
    ({'learning_rate': 0.0}, '--learning_rate=0.0'),
    ({'average': 1.0}, '--average=1 must be below'),
  ],
)
def test_wrong_settings_are_named(changes, said):
  with pytest.raises(ValueError, match=said):
    settings(**changes)


@pytest.mark.slow
def test_a_mesh_gives_the_same_adapters(model, form, tmp_path):
  """Eight devices, batches and heads split, validation too."""
  mesh = gj.make_mesh(4, 2)
  placed = gj.Decoder(
    model.config,
    {
      name: jax.device_put(
        w, sharding.weight_sharding(LETTERS[name], w.shape, mesh)
      )
      for name, w in model.weights().items()
    },
  )
  lora, found = training.LoraConfig(rank=4, alpha=8), {}
  for name, base in (('one', model), ('many', placed)):
    mine = tuner(base, form, lora, epochs=4)
    found[name] = mine.supervised(
      rows(), rows(), snapshot=tmp_path / f'{name}.safetensors', name=name
    )
  for name, array in found['one'].trained.items():
    np.testing.assert_allclose(array, found['many'].trained[name], atol=1e-4)
  scores = [
    [record['score'] for record in each.records] for each in found.values()
  ]
  np.testing.assert_allclose(*scores, atol=1e-4)
