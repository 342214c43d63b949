"""GGUF files: what is read is what llama.cpp's converter was given.

The files are written here by the gguf package, from weights in HF's order that
are permuted and shifted as llama.cpp's conversion does it.
"""

import json
import re

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

gguf = pytest.importorskip('gguf')

from gemma_jax.checkpoint.gguf import GgufFile  # noqa: E402
from gemma_jax.checkpoint.hf import CheckpointReader  # noqa: E402

KINDS = gguf.GGMLQuantizationType
QUANTIZED = ('F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1')
# Where a block of 256 values keeps its float16 scales, in bytes.
K_SCALES = {'Q4_K': (0, 4), 'Q5_K': (0, 4), 'Q6_K': (208, 210)}

LLAMA = {
  'block_count': 2,
  'context_length': 512,
  'embedding_length': 256,
  'feed_forward_length': 512,
  'attention.head_count': 4,
  'attention.head_count_kv': 2,
  'attention.layer_norm_rms_epsilon': 1e-5,
  'rope.freq_base': 1e5,
  'rope.dimension_count': 64,
  'vocab_size': 40,
}
GEMMA = {
  'block_count': 7,
  'context_length': 1024,
  'embedding_length': 64,
  'feed_forward_length': 96,
  'attention.head_count': 4,
  'attention.head_count_kv': 1,
  'attention.key_length': 32,
  'attention.value_length': 32,
  'attention.layer_norm_rms_epsilon': 1e-6,
  'attention.sliding_window': 16,
  'rope.freq_base': 1e6,
}
HOSTILE = (
  *('', ' ', '  ', ' a', 'a ', 'the  cat', '   the cat', 'a\n\nb', '\r\n\t x'),
  *('1', '12345', '3.14', 'in 1991, 2003', '٣٤', '²½', "don't I'LL we've"),
  *('the cat sat', 'The Cat', 'café', 'cafe\u0301', 'e\u0301\u0302', '日本語'),
  *(
    '🙂',
    '👩‍👧 x',
    '\u00a0\u3000',
    '\x00',
    '!?...',
    'a=b+c',
    '▁',
    'Ġ',
    '<0x41>',
  ),
  *(
    '<s>',
    'a<s> b',
    '<s><s>',
    '</s>x',
    '<s',
    '<think>',
    'a <think>12',
    '<unk>',
  ),
)


