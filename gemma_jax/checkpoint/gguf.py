"""Models in one `.gguf` file, the format of llama.cpp.

A GGUF file holds metadata (sizes, tokenizer, chat template) and the weights,
most of them quantised to four to eight bits. `GgufFile` shows it as the folder
of Hugging Face that it was made from: fields of `config.json`, tensors in
float32 under HF's names, files of the tokenizer. Llama 2 and 3 with their kin
(SmolLM2), and Gemma 3's text models are understood.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
The `gguf` package dequantises, and says how large a block of each kind is.
"""

from collections.abc import Mapping
import functools
import math
import mmap
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from gemma_jax.checkpoint import gguf_tokenizer
from gemma_jax.checkpoint.gguf_header import Header, short

# Those whose dequantisation is tested.
QUANTIZATIONS = (
  *('F32', 'F16', 'BF16', 'Q8_0'),
  *('Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q4_K', 'Q5_K', 'Q6_K'),
)

# The GGUF tensor of a layer -> HF's name, and its shape there. Q is all query
# heads side by side, K all kv heads.
_LAYER_TENSORS = {
  'attn_norm': ('input_layernorm', 'D'),
  'attn_q': ('self_attn.q_proj', 'QD'),
  'attn_k': ('self_attn.k_proj', 'KD'),
  'attn_v': ('self_attn.v_proj', 'KD'),
  'attn_output': ('self_attn.o_proj', 'DQ'),
  'ffn_gate': ('mlp.gate_proj', 'FD'),
  'ffn_up': ('mlp.up_proj', 'FD'),
  'ffn_down': ('mlp.down_proj', 'DF'),
}
_ARCHITECTURES = {
  'llama': _LAYER_TENSORS | {'ffn_norm': ('post_attention_layernorm', 'D')},
  'gemma3': _LAYER_TENSORS
  | {
    'attn_q_norm': ('self_attn.q_norm', 'H'),
    'attn_k_norm': ('self_attn.k_norm', 'H'),
    'post_attention_norm': ('post_attention_layernorm', 'D'),
    'ffn_norm': ('pre_feedforward_layernorm', 'D'),
    'post_ffw_norm': ('post_feedforward_layernorm', 'D'),
  },
}
_UNEMBEDDING = 'output.weight'
_ROPE_FACTORS = 'rope_freqs.weight'

# Metadata of the model's own that are understood; others are refused, but for
# these values, which say nothing new.
_KEYS = {
  *('block_count', 'context_length', 'embedding_length', 'vocab_size'),
  *('feed_forward_length', 'attention.head_count', 'attention.head_count_kv'),
  *('attention.key_length', 'attention.value_length'),
  *('attention.layer_norm_rms_epsilon', 'rope.dimension_count'),
  *('rope.freq_base', 'rope.scale_linear', 'rope.scaling.type'),
  *('rope.scaling.factor', 'rope.scaling.original_context_length'),
  'rope.scaling.finetuned',
}
_GEMMA3_KEYS = {
  *('attention.sliding_window', 'attention.sliding_window_pattern'),
  *('attn_logit_softcapping', 'final_logit_softcapping', 'rope.freq_base_swa'),
}
_NEUTRAL = {
  'attention.causal': True,
  'expert_count': 0,
  'expert_used_count': 0,
  'pooling_type': 0,
  'tensor_data_layout': 'Meta AI original pth',
}

# Rows are dequantised in pieces of about this size (of float32).
_PIECE_BYTES = 1 << 24


class _Tensor(NamedTuple):
  """Says where a tensor lies in the file, and what it is there."""

  name: str
  kind: str
  shape: tuple[int, ...]  # HF's orientation
  start: int


