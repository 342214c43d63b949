"""Checkpoints of every family: HF's to ours to HF's, and what folders hold."""

import logging

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import torch
import transformers

import gemma_jax as gj
from gemma_jax.checkpoint import hf as checkpoint_lib
from tests import tiny
from tests.gemma_jax.checkpoints import assert_same, edit_json

FILE = 'model.safetensors'
ODD = [
  ('gemma3_text', {'tie_word_embeddings': False}),
  ('llama', {'tie_word_embeddings': True}),
  ('llama', {'attention_bias': True, 'mlp_bias': True}),
  ('qwen3', {'attention_bias': True, 'tie_word_embeddings': True}),
  ('gpt2', {'tie_word_embeddings': False}),
  ('opt', {'tie_word_embeddings': False}),
]


def saved_by_hf(folder, family, **overrides):
  """HF's model, and its folder."""
  hf, _ = tiny.pair(family=family, **overrides)
  hf.save_pretrained(folder)
  return hf


def rename(folder, rule, add=()):
  """Gives the tensors of a folder other names, and adds some."""
  tensors = {rule(key): x for key, x in load_file(folder / FILE).items()}
  save_file(tensors | dict(add), folder / FILE)


@pytest.mark.parametrize(
  'family, odd', [(family, {}) for family in tiny.FAMILIES] + ODD
)
def test_hf_to_ours_to_hf(family, odd, tmp_path):
  """The same tensors, bit for bit, and the same logits."""
  hf = saved_by_hf(tmp_path / 'theirs', family, **odd)
  model = gj.load_checkpoint(tmp_path / 'theirs')
  gj.save_checkpoint(model, tmp_path / 'ours', max_shard_bytes=40_000)
  assert (tmp_path / 'ours' / 'model.safetensors.index.json').exists()
  written = {}
  for path in (tmp_path / 'ours').glob('*.safetensors'):
    written |= load_file(path)
  stored = load_file(tmp_path / 'theirs' / FILE)
  assert written.keys() == stored.keys()
  for key, x in stored.items():
    np.testing.assert_array_equal(written[key], x, err_msg=key)

  again, info = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / 'ours', output_loading_info=True, attn_implementation='eager'
  )
  assert not info['missing_keys'] and not info['unexpected_keys']
  assert type(again) is type(hf)
  state = again.state_dict()
  assert all(torch.equal(x, state[key]) for key, x in hf.state_dict().items())
  tokens, positions = tiny.ragged(3, 8, 'right')
  torch.testing.assert_close(
    tiny.hf_forward(again.eval(), tokens, positions).logits,
    tiny.hf_forward(hf, tokens, positions).logits,
    atol=0,
    rtol=0,
  )
  assert_same(model, gj.load_checkpoint(tmp_path / 'ours'))


@pytest.mark.parametrize('family', ['gpt2', 'opt', 'llama'])
def test_slices_are_those_of_the_whole(family, tmp_path, monkeypatch):
  """Of transposed and fused tensors too, in pieces, each byte once."""
  saved_by_hf(tmp_path, family)
  model = tiny.pair(family=family)[1]
  reader = gj.CheckpointReader(tmp_path)
  read = []
  reader.load(on_bytes=read.append)
  assert sum(read) == reader.num_bytes
  monkeypatch.setattr(checkpoint_lib, '_PIECE_BYTES', 700)
  rng = np.random.default_rng(0)
  for name, array in model.weights().items():
    array = np.asarray(array)
    np.testing.assert_array_equal(reader.read(name), array)
    for _ in range(4):
      ends = [np.sort(rng.integers(0, n + 1, 2)) for n in array.shape]
      index = [slice(int(a), int(b)) for a, b in ends]
      np.testing.assert_array_equal(
        reader.read(name, index), array[tuple(index)], err_msg=name
      )


