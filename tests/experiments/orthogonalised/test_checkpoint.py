"""Saved models: HF computes with them what we do, and they are free of it."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import transformers

from experiments.orthogonalised import (
  largest_cosines,
  read_direction,
  read_untied,
  save_untied,
  without_direction,
)
from experiments.steering import orthogonalise
from experiments.steering.questions import Question
import gemma_jax as gj
from tests import tiny

D = 40
INDEX = 'model.safetensors.index.json'


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
    edited, _ = orthogonalise(model, direction, way)
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


def logits(model, interventions):
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
  edited, everywhere = orthogonalise(model, direction, way)
  ours = logits(edited, everywhere)
  np.testing.assert_allclose(theirs[positions >= 0], ours, atol=2e-4)
  # And it is another model than the original.
  assert np.abs(ours - logits(model, None)).max() > 0.1


def test_our_reader_gives_the_same_model(saved, model, direction):
  found = read_untied(saved / 'exact')
  edited, everywhere = orthogonalise(model, direction, 'exact')
  np.testing.assert_allclose(
    logits(found.read, found.interventions),
    logits(edited, everywhere),
    atol=2e-5,
  )
  for name, array in edited.weights().items():
    np.testing.assert_array_equal(found.read.weights()[name], array)
  with pytest.raises(ValueError, match='tie_word_embeddings'):
    gj.load_checkpoint(saved / 'exact')


def test_exact_writes_nothing_of_it(saved, model, direction):
  """At every site of the files' own stream, the embedding first."""
  before = largest_cosines(model, None, direction, questions())
  exact = largest_cosines(
    read_untied(saved / 'exact').written, None, direction, questions()
  )
  reference = largest_cosines(
    read_untied(saved / 'reference').written, None, direction, questions()
  )
  for site, cosines in exact.items():
    assert cosines.max() < 1e-6, site
    assert before[site].min() > 0.1, site
  assert reference['resid_pre'][0] < 1e-6  # the embedding
  assert min(reference['attn_out'].min(), reference['mlp_out'].min()) > 0.05


def test_a_tied_matrix_could_not_say_it(model, direction):
  """With one matrix either the embedding writes it or logits lose it."""
  edited, everywhere = orthogonalise(model, direction, 'exact')
  want = logits(edited, everywhere)
  embed = without_direction(edited.embed[...], direction)
  tied = gj.Decoder(edited.config, edited.weights() | {'embed': embed})
  # A hundred times what rounding does.
  assert np.abs(logits(tied, None) - want).max() > 0.02
  kept = largest_cosines(edited, None, direction, questions())
  assert kept['resid_pre'][0] > 0.05


def test_files(saved):
  folder = saved / 'exact'
  config = json.loads((folder / 'config.json').read_text())
  assert config['tie_word_embeddings'] is False
  assert (folder / 'tokenizer_config.json').read_text() == '{"a": 1}'
  assert not (folder / 'notes.txt').exists()
  assert not (folder / 'model.safetensors').exists()
  index = json.loads((folder / INDEX).read_text())
  assert index['weight_map']['lm_head.weight'] == 'lm_head.safetensors'


def test_bfloat16_is_kept(direction, tmp_path):
  model = tiny.ours(jnp.bfloat16, num_hidden_layers=2)
  edited, _ = orthogonalise(model, direction, 'exact')
  save_untied(edited, direction, tmp_path / 'a', companions=tmp_path)
  found = read_untied(tmp_path / 'a')
  assert found.read.dtype == found.written.dtype == jnp.bfloat16
  cosines = largest_cosines(found.written, None, direction, questions())
  assert max(x.max() for x in cosines.values()) < 2e-2


def test_what_is_not_such_a_checkpoint_is_refused(
  saved, model, direction, tmp_path
):
  gj.save_checkpoint(model, tmp_path / 'tied')
  with pytest.raises(ValueError, match='tied checkpoint'):
    read_untied(tmp_path / 'tied')
  edited, _ = orthogonalise(model, direction, 'exact')
  save_untied(edited, direction, tmp_path / 'a', companions=tmp_path)
  save_file(
    {'direction': np.eye(D, dtype=np.float32)[0]},
    tmp_path / 'a' / 'direction.safetensors',
  )
  with pytest.raises(ValueError, match='differ by'):
    read_untied(tmp_path / 'a')
  index = json.loads((tmp_path / 'a' / INDEX).read_text())
  index['weight_map']['lm_head.weight'] = '../lm_head.safetensors'
  (tmp_path / 'a' / INDEX).write_text(json.dumps(index))
  with pytest.raises(ValueError, match='bare name'):
    read_untied(tmp_path / 'a')


def test_directions_of_files(saved, tmp_path):
  unit = read_direction(saved / 'exact' / 'direction.safetensors', D)
  assert np.linalg.norm(unit) == pytest.approx(1, abs=1e-6)
  assert load_file(saved / 'exact' / 'direction.safetensors').keys() == {
    'direction'
  }
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
