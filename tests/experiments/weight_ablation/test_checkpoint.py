"""Saved models: HF computes with them what we do, and they are free of it."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
import transformers

from experiments.steering import ablate_weights
from experiments.steering.questions import Question
from experiments.steering.weight_ablation import written_at_first
from experiments.weight_ablation import (
  largest_cosines,
  read_direction,
  save_untied,
)
import gemma_jax as gj
from tests import tiny

D = 40


@pytest.fixture(scope='module')
def direction():
  return 3 * np.random.default_rng(0).standard_normal(D).astype(np.float32)


@pytest.fixture(scope='module')
def model():
  return tiny.pair(num_hidden_layers=2)[1]


@pytest.fixture(scope='module')
def saved(model, direction, tmp_path_factory):
  """Way -> folder."""
  root = tmp_path_factory.mktemp('saved')
  (root / 'original').mkdir()
  (root / 'original' / 'tokenizer_config.json').write_text('{"a": 1}')
  (root / 'original' / 'notes.txt').write_text('not part of a checkpoint')
  for way in ('exact', 'reference'):
    edited, _ = ablate_weights(model, direction, way)
    save_untied(edited, direction, root / way, companions=root / 'original')
  return root


def questions():
  tokens, positions = tiny.ragged(4, 9, 'right')
  return [
    Question(
      entity='',
      type='city',
      entity_class='known',
      prompt_type='city_country',
      answer='',
      text='',
      ids=tuple(row[at >= 0].tolist()),
      span=(0, 1),
    )
    for row, at in zip(tokens, positions, strict=True)
  ]


def logits(model, interventions=None):
  tokens, positions = tiny.ragged(3, 8, 'right')
  out = gj.run(
    model, tokens, positions, interventions=interventions, logits_at='all'
  ).logits
  return np.asarray(out)[positions >= 0]


@pytest.mark.parametrize('way', ['exact', 'reference'])
def test_hf_computes_what_was_evaluated(saved, model, direction, way):
  hf, info = transformers.AutoModelForCausalLM.from_pretrained(
    saved / way, attn_implementation='eager', output_loading_info=True
  )
  assert not info['missing_keys'] and not info['unexpected_keys']
  tokens, positions = tiny.ragged(3, 8, 'right')
  theirs = tiny.hf_forward(hf.eval(), tokens, positions).logits.numpy()
  edited, everywhere = ablate_weights(model, direction, way)
  ours = logits(edited, everywhere)
  np.testing.assert_allclose(theirs[positions >= 0], ours, atol=2e-4)
  # And it is another model than the original.
  assert np.abs(ours - logits(model)).max() > 0.1


def test_our_reader_gives_the_same_model(saved, model, direction):
  """Weights alone do what the edits of the evaluated model do."""
  found = gj.load_checkpoint(saved / 'exact')
  edited, everywhere = ablate_weights(model, direction, 'exact')
  np.testing.assert_allclose(
    logits(found), logits(edited, everywhere), atol=2e-5
  )
  assert not found.config.tied
  mine = found.weights() | {'embed': found.unembedding}
  for name, array in edited.weights().items():
    np.testing.assert_array_equal(mine[name], array)


def test_exact_writes_nothing_of_it(saved, model, direction):
  """At every site of the files' own stream, the embedding first."""
  before = largest_cosines(model, None, direction, questions())
  exact, reference = (
    largest_cosines(
      gj.load_checkpoint(saved / way), None, direction, questions()
    )
    for way in ('exact', 'reference')
  )
  for site, cosines in exact.items():
    assert cosines.max() < 1e-6, site
    assert before[site].min() > 0.1, site
  assert reference['resid_pre'][0] < 1e-6  # the embedding
  assert min(reference['attn_out'].min(), reference['mlp_out'].min()) > 0.05


def test_a_tied_matrix_could_not_say_it(model, direction):
  """With one matrix either the embedding writes it or logits lose it."""
  edited, everywhere = ablate_weights(model, direction, 'exact')
  want = logits(edited, everywhere)
  weights = edited.weights()
  weights |= written_at_first(weights, direction)
  tied = gj.Decoder(edited.config, weights)
  # A hundred times what rounding does.
  assert np.abs(logits(tied) - want).max() > 0.02
  kept = largest_cosines(edited, None, direction, questions())
  assert kept['resid_pre'][0] > 0.05


def test_files(saved):
  folder = saved / 'exact'
  config = json.loads((folder / 'config.json').read_text())
  assert config['tie_word_embeddings'] is False
  assert (folder / 'tokenizer_config.json').read_text() == '{"a": 1}'
  assert not (folder / 'notes.txt').exists()


def test_bfloat16_is_kept(direction, tmp_path):
  model = tiny.ours(jnp.bfloat16, num_hidden_layers=2)
  edited, _ = ablate_weights(model, direction, 'exact')
  save_untied(edited, direction, tmp_path / 'a', companions=tmp_path)
  found = gj.load_checkpoint(tmp_path / 'a')
  assert found.dtype == jnp.bfloat16
  cosines = largest_cosines(found, None, direction, questions())
  assert max(x.max() for x in cosines.values()) < 2e-2


@pytest.mark.parametrize('family', ['llama', 'gpt2', 'opt', 'qwen2'])
def test_other_families(family, direction, tmp_path):
  """Without post-norms, with biases, positions or an unembedding of its own."""
  model = tiny.pair(family=family)[1]
  edited, everywhere = ablate_weights(model, direction, 'exact')
  assert bool(everywhere) == model.config.tied
  save_untied(edited, direction, tmp_path / 'a', companions=tmp_path)
  found = gj.load_checkpoint(tmp_path / 'a')
  want = logits(edited, everywhere)
  np.testing.assert_allclose(logits(found), want, atol=1e-4)
  assert np.abs(want - logits(model)).max() > 0.1
  cosines = largest_cosines(found, None, direction, questions())
  assert max(x.max() for x in cosines.values()) < 1e-5
  hf = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / 'a', attn_implementation='eager'
  )
  tokens, positions = tiny.ragged(3, 8, 'right')
  theirs = tiny.hf_forward(hf.eval(), tokens, positions).logits.numpy()
  np.testing.assert_allclose(theirs[positions >= 0], want, atol=2e-4)


def test_directions_of_files(direction, tmp_path):
  save_file({'a': direction}, tmp_path / 'one.safetensors')
  unit = read_direction(tmp_path / 'one.safetensors', D)
  np.testing.assert_array_equal(unit, direction)
  save_file({'a': unit, 'b': unit}, tmp_path / 'two.safetensors')
  save_file({'a': 0 * unit}, tmp_path / 'zero.safetensors')
  (tmp_path / 'bad.safetensors').write_bytes(b'nothing')
  for name, width, error, said in (
    ('none', D, FileNotFoundError, 'no file'),
    ('two', D, ValueError, 'call the one'),
    ('zero', D, ValueError, 'no direction'),
    ('zero', D + 1, ValueError, 'shape'),
    ('bad', D, ValueError, 'no safetensors'),
  ):
    with pytest.raises(error, match=said):
      read_direction(tmp_path / f'{name}.safetensors', width)