@pytest.mark.parametrize('family', ['gpt2', 'opt', 'llama', 'gemma3_text'])
@pytest.mark.parametrize('shards', [None, '30KB'])
def test_first_layers_and_meshes(family, shards, tmp_path):
  hf, model = tiny.pair(family=family)
  hf.save_pretrained(tmp_path, **{'max_shard_size': shards} if shards else {})
  index = tmp_path / 'model.safetensors.index.json'
  assert index.exists() == bool(shards)
  assert_same(model, gj.load_checkpoint(tmp_path, mesh=gj.make_mesh(4, 2)))
  reader = gj.CheckpointReader(tmp_path, num_layers=2)
  assert reader.num_bytes < gj.CheckpointReader(tmp_path).num_bytes
  part, whole = reader.load().weights(), model.weights()
  assert part.keys() == whole.keys()
  for name, array in whole.items():
    stacked = part[name].shape != array.shape
    np.testing.assert_array_equal(part[name], array[:2] if stacked else array)


@pytest.mark.parametrize('prefix', ['transformer.', ''])
def test_gpt2_with_the_buffers_of_old_checkpoints(prefix, tmp_path):
  """As openai-community/gpt2: no prefix, and causal masks as tensors."""
  saved_by_hf(tmp_path, 'gpt2')
  mask = np.tril(np.ones((1, 1, 64, 64), np.float32))
  masks = {f'{prefix}h.{i}.attn.bias': mask for i in range(5)}
  masks |= {f'{prefix}h.0.attn.masked_bias': np.full(1, -1e4, np.float32)}
  rename(tmp_path, lambda key: prefix + key.removeprefix('transformer.'), masks)
  assert_same(tiny.pair(family='gpt2')[1], gj.load_checkpoint(tmp_path))


def test_opt_without_its_outer_prefix(tmp_path):
  saved_by_hf(tmp_path, 'opt')
  rename(tmp_path, lambda key: key.removeprefix('model.'))
  assert_same(tiny.pair(family='opt')[1], gj.load_checkpoint(tmp_path))


def test_llamas_rotary_buffers_are_passed_over(tmp_path):
  saved_by_hf(tmp_path, 'llama')
  name = 'model.layers.{}.self_attn.rotary_emb.inv_freq'
  add = {name.format(i): np.ones(8, np.float32) for i in range(5)}
  rename(tmp_path, lambda key: key, add)
  assert_same(tiny.pair(family='llama')[1], gj.load_checkpoint(tmp_path))


@pytest.fixture
def multimodal(tmp_path):
  """A small Gemma 3 that sees, and its folder."""
  text = tiny.pair(family='gemma3_text')[0].config.to_dict()
  vision = {
    'hidden_size': 16,
    'intermediate_size': 16,
    'num_hidden_layers': 1,
    'num_attention_heads': 2,
    'image_size': 28,
    'patch_size': 14,
  }
  config = transformers.Gemma3Config(
    text_config=text, vision_config=vision, mm_tokens_per_image=4
  )
  config._attn_implementation = 'eager'
  torch.manual_seed(0)
  hf = transformers.Gemma3ForConditionalGeneration(config).eval()
  for parameter in hf.parameters():
    torch.nn.init.normal_(parameter, std=0.2)
  hf.save_pretrained(tmp_path)
  return hf, tmp_path


@pytest.mark.parametrize('layout', ['as HF writes', 'as it names', 'with head'])
def test_the_text_model_of_a_multimodal_gemma_3(layout, multimodal, caplog):
  """Vision tensors are left out aloud; the logits are HF's of a text."""
  hf, folder = multimodal
  embed = load_file(folder / FILE)['language_model.model.embed_tokens.weight']
  if layout == 'with head':
    add = {'language_model.lm_head.weight': embed.copy()}
    rename(folder, lambda key: key, add)
  elif layout == 'as it names':
    inside = lambda key: key.replace('language_model.model.', 'language_model.')
    rename(folder, lambda key: f'model.{inside(key)}')
    assert load_file(folder / FILE).keys() <= hf.state_dict().keys()
  others = sum(
    'vision_tower' in key or 'multi_modal' in key
    for key in load_file(folder / FILE)
  )
  with caplog.at_level(logging.WARNING, logger='gemma_jax'):
    model = gj.load_checkpoint(folder)
  (record,) = caplog.records
  assert f'{others} tensors of other parts' in record.getMessage()
  tokens = np.random.default_rng(0).integers(3, 97, (2, 9))
  with torch.no_grad():
    want = hf(torch.tensor(tokens)).logits.numpy()
  got = gj.run(model, tokens, logits_at='all').logits
  np.testing.assert_allclose(got, want, atol=1e-4)
  # What we write is the text model alone.
  gj.save_checkpoint(model, folder / 'text')
  again = transformers.AutoModelForCausalLM.from_pretrained(folder / 'text')
  assert type(again).__name__ == 'Gemma3ForCausalLM'