def tensor_shapes(arch, meta, vocab):
  """GGUF name -> HF name and HF shape, of a model with these sizes."""
  D, F = meta['embedding_length'], meta['feed_forward_length']
  N, K = meta['attention.head_count'], meta['attention.head_count_kv']
  H = meta.get('attention.key_length', D // N)
  shapes = {
    'token_embd': ('model.embed_tokens', (vocab, D)),
    'output_norm': ('model.norm', (D,)),
  }
  for i in range(meta['block_count']):
    layer = {
      'attn_norm': ('input_layernorm', (D,)),
      'attn_q': ('self_attn.q_proj', (N * H, D)),
      'attn_k': ('self_attn.k_proj', (K * H, D)),
      'attn_v': ('self_attn.v_proj', (K * H, D)),
      'attn_output': ('self_attn.o_proj', (D, N * H)),
      'ffn_gate': ('mlp.gate_proj', (F, D)),
      'ffn_up': ('mlp.up_proj', (F, D)),
      'ffn_down': ('mlp.down_proj', (D, F)),
    }
    if arch == 'llama':
      layer['ffn_norm'] = 'post_attention_layernorm', (D,)
    else:
      layer['post_attention_norm'] = 'post_attention_layernorm', (D,)
      layer['ffn_norm'] = 'pre_feedforward_layernorm', (D,)
      layer['post_ffw_norm'] = 'post_feedforward_layernorm', (D,)
      layer['attn_q_norm'] = 'self_attn.q_norm', (H,)
      layer['attn_k_norm'] = 'self_attn.k_norm', (H,)
    for name, (hf_name, shape) in layer.items():
      shapes[f'blk.{i}.{name}'] = f'model.layers.{i}.{hf_name}', shape
  return {f'{k}.weight': (f'{n}.weight', s) for k, (n, s) in shapes.items()}


class Model:
  """A model to be written, which a test may damage first."""

  def __init__(self, arch='llama', *, layers=None, tied=True, seed=0):
    rng = np.random.default_rng(seed)
    self.arch = arch
    self.meta = dict(LLAMA if arch == 'llama' else GEMMA)
    if layers:
      self.meta['block_count'] = layers
    self.extra = {}
    self.weights, self.tensors = {}, {}
    shapes = tensor_shapes(arch, self.meta, 40)
    if not tied:
      D = self.meta['embedding_length']
      shapes['output.weight'] = 'lm_head.weight', (40, D)
    self.hf_names = {}
    for name, (hf_name, shape) in shapes.items():
      weight = rng.standard_normal(shape).astype(np.float32)
      self.weights[hf_name] = weight
      self.tensors[name] = self.to_gguf(name, weight)
      self.hf_names[name] = hf_name
    self.kinds = dict.fromkeys(self.tensors, KINDS.F32)

  def heads(self, name):
    """How many heads of this tensor are permuted."""
    if self.arch == 'llama' and '.attn_q.' in name:
      return self.meta['attention.head_count']
    if self.arch == 'llama' and '.attn_k.' in name:
      return self.meta['attention.head_count_kv']
    return 0

  def to_gguf(self, name, weight):
    if self.arch == 'gemma3' and name.endswith('norm.weight'):
      return weight + 1
    if heads := self.heads(name):
      halves = weight.reshape(heads, 2, -1, weight.shape[1])
      return halves.swapaxes(1, 2).reshape(weight.shape)
    return weight

  def to_hf(self, name, array):
    """Row by row: rows 2i and 2i + 1 of a head are i and H/2 + i in HF."""
    if self.arch == 'gemma3' and name.endswith('norm.weight'):
      return array - np.float32(1)
    out, heads = array.copy(), self.heads(name)
    for head in range(heads):
      H = len(array) // heads
      for i in range(H // 2):
        out[head * H + i] = array[head * H + 2 * i]
        out[head * H + H // 2 + i] = array[head * H + 2 * i + 1]
    return out

  def write(self, path, **options):
    writer = gguf.GGUFWriter(path, self.arch, **options)
    metadata = {f'{self.arch}.{k}': v for k, v in self.meta.items()}
    for key, value in (metadata | self.extra).items():
      add(writer, key, value)
    for name, array in self.tensors.items():
      kind = self.kinds[name]
      writer.add_tensor(name, np.ascontiguousarray(array), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer, key, value):
  if isinstance(value, bool):
    writer.add_bool(key, value)
  elif isinstance(value, int):
    writer.add_uint32(key, value)
  elif isinstance(value, float):
    writer.add_float32(key, value)
  elif isinstance(value, str):
    writer.add_string(key, value)
  else:
    writer.add_array(key, value)


@pytest.mark.parametrize('arch', ['llama', 'gemma3'])
@pytest.mark.parametrize('tied', [True, False])
def test_tensors_come_back(tmp_path, arch, tied):
  model = Model(arch, tied=tied)
  file = GgufFile(model.write(tmp_path / 'm.gguf'))
  assert file.architecture == arch
  assert file.headers() == {
    name: ('F32', weight.shape) for name, weight in model.weights.items()
  }
  for gguf_name, name in model.hf_names.items():
    array = file.read(name)
    assert array.dtype == np.float32 and array.flags.c_contiguous
    stored = model.to_hf(gguf_name, model.tensors[gguf_name])
    np.testing.assert_array_equal(array, stored)
    np.testing.assert_allclose(array, model.weights[name], atol=1e-6)
  assert file.config_fields()['tie_word_embeddings'] is tied


@pytest.mark.parametrize('kind', [*QUANTIZED, *K_SCALES])
def test_quantizations(tmp_path, kind, monkeypatch):
  """Every kind is as gguf.dequantize has it, also in pieces of a few rows."""
  monkeypatch.setattr('gemma_jax.checkpoint.gguf._PIECE_BYTES', 40_000)
  model, rng = Model(layers=1), np.random.default_rng(1)
  want = {}
  for name, array in model.tensors.items():
    if array.ndim == 2:
      if kind in K_SCALES:
        size = gguf.GGML_QUANT_SIZES[KINDS[kind]][1]
        raw = rng.integers(0, 256, (array.size // 256, size), np.uint8)
        scales = slice(*K_SCALES[kind])
        half = rng.uniform(-0.1, 0.1, raw[:, scales].shape).astype(np.float16)
        raw[:, scales] = half[:, : raw[:, scales].shape[1] // 2].view(np.uint8)
        raw = raw.reshape(len(array), -1)
      else:
        raw = gguf.quants.quantize(array, KINDS[kind])
      model.tensors[name], model.kinds[name] = raw, KINDS[kind]
      array = gguf.dequantize(raw, KINDS[kind])
    want[model.hf_names[name]] = model.to_hf(name, array)
  file = GgufFile(model.write(tmp_path / 'm.gguf'))
  for name, array in want.items():
    assert np.isfinite(array).all() and array.std() > 0
    np.testing.assert_array_equal(file.read(name), array)


def test_llama_fields(tmp_path):
  model = Model()
  model.extra = {
    'tokenizer.ggml.bos_token_id': 1,
    'tokenizer.ggml.eos_token_id': 2,
    'general.type': 'model',
    'llama.expert_count': 0,
  }
  fields = GgufFile(model.write(tmp_path / 'm.gguf')).config_fields()
  assert fields == {
    'architectures': ['LlamaForCausalLM'],
    'model_type': 'llama',
    'vocab_size': 40,
    'hidden_size': 256,
    'intermediate_size': 512,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'head_dim': 64,
    'max_position_embeddings': 512,
    'rms_norm_eps': 1e-5,
    'rope_theta': 1e5,
    'rope_scaling': None,
    'tie_word_embeddings': True,
    'attention_bias': False,
    'mlp_bias': False,
    'hidden_act': 'silu',
    'bos_token_id': 1,
    'eos_token_id': 2,
    'pad_token_id': None,
  }


def test_gemma_fields(tmp_path):
  model = Model('gemma3')
  model.meta |= {'rope.scaling.type': 'linear', 'rope.scaling.factor': 8.0}
  fields = GgufFile(model.write(tmp_path / 'm.gguf')).config_fields()
  assert fields['model_type'] == 'gemma3_text'
  assert fields['architectures'] == ['Gemma3ForCausalLM']
  assert (fields['head_dim'], fields['query_pre_attn_scalar']) == (32, 32)
  assert fields['rope_theta'] == 1e6
  assert fields['rope_local_base_freq'] == 1e4
  assert fields['rope_scaling'] == {'rope_type': 'linear', 'factor': 8.0}
  assert fields['sliding_window'] == 16
  assert fields['rms_norm_eps'] == 1e-6
  assert fields['hidden_activation'] == 'gelu_pytorch_tanh'
  local = 'sliding_attention'
  assert fields['layer_types'] == [local] * 5 + ['full_attention', local]


@pytest.mark.parametrize('factor', [8.0, 32.0])
def test_llama3_scaling_is_recognised(tmp_path, factor):
  """The tensor is what HF's own arithmetic divides frequencies by."""
  transformers = pytest.importorskip('transformers')
  from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

  scaling = {
    'rope_type': 'llama3',
    'factor': factor,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 8192,
  }
  config = transformers.LlamaConfig(
    hidden_size=256,
    num_attention_heads=4,
    rope_parameters=scaling | {'rope_theta': 5e5},
  )
  scaled, _ = ROPE_INIT_FUNCTIONS['llama3'](config, 'cpu')
  plain = 5e5 ** -(np.arange(0, 64, 2) / 64)
  model = Model(layers=1)
  model.meta['rope.freq_base'] = 5e5
  factors = (plain / scaled.numpy()).astype(np.float32)
  model.tensors['rope_freqs.weight'] = factors
  model.kinds['rope_freqs.weight'] = KINDS.F32
  file = GgufFile(model.write(tmp_path / 'm.gguf'))
  got = file.config_fields()['rope_scaling']
  assert got.pop('factor') == pytest.approx(factor, rel=1e-5)
  assert got == {k: v for k, v in scaling.items() if k != 'factor'}
  assert 'rope_freqs.weight' not in file.headers()


# Damage: a function of the model, and what the error names.


def set_meta(key, value):
  return lambda model: model.meta.update({key: value})


def set_extra(key, value):
  return lambda model: model.extra.update({key: value})


def set_tensor(name, array, kind='F32'):
  def damage(model):
    model.tensors[name], model.kinds[name] = array, KINDS[kind]

  return damage


REFUSED = {
  'architecture': (lambda m: setattr(m, 'arch', 'mamba'), ['mamba', 'llama']),
  'adapter': (set_extra('general.type', 'adapter'), ['adapter', 'model']),
  'split': (set_extra('split.count', 3), ['3 parts', 'llama-gguf-split']),
  'missing key': (
    lambda m: m.meta.pop('attention.layer_norm_rms_epsilon'),
    ['llama.attention.layer_norm_rms_epsilon', 'missing'],
  ),
  'unknown key': (
    set_meta('attention.sliding_window', 4096),
    ['llama.attention.sliding_window', '4096', 'not understood'],
  ),
  'experts': (set_meta('expert_count', 8), ['llama.expert_count', '8']),
  'a size of text': (
    set_meta('block_count', 'two'),
    ['llama.block_count', "'two'", 'positive integer'],
  ),
  'heads by layer': (
    set_meta('attention.head_count_kv', [2, 4]),
    ['llama.attention.head_count_kv', '[2, 4]', 'all layers'],
  ),
  'partial rotation': (
    set_meta('rope.dimension_count', 32),
    ['llama.rope.dimension_count', '32', '64'],
  ),
  'kv heads': (set_meta('attention.head_count_kv', 3), ['4 query', '3 kv']),
  'yarn': (
    set_meta('rope.scaling.type', 'yarn'),
    ['llama.rope.scaling.type', "'yarn'", 'linear'],
  ),
  'scaling without a factor': (
    set_meta('rope.scaling.type', 'linear'),
    ['llama.rope.scaling.factor', 'missing'],
  ),
  'unknown rope factors': (
    set_tensor('rope_freqs.weight', np.linspace(1, 9, 32, dtype=np.float32)),
    ['rope_freqs.weight', 'Llama 3.1'],
  ),
  'rope factors of another size': (
    set_tensor('rope_freqs.weight', np.ones(16, np.float32)),
    ['rope_freqs.weight', '[16]', '[32]'],
  ),
  'missing tensor': (
    lambda m: m.tensors.pop('blk.1.ffn_up.weight'),
    ['blk.1.ffn_up.weight', 'mlp.up_proj.weight', '20 tensors', '19'],
  ),
  'unknown tensor': (
    set_tensor('blk.0.attn_q.bias', np.ones(256, np.float32)),
    ['blk.0.attn_q.bias', 'unknown', '2 layers'],
  ),
  'one layer more': (
    set_meta('block_count', 1),
    ['blk.1.attn_k.weight', 'unknown', '8 more', '1 layers'],
  ),
  'shape': (
    set_meta('feed_forward_length', 256),
    ['blk.0.ffn_gate.weight', '[512, 256]', '[256, 256]'],
  ),
  'vocabulary': (
    set_extra('tokenizer.ggml.tokens', ['a', 'b']),
    ['2 tokens', '40 as llama.vocab_size', '40 rows'],
  ),
  'quantisation': (
    set_tensor('output_norm.weight', np.ones((1, 84), np.uint8), 'Q2_K'),
    ['output_norm.weight', 'Q2_K', 'Q4_K'],
  ),
  'integers': (
    set_tensor('output_norm.weight', np.ones(256, np.int32), 'I32'),
    ['output_norm.weight', 'I32'],
  ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refused(tmp_path, case, monkeypatch):
  damage, words = REFUSED[case]
  model = Model()
  damage(model)
  path = model.write(tmp_path / 'm.gguf')
  read = []
  monkeypatch.setattr(np, 'fromfile', lambda *args: read.append(args))
  if 'rope factors' in case:
    monkeypatch.undo()
  with pytest.raises(ValueError) as error:
    GgufFile(path)
  for word in (str(path), *words):
    assert word in str(error.value)
  assert not read


def test_every_truncation_is_refused(tmp_path):
  """A file that ends anywhere early is refused when it is opened."""
  model = Model('gemma3', layers=1)
  whole = model.write(tmp_path / 'whole.gguf').read_bytes()
  GgufFile(tmp_path / 'whole.gguf')
  path = tmp_path / 'cut.gguf'
  lengths = [4, 5, 8, 20, 24, 25, 40, 100, 400, 1000, 1800, 2000, 5000]
  for length in [*lengths, len(whole) - 500]:
    path.write_bytes(whole[:length])
    with pytest.raises(ValueError, match='truncated') as error:
      GgufFile(path)
    assert str(path) in str(error.value)


def test_file_that_shrinks_after_opening(tmp_path):
  path = Model(layers=1).write(tmp_path / 'm.gguf')
  file = GgufFile(path)
  path.write_bytes(path.read_bytes()[:5000])
  with pytest.raises(ValueError, match=r'm\.gguf.*blk\.0\.ffn_up\.weight'):
    file.read('model.layers.0.mlp.up_proj.weight')


def test_what_is_no_gguf(tmp_path):
  with pytest.raises(FileNotFoundError, match='none.gguf'):
    GgufFile(tmp_path / 'none.gguf')
  with pytest.raises(FileNotFoundError, match='is a folder'):
    GgufFile(tmp_path)
  path = tmp_path / 'm.gguf'
  for content in (b'', b'GGU', b'PK\x03\x04' * 9):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'm\.gguf.*letters GGUF'):
      GgufFile(path)
  path.write_bytes(b'GGUF\x01\0\0\0' + bytes(16))
  with pytest.raises(ValueError, match='version 1'):
    GgufFile(path)
  path.write_bytes(b'GGUF\x03\0\0\0' + bytes(16))
  with pytest.raises(ValueError, match='general.architecture is missing'):
    GgufFile(path)


def test_big_endian(tmp_path):
  endian = gguf.GGUFEndian.BIG
  path = Model(layers=1).write(tmp_path / 'm.gguf', endianess=endian)
  with pytest.raises(ValueError, match=r'm\.gguf.*big-endian'):
    GgufFile(path)


def test_unknown_type_number(tmp_path):
  path = Model(layers=1).write(tmp_path / 'm.gguf')
  data = bytearray(path.read_bytes())
  # After the name come 1 (number of dimensions), 256 (the size), the type.
  at = data.index(b'output_norm.weight') + len(b'output_norm.weight') + 12
  assert data[at : at + 4] == bytes(4)
  data[at] = 200
  path.write_bytes(data)
  with pytest.raises(ValueError, match=r'output_norm\.weight.*number 200'):
    GgufFile(path)


def test_tensor_that_is_not_there(tmp_path):
  file = GgufFile(Model(layers=1).write(tmp_path / 'm.gguf'))
  with pytest.raises(ValueError, match=r"'lm_head.weight'.*embed_tokens"):
    file.read('lm_head.weight')


def test_without_the_package(tmp_path, monkeypatch):
  path = Model(layers=1).write(tmp_path / 'm.gguf')
  monkeypatch.setitem(__import__('sys').modules, 'gguf', None)
  with pytest.raises(ImportError, match=r'knowledge-awareness-jax\[gguf\]'):
    GgufFile(path)


# Tokenizers.

CORPUS = (
  'the cat sat on the mat and the hat; the cat is fat, in 1991 and 2003',
  "don't say we've 12345 cats that sat in a café; I'll say it is the cat's",
) * 3


def write_tokenizer(path, model, pre, tokens, types, **extra):
  """A file of one layer with these tokens, opened."""
  arch = extra.pop('arch', 'llama')
  file = Model(arch, layers=1)
  file.meta.pop('vocab_size', None)
  width = file.meta['embedding_length']
  file.tensors['token_embd.weight'] = np.zeros((len(tokens), width), np.float32)
  file.extra = {
    'tokenizer.ggml.model': model,
    'tokenizer.ggml.pre': pre,
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.token_type': types,
  }
  for key, value in extra.items():
    key = key if key == 'chat_template' else f'ggml.{key}'
    file.extra[f'tokenizer.{key}'] = value
  return GgufFile(file.write(path))


LLAMA3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?"
  r'[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)


def cut_by(regex):
  split = pre_tokenizers.Split(tokenizers.Regex(regex), 'isolated')
  return pre_tokenizers.Sequence([split, BYTES])


# As the tokenizer.json of SmolLM2, GPT-2, Llama 3 and Qwen 2 have it.
CUTS = {
  'smollm': pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), WORDS]
  ),
  'gpt-2': WORDS,
  'llama-bpe': cut_by(LLAMA3),
  'qwen2': cut_by(LLAMA3.replace('{1,3}', '')),
}


def byte_level(pre):
  """A byte-level tokenizer trained here; and its tokens, types and merges."""
  backend = tokenizers.Tokenizer(models.BPE(ignore_merges=pre == 'llama-bpe'))
  backend.pre_tokenizer = CUTS[pre]
  backend.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=320,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    special_tokens=['<s>', '</s>'],
    show_progress=False,
  )
  backend.train_from_iterator(CORPUS, trainer)
  backend.add_tokens([tokenizers.AddedToken('<think>', normalized=False)])
  vocab = backend.get_vocab()
  tokens = sorted(vocab, key=vocab.get)
  kinds = {'<s>': 3, '</s>': 3, '<think>': 4}
  types = [kinds.get(token, 1) for token in tokens]
  merges = json.loads(backend.to_str())['model']['merges']
  return backend, tokens, types, [' '.join(pair) for pair in merges]


@pytest.mark.parametrize('pre', CUTS)
def test_byte_level_tokenizer(tmp_path, pre):
  want, tokens, types, merges = byte_level(pre)
  file = write_tokenizer(
    *(tmp_path / 'm.gguf', 'gpt2', pre, tokens, types),
    merges=merges,
    bos_token_id=0,
    eos_token_id=1,
    add_bos_token=False,
    chat_template='{{ messages }}',
  )
  files = file.tokenizer_files()
  assert files['chat_template.jinja'] == '{{ messages }}'
  config = json.loads(files['tokenizer_config.json'])
  assert (config['bos_token'], config['eos_token']) == ('<s>', '</s>')
  assert config['pad_token'] is None and config['add_bos_token'] is False
  assert 'chat_template' not in config
  got = tokenizers.Tokenizer.from_str(files['tokenizer.json'])
  assert got.get_vocab() == want.get_vocab()
  added = {
    t.content: t.special for t in got.get_added_tokens_decoder().values()
  }
  assert added == {'<s>': True, '</s>': True, '<think>': False}
  for text in HOSTILE:
    left, right = got.encode(text), want.encode(text)
    assert left.tokens == right.tokens, text
    assert left.offsets == right.offsets, text
    assert got.decode(left.ids, skip_special_tokens=False) == text


def test_cuts_of_a_converter_that_did_not_know(tmp_path):
  """llama.cpp's 'default': punctuation apart, digits in threes."""
  _, tokens, types, merges = byte_level('gpt-2')
  file = write_tokenizer(
    *(tmp_path / 'm.gguf', 'gpt2', 'default', tokens, types), merges=merges
  )
  text = file.tokenizer_files()['tokenizer.json']
  cut = tokenizers.Tokenizer.from_str(text).pre_tokenizer.pre_tokenize_str
  pieces = [piece for piece, _ in cut('ab 12345!? $x')]
  assert pieces == ['ab', 'Ġ', '123', '45', '!?', 'Ġ', '$', 'x']


def test_llama3_has_bos_where_the_file_does_not_say(tmp_path):
  for pre, bos in (('llama-bpe', True), ('smollm', False)):
    _, tokens, types, merges = byte_level(pre)
    file = write_tokenizer(
      *(tmp_path / f'{pre}.gguf', 'gpt2', pre, tokens, types),
      merges=merges,
      bos_token_id=0,
    )
    files = file.tokenizer_files()
    config = json.loads(files['tokenizer_config.json'])
    assert config['add_bos_token'] is bos
    backend = tokenizers.Tokenizer.from_str(files['tokenizer.json'])
    assert (backend.encode('a').tokens == ['<s>', 'a']) is bos


# '<unk>', specials, bytes, added tokens, then pieces from best to worst.
PIECES = (
  *('th', '▁th', 'the', '▁the', 'at', 'in', 'an', 'cat', '▁cat', 'sat', '▁sat'),
  *('▁and', 'and', 'nd', '12', '123', '▁▁▁', 'é', 'fé', 'ca', 'café', '▁ca'),
  *('he', '▁h', '▁c', '▁s', '▁a', '▁', *'abcdefghijklmnopqrstuvwxyz12345,.!?'),
)


def sentencepiece(gemma):
  """Tokens, scores and types as the converter writes them."""
  spaces = ['  ', '   ', '    '] if gemma else []
  added = ['<think>', '\n', '\n\n', *spaces]
  bytes_ = [f'<0x{i:02X}>' for i in range(256)]
  pieces = [p for p in PIECES if not gemma or p != '▁▁▁']
  tokens = ['<unk>', '<s>', '</s>', *bytes_, *added, *pieces]
  types = [2, 3, 3, *[6] * 256, *[4] * len(added), *[1] * len(pieces)]
  scores = [0.0] * 259 + [-1000.0] * len(added)
  scores += [-float(i) for i in range(len(pieces))]
  return tokens, scores, types


def merge_by_rank(text, ranks, bytes_):
  """Sentencepiece's BPE as its paper has it: join the best pair, repeat."""
  pieces = list(text)
  while True:
    pairs = [
      (ranks[a + b], i)
      for i, (a, b) in enumerate(zip(pieces, pieces[1:], strict=False))
      if a + b in ranks
    ]
    if not pairs:
      break
    _, i = min(pairs)
    pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
  out = []
  for piece in pieces:
    known = piece in ranks
    out += [piece] if known else [bytes_[b] for b in piece.encode()]
  return out


@pytest.mark.parametrize('arch', ['llama', 'gemma3'])
def test_sentencepiece_tokenizer(tmp_path, arch):
  gemma = arch == 'gemma3'
  tokens, scores, types = sentencepiece(gemma)
  file = write_tokenizer(
    *(tmp_path / 'm.gguf', 'llama', 'default', tokens, types),
    arch=arch,
    scores=scores,
    unknown_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    add_space_prefix=not gemma,
  )
  files = file.tokenizer_files()
  assert 'chat_template.jinja' not in files
  config = json.loads(files['tokenizer_config.json'])
  assert config['add_bos_token'] is True
  got = tokenizers.Tokenizer.from_str(files['tokenizer.json'])

  # To HF, Gemma's runs of spaces are pieces, better than all others.
  runs = {
    '▁' * len(t): -1 / len(t) for t in tokens if gemma and not t.strip(' ')
  }
  ranks = {
    t: -s for t, s, k in zip(tokens, scores, types, strict=True) if k == 1
  }
  ranks = runs | ranks
  cuts = [
    t
    for t, k in zip(tokens, types, strict=True)
    if k in (2, 3, 4) and t.strip(' ')
  ]
  cut = re.compile(
    '(' + '|'.join(map(re.escape, sorted(cuts, key=len, reverse=True))) + ')'
  )
  for text in HOSTILE:
    want = []
    for part in filter(None, cut.split(text)):
      if part in cuts:
        want.append(part)
        continue
      part = part.replace(' ', '▁') if gemma else '▁' + part.replace(' ', '▁')
      want += merge_by_rank(part, ranks, tokens[3:259])
    encoding = got.encode(text, add_special_tokens=False)
    assert encoding.tokens == want, text
    assert encoding.ids == [got.token_to_id(token) for token in want]
    assert got.encode(text).tokens == ['<s>', *want]
    if not gemma and ('<' in text or '▁' in text or '\n' in text):
      continue  # a space is added after added tokens
    decoded = got.decode(encoding.ids, skip_special_tokens=False)
    assert decoded == text.replace('▁', ' ')


def damaged_tokenizer(tmp_path, **changes):
  _, tokens, types, merges = byte_level('gpt-2')
  options = {'pre': 'gpt-2', 'model': 'gpt2', 'merges': merges} | changes
  return write_tokenizer(
    tmp_path / 'm.gguf',
    options.pop('model'),
    options.pop('pre'),
    options.pop('tokens', tokens),
    options.pop('types', types),
    **options,
  )


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'model': 'bert'}, ["'bert'", 'tokenizer.json']),
    ({'model': 'none'}, ['no tokenizer', 'tokenizer.json']),
    ({'pre': 'tekken'}, ['tokenizer.ggml.pre', "'tekken'", 'smollm']),
    ({'types': [1, 1]}, ['tokenizer.ggml.token_type', 'is 2', 'a list of']),
    ({'model': 'llama'}, ['tokenizer.ggml.scores', 'None']),
    ({'merges': ['a b c']}, ['merge', "'a b c'"]),
    ({'merges': ['a ZZ']}, ['merge', "'a ZZ'"]),
    ({'bos_token_id': 999}, ['bos_token_id', '999', 'id of one']),
    ({'add_bos_token': True}, ['add_bos_token', 'bos_token_id']),
    ({'add_space_prefix': True}, ['add_space_prefix']),
    ({'tokens': ['a', 'a'], 'types': [1, 1]}, ["'a'", 'twice']),
    ({'tokens': [1, 2], 'types': [1, 1]}, ['tokens has 1', 'expected a str']),
    ({'merges': [1, 2]}, ['merges has 1', 'expected a str']),
    ({'add_bos_token': 1}, ['add_bos_token has 1', 'expected a bool']),
    ({'chat_template': 5}, ['chat_template has 5', 'expected a str']),
  ],
)
def test_refused_tokenizers(tmp_path, changes, words):
  file = damaged_tokenizer(tmp_path, **changes)
  with pytest.raises(ValueError) as error:
    file.tokenizer_files()
  for word in ('m.gguf', *words):
    assert word in str(error.value)


def test_an_adapter_beside_the_file_is_refused(tmp_path):
  path = Model(layers=1).write(tmp_path / 'm.gguf')
  CheckpointReader(path)
  (tmp_path / 'adapter_config.json').write_text('{}')
  with pytest.raises(ValueError, match='adapter_config.json.*has an adapter'):
    CheckpointReader(path)


def test_file_without_a_tokenizer(tmp_path):
  file = GgufFile(Model(layers=1).write(tmp_path / 'm.gguf'))
  with pytest.raises(ValueError, match=r'm\.gguf.*no tokenizer.*folder'):
    file.tokenizer_files()