class GgufFile:
  """A GGUF file whose header was checked, and whose weights can be read.

  Attributes:
    path: The file.
    architecture: 'llama' or 'gemma3', as the file says.
    metadata: All keys and values of the file.
  """

  def __init__(self, path: str | os.PathLike):
    """Opens a file and checks all that can be told without its weights.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: the `gguf` package is not installed.
      ValueError: it is not a whole and consistent GGUF file of an
        architecture, quantisation and layout that are understood.
    """
    self.path = pathlib.Path(path).expanduser()
    if not self.path.is_file():
      raise FileNotFoundError(
        f'{self.path} {"is a folder" if self.path.is_dir() else "is no file"}; '
        'expected the path of a .gguf file.'
      )
    self._gguf = _gguf_package(self.path)
    with open(self.path, 'rb') as file:
      if file.read(4) != b'GGUF':
        raise self._error(
          'it does not start with the letters GGUF. Pass a .gguf file, or a '
          "model's whole folder if it is in Hugging Face's format"
        )
      with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header = Header(self.path, data)
    self.metadata: Mapping[str, Any] = header.metadata
    self._check_kind()
    self.architecture: str = header.metadata['general.architecture']
    found = {
      name: self._placed(name, *info, header.data_start)
      for name, info in header.tensors.items()
    }
    self._fields = self._read_fields(found)
    self._tensors = self._check_tensors(found)

  def config_fields(self) -> dict[str, Any]:
    """Returns what HF's `config.json` of this model holds.

    Floats are the shortest decimals that give the file's float32. The file
    names one end of text; a chat model's end of turn is in its template.
    """
    return dict(self._fields)

  def headers(self) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Returns HF's name -> ('F32', shape) of each tensor that can be read."""
    return {key: ('F32', tensor.shape) for key, tensor in self._tensors.items()}

  def read(self, name: str) -> np.ndarray:
    """Reads and dequantises the tensor with HF's name, [out, in] or [dim].

    Llama's W_q and W_k get back HF's order of the rotated dimensions, in which
    the halves of a pair are H/2 apart; the file has them side by side. Gemma's
    norms lose the 1 that the file's weights include.

    Returns:
      A new float32 array, contiguous.

    Raises:
      ValueError: there is no such tensor, or the file has changed.
    """
    if name not in self._tensors:
      raise self._error(
        f'no tensor {name!r} of HF; there are {len(self._tensors)}, such as '
        f'{next(iter(self._tensors))}'
      )
    tensor = self._tensors[name]
    out = self._dequantize(tensor)
    if self.architecture == 'gemma3' and name.endswith('norm.weight'):
      return out - np.float32(1)
    if self.architecture == 'llama' and name.endswith(
      ('q_proj.weight', 'k_proj.weight')
    ):
      halves = self._fields['head_dim'] // 2
      pairs = out.reshape(-1, halves, 2, out.shape[-1])
      return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(out.shape)
    return out

  @functools.lru_cache(maxsize=1)  # noqa: B019 - slow for large vocabularies
  def tokenizer_files(self) -> Mapping[str, str]:
    """Returns the name and content of each file of the model's tokenizer.

    They are `tokenizer.json`, `tokenizer_config.json` and, where the file has
    a template, `chat_template.jinja`; see `gguf_tokenizer.tokenizer_files`.

    Raises:
      ValueError: the file has no tokenizer, or one that is not understood.
    """
    return gguf_tokenizer.tokenizer_files(
      self.path, self.architecture, self.metadata
    )

  def _error(self, problem: str) -> ValueError:
    return ValueError(f'{self.path}: {problem}.')

  def _check_kind(self):
    """Refuses what is no whole language model that we know."""
    kind = self.metadata.get('general.type', 'model')
    if kind != 'model':
      raise self._error(
        f"general.type is {kind!r}, expected 'model'. Merge an adapter into "
        'its model first (llama-export-lora), and load that'
      )
    count = self.metadata.get('split.count', 0)
    if isinstance(count, int) and count > 1:
      raise self._error(
        f'it is one of {count} parts (split.count). Join them with '
        '`llama-gguf-split --merge`, and load the whole'
      )
    architecture = self.metadata.get('general.architecture')
    if architecture is None:
      raise self._missing('general.architecture')
    if str(architecture) not in _ARCHITECTURES:
      raise self._error(
        f'general.architecture is {architecture!r}, expected one of '
        f'{", ".join(_ARCHITECTURES)}. Load the model from its folder in '
        "Hugging Face's format if its family is supported"
      )

  def _placed(self, name, kind, shape, offset, data_start) -> _Tensor:
    """Returns a tensor of the header, checked to be readable and complete."""
    try:
      kind = self._gguf.GGMLQuantizationType(kind).name
    except ValueError:
      kind = f'number {kind}'
    if kind not in QUANTIZATIONS:
      raise self._error(
        f'tensor {name} has quantisation {kind}; expected one of '
        f'{", ".join(QUANTIZATIONS)}. Use another file of this model, such as '
        'the Q8_0 or F16 one'
      )
    shape = shape[::-1]
    if not shape or math.prod(shape) < 1:
      raise self._error(f'tensor {name} has shape {list(shape)}')
    block = self._block(kind)[0]
    if shape[-1] % block:
      raise self._error(
        f'tensor {name} has rows of {shape[-1]} values, which {kind} cannot '
        f'have: its blocks hold {block}'
      )
    start = data_start + offset
    end = start + self._num_bytes(kind, shape)
    size = self.path.stat().st_size
    if end > size:
      raise self._error(
        f'it is truncated: tensor {name} ends at byte {end}, the file at '
        f'{size}. Download it again'
      )
    return _Tensor(name, kind, shape, start)

  def _block(self, kind: str) -> tuple[int, int]:
    """Returns how many values a block holds, in how many bytes."""
    return self._gguf.GGML_QUANT_SIZES[self._gguf.GGMLQuantizationType[kind]]

  def _num_bytes(self, kind: str, shape: tuple[int, ...]) -> int:
    values, size = self._block(kind)
    return math.prod(shape) // values * size

  def _missing(self, key: str) -> ValueError:
    return self._error(
      f'metadata key {key} is missing. Convert the model again with a present '
      "llama.cpp, or load its folder in Hugging Face's format"
    )

  def _get(self, key: str, default=None):
    """Returns a field of the model's own; the default None makes it a must."""
    key = f'{self.architecture}.{key}'
    value = self.metadata.get(key, default)
    if value is None:
      raise self._missing(key)
    return value

  def _size(self, key: str, default: int | None = None) -> int:
    """Returns a positive integer; a list of equal ones counts as one."""
    value = self._get(key, default)
    if isinstance(value, list) and value and set(value) == {value[0]}:
      value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
      raise self._error(
        f'{self.architecture}.{key} is {short(value)}, expected one positive '
        'integer for all layers'
      )
    return value

  def _number(self, key: str, default: float | None = None) -> float:
    """Returns a positive number, without the digits that float32 made up."""
    value = self._get(key, default)
    if not isinstance(value, (int, float)) or not 0 < value < math.inf:
      raise self._error(
        f'{self.architecture}.{key} is {short(value)}, expected a positive '
        'number'
      )
    return _shortest(value)

  def _read_fields(self, found) -> dict[str, Any]:
    """Returns what config.json would say, given the file's tensors `found`."""
    self._check_keys()
    D, N = self._size('embedding_length'), self._size('attention.head_count')
    K = self._size('attention.head_count_kv', N)
    L = self._size('block_count')
    llama = self.architecture == 'llama'
    H = self._size('attention.key_length', D // N if llama else None)
    for key in ('attention.value_length', 'rope.dimension_count'):
      if (other := self._size(key, H)) != H:
        raise self._error(
          f'{self.architecture}.{key} is {other}, expected the head size {H}. '
          'Heads of two sizes, or rotated in part, are not supported'
        )
    if N % K or H % 2:
      raise self._error(
        f'{N} query heads for {K} kv heads of size {H}; expected a multiple '
        'and an even size'
      )
    ids = {
      f'{name}_token_id': self.metadata.get(f'tokenizer.ggml.{key}_token_id')
      for name, key in (('bos', 'bos'), ('eos', 'eos'), ('pad', 'padding'))
    }
    fields = {
      'architectures': ['LlamaForCausalLM' if llama else 'Gemma3ForCausalLM'],
      'model_type': 'llama' if llama else 'gemma3_text',
      'vocab_size': self._vocab_size(found),
      'hidden_size': D,
      'intermediate_size': self._size('feed_forward_length'),
      'num_hidden_layers': L,
      'num_attention_heads': N,
      'num_key_value_heads': K,
      'head_dim': H,
      'max_position_embeddings': self._size('context_length'),
      'rms_norm_eps': self._number('attention.layer_norm_rms_epsilon'),
      # llama.cpp's value for files that do not say (early Llama 2).
      'rope_theta': self._number('rope.freq_base', 1e4 if llama else None),
      'tie_word_embeddings': _UNEMBEDDING not in found,
      'attention_bias': False,
      **ids,
    }
    fields['rope_scaling'] = self._rope_scaling(fields, found)
    if llama:
      return fields | {'hidden_act': 'silu', 'mlp_bias': False}
    return fields | self._gemma3_fields(L, D, N, H)

  def _check_keys(self):
    """Refuses metadata of the model's own that is not understood."""
    known = _KEYS | (_GEMMA3_KEYS if self.architecture == 'gemma3' else set())
    prefix = self.architecture + '.'
    for key, value in self.metadata.items():
      own = key.removeprefix(prefix)
      neutral = own in _NEUTRAL and value == _NEUTRAL[own]
      if key.startswith(prefix) and own not in known and not neutral:
        raise self._error(
          f'{key} is {short(value)}, which is not understood, and not '
          "ignored. Load the model from its folder in Hugging Face's format"
        )

  def _vocab_size(self, found) -> int:
    """Number of tokens, which all who count them agree on."""
    tokens = self.metadata.get('tokenizer.ggml.tokens')
    counts = {}
    if isinstance(tokens, list):
      counts['tokens in tokenizer.ggml.tokens'] = len(tokens)
    if f'{self.architecture}.vocab_size' in self.metadata:
      counts[f'as {self.architecture}.vocab_size'] = self._size('vocab_size')
    if 'token_embd.weight' in found:
      counts['rows in token_embd.weight'] = found['token_embd.weight'].shape[0]
    if len(set(counts.values())) > 1:
      raise self._error(
        'the size of its vocabulary is not clear: '
        + ', '.join(f'{count} {what}' for what, count in counts.items())
      )
    if not counts:
      raise self._error('tensor token_embd.weight is missing')
    return next(iter(counts.values()))

  def _gemma3_fields(self, L, D, N, H) -> dict[str, Any]:
    period = self._get('attention.sliding_window_pattern', 6)
    if isinstance(period, int) and period > 0:
      local = [(layer + 1) % period > 0 for layer in range(L)]
    elif isinstance(period, list) and len(period) == L:
      local = [bool(one) for one in period]
    else:
      raise self._error(
        f'gemma3.attention.sliding_window_pattern is {short(period)}, '
        f'expected a period in layers, or {L} values'
      )
    caps = {
      f'{name}_logit_softcapping': self._number(f'{name}_logit_softcapping')
      for name in ('attn', 'final')
      if self.metadata.get(f'gemma3.{name}_logit_softcapping')
    }
    return {
      'hidden_activation': 'gelu_pytorch_tanh',
      'rope_local_base_freq': self._number('rope.freq_base_swa', 1e4),
      'sliding_window': self._size('attention.sliding_window'),
      'layer_types': [
        'sliding_attention' if one else 'full_attention' for one in local
      ],
      # The file does not say; llama.cpp too knows the 27B by its 62 layers.
      'query_pre_attn_scalar': D // N if L == 62 else H,
      'attn_logit_softcapping': None,
      'final_logit_softcapping': None,
      **caps,
    }

  def _rope_scaling(self, fields, found) -> dict[str, Any] | None:
    """Returns how rotations are stretched: not, linearly, or as Llama 3.1."""
    kind = self._get('rope.scaling.type', 'linear')
    if kind not in ('none', 'linear'):
      raise self._error(
        f"{self.architecture}.rope.scaling.type is {kind!r}, expected 'none' "
        "or 'linear'. Load the model from its folder in Hugging Face's format "
        'if its family supports that scaling'
      )
    scaling = None
    keys = ('rope.scaling.factor', 'rope.scale_linear')
    told = [key for key in keys if self._get(key, 0)]
    if kind == 'linear' and (told or self._get('rope.scaling.type', '')):
      factor = self._number(told[0] if told else keys[0])
      if factor != 1:
        scaling = {'rope_type': 'linear', 'factor': factor}
    if self.architecture != 'llama' or _ROPE_FACTORS not in found:
      return scaling
    shape, halves = found[_ROPE_FACTORS].shape, fields['head_dim'] // 2
    if shape != (halves,):
      raise self._error(
        f'tensor {_ROPE_FACTORS} has shape {list(shape)}, expected [{halves}], '
        'half the head size'
      )
    factors = self._dequantize(found[_ROPE_FACTORS])
    if (factors == 1).all():
      return scaling
    contexts = {8192, self._get('rope.scaling.original_context_length', 8192)}
    for context in contexts if scaling is None else ():
      guess = {
        'rope_type': 'llama3',
        'factor': _shortest(factors[-1]),
        'low_freq_factor': 1.0,
        'high_freq_factor': 4.0,
        'original_max_position_embeddings': context,
      }
      want = _llama3_factors(fields['head_dim'], fields['rope_theta'], guess)
      if np.allclose(factors, want, rtol=1e-4, atol=0):
        return guess
    raise self._error(
      f'tensor {_ROPE_FACTORS} ({short(factors.tolist())}) is not the scaling '
      'of Llama 3.1 and 3.2 (low_freq_factor 1, high_freq_factor 4, 8192 '
      "positions). Load the model from its folder in Hugging Face's format"
    )

  def _check_tensors(self, found) -> dict[str, _Tensor]:
    """HF's name -> tensor; exactly those that the metadata call for."""
    fields = self._fields
    H = fields['head_dim']
    sizes = {
      'V': fields['vocab_size'],
      'D': fields['hidden_size'],
      'F': fields['intermediate_size'],
      'Q': fields['num_attention_heads'] * H,
      'K': fields['num_key_value_heads'] * H,
      'H': H,
    }
    expected = {
      'token_embd.weight': ('model.embed_tokens.weight', 'VD'),
      'output_norm.weight': ('model.norm.weight', 'D'),
    }
    if _UNEMBEDDING in found:
      expected[_UNEMBEDDING] = 'lm_head.weight', 'VD'
    for layer in range(fields['num_hidden_layers']):
      for name, (hf_name, shape) in _ARCHITECTURES[self.architecture].items():
        hf_name = f'model.layers.{layer}.{hf_name}.weight'
        expected[f'blk.{layer}.{name}.weight'] = hf_name, shape
    ignored = {_ROPE_FACTORS} if self.architecture == 'llama' else set()
    if unknown := sorted(found.keys() - expected.keys() - ignored):
      more = f', and {len(unknown) - 1} more' if unknown[1:] else ''
      raise self._error(
        f'tensor {unknown[0]} is unknown{more}; expected those of a '
        f'{self.architecture} with {fields["num_hidden_layers"]} layers and no '
        'biases, such as blk.0.attn_q.weight. It is not ignored: load the '
        "model from its folder in Hugging Face's format"
      )
    tensors = {}
    for name, (hf_name, letters) in expected.items():
      if name not in found:
        raise self._error(
          f'tensor {name} ({hf_name}) is missing. A {self.architecture} of '
          f'{fields["num_hidden_layers"]} layers has {len(expected)} tensors; '
          f'there are {len(found)}. Download the file again'
        )
      shape = found[name].shape
      if shape != (want := tuple(sizes[letter] for letter in letters)):
        raise self._error(
          f'tensor {name} ({hf_name}) has shape {list(shape)}, but its '
          f'metadata say {list(want)}'
        )
      tensors[hf_name] = found[name]
    return tensors

  def _dequantize(self, tensor: _Tensor) -> np.ndarray:
    """Returns the values as the file has them, float32."""
    kind = self._gguf.GGMLQuantizationType[tensor.kind]
    out = np.empty(tensor.shape, np.float32)
    rows = out.reshape(-1, tensor.shape[-1])
    row_bytes = self._num_bytes(tensor.kind, tensor.shape[-1:])
    step = max(1, _PIECE_BYTES // (4 * rows.shape[-1]))
    with open(self.path, 'rb') as file:
      file.seek(tensor.start)
      for at in range(0, len(rows), step):
        piece = rows[at : at + step]
        raw = np.fromfile(file, np.uint8, len(piece) * row_bytes)
        if raw.size < len(piece) * row_bytes:
          raise self._error(f'it has shrunk; tensor {tensor.name} is cut')
        raw = raw.reshape(len(piece), row_bytes)
        piece[:] = self._gguf.quants.dequantize(raw, kind)
    return out


def _gguf_package(path):
  """Returns the `gguf` package, which is needed by nothing else."""
  try:
    import gguf
  except ImportError as error:
    raise ImportError(
      f'{path} is a GGUF file; to read it, run '
      "`pip install 'knowledge-awareness-jax[gguf]'`."
    ) from error
  return gguf


def _shortest(value) -> float:
  """Returns the shortest decimal of a float32: 1e-05, not 9.9999e-06."""
  return float(str(np.float32(value)))


def _llama3_factors(head_dim: int, base: float, scaling) -> np.ndarray:
  """Returns what Llama 3.1's scaling divides each of [H/2] frequencies by.

  As in HF's `_compute_llama3_parameters`: long wavelengths by the factor,
  short ones by 1, and between them 1/factor and 1 are blended.
  """
  turns = np.arange(0, head_dim, 2) / head_dim
  wavelengths = 2 * np.pi * base**turns
  low, high = scaling['low_freq_factor'], scaling['high_freq_factor']
  ratio = scaling['original_max_position_embeddings'] / wavelengths
  share = np.clip((ratio - low) / (high - low), 0, 1)
  return 1 / ((1 - share) / scaling['factor'] + share)