def test_a_second_head_of_a_multimodal_model_must_be_the_embedding(multimodal):
  _, folder = multimodal
  head = np.ones((97, 40), np.float32)
  rename(folder, lambda key: key, {'language_model.lm_head.weight': head})
  with pytest.raises(ValueError, match='lm_head.weight differs'):
    gj.load_checkpoint(folder)


@pytest.mark.parametrize(
  'family, tensor, words',
  [
    ('llama', 'model.layers.1.self_attn.q_norm.weight', 'a Llama with 5'),
    ('llama', 'model.layers.1.self_attn.q_proj.bias', 'a Llama with 5'),
    ('qwen2', 'model.layers.1.self_attn.o_proj.bias', 'a Qwen 2 with 5'),
    ('gemma3_text', 'model.audio_tower.conv.weight', 'a Gemma 3 with 5'),
    ('gemma2', 'model.vision_tower.patch.weight', 'a Gemma 2 with 5'),
    ('gpt2', 'transformer.h.1.crossattention.c_attn.weight', 'a GPT-2 with 5'),
    ('gpt2', 'h.1.attn.c_attn.weight', 'a GPT-2 with 5'),
    ('opt', 'model.decoder.project_in.weight', 'a OPT with 5'),
    ('mistral', 'model.layers.1.block_sparse_moe.gate.weight', 'a Mistral'),
  ],
)
def test_a_tensor_of_another_family_is_refused_by_name(
  family, tensor, words, tmp_path
):
  saved_by_hf(tmp_path, family)
  rename(tmp_path, lambda key: key, {tensor: np.zeros(16, np.float32)})
  with pytest.raises(ValueError, match=f'(?s){tensor} is unknown.*{words}'):
    gj.CheckpointReader(tmp_path)


@pytest.mark.parametrize('family', ['llama', 'gpt2', 'opt'])
def test_an_unembedding_of_its_own_must_be_there(family, tmp_path):
  saved_by_hf(tmp_path, family, tie_word_embeddings=True)
  edit_json(
    tmp_path / 'config.json', lambda c: c.update(tie_word_embeddings=False)
  )
  with pytest.raises(ValueError, match='lm_head.weight is missing'):
    gj.CheckpointReader(tmp_path)


def test_an_untied_model_that_says_it_is_tied_is_refused(tmp_path):
  saved_by_hf(tmp_path, 'llama')
  edit_json(
    tmp_path / 'config.json', lambda c: c.update(tie_word_embeddings=True)
  )
  with pytest.raises(ValueError, match='differs.*tie_word_embeddings=true'):
    gj.load_checkpoint(tmp_path)


def test_fused_biases_that_are_not_finite_are_warned_of(tmp_path):
  saved_by_hf(tmp_path, 'gpt2')
  key = 'transformer.h.3.attn.c_attn.bias'
  tensors = load_file(tmp_path / FILE)
  tensors[key][45] = np.nan  # of the keys
  save_file(tensors, tmp_path / FILE)
  with pytest.warns(UserWarning, match=f'{key} holds NaN') as caught:
    gj.load_checkpoint(tmp_path, dtype=jnp.bfloat16)
  assert len(caught) == 1
