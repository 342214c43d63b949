"""Sizes and constants of a Gemma 2 model.

The letters, used in every shape of this package: B batch row, T query
position, S key or cache slot, L layer, D d_model, N query heads, K key/value
heads, H head_dim, F d_ff, V vocabulary, k rank or slot, P read position, W the
width of a site.
"""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

# A local layer's window is compared with a distance; a global layer's window
# is larger than any distance.
GLOBAL_WINDOW = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """One Gemma 2 architecture. Defaults are those all public sizes share.

  Attributes:
    num_layers: L.
    d_model: D, the width of the residual stream.
    d_ff: F, the width of the gated feed-forward layer.
    num_heads: N, query heads.
    num_kv_heads: K; query head n reads key/value head n // (N / K).
    head_dim: H. N * H need not be D.
    vocab_size: V.
    query_pre_attn_scalar: Attention scores are multiplied by this to the power
      -0.5. It is not head_dim on 27B.
    window: How many keys a local layer sees, the query's own included.
    local_layers: Which layers are local, L booleans; None means the even ones
      (0-based), as in every public checkpoint.
    attn_softcap: c in c * tanh(score / c); None is no cap.
    final_softcap: The same for the final logits.
    rope_theta: Base of the rotary frequencies.
    rms_norm_eps: Added to the mean square.
    max_positions: Longest context the model was made for. `generate` refuses
      to go beyond it.
    pad_id: Token id that fills empty places.
    bos_id: Token id every prompt starts with.
    eos_ids: Token ids that end a generation.
    truncated_from: L of the whole model where this one has only its first
      layers: such a model has streams, but no logits.
  """

  num_layers: int
  d_model: int
  d_ff: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  vocab_size: int = 256_000
  query_pre_attn_scalar: float
  window: int = 4096
  local_layers: tuple[bool, ...] | None = None
  attn_softcap: float | None = 50.0
  final_softcap: float | None = 30.0
  rope_theta: float = 10_000.0
  rms_norm_eps: float = 1e-6
  max_positions: int = 8192
  pad_id: int = 0
  bos_id: int = 2
  eos_ids: tuple[int, ...] = (1,)
  truncated_from: int | None = None

  def __post_init__(self):
    for name in (
      'num_layers d_model d_ff num_heads num_kv_heads head_dim vocab_size '
      'query_pre_attn_scalar window rope_theta max_positions'
    ).split():
      if not getattr(self, name) > 0:
        raise ValueError(
          f'{name} must be positive, got {getattr(self, name)!r}.'
        )
    for name in ('attn_softcap', 'final_softcap'):
      cap = getattr(self, name)
      if cap is not None and not cap > 0:
        raise ValueError(f'{name} must be positive or None, got {cap!r}.')
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads} must be a multiple of '
        f'num_kv_heads={self.num_kv_heads}: query heads share them in groups.'
      )
    if self.head_dim % 2:
      raise ValueError(
        f'head_dim must be even for rotary embeddings, got {self.head_dim}.'
      )
    if self.local_layers is None:
      even = tuple(i % 2 == 0 for i in range(self.num_layers))
      object.__setattr__(self, 'local_layers', even)
    if len(self.local_layers) != self.num_layers:
      raise ValueError(
        f'local_layers must have num_layers={self.num_layers} entries, got '
        f'{len(self.local_layers)}.'
      )

  @property
  def windows(self) -> np.ndarray:
    """int32[L]: how far back each layer sees, as the forward pass scans it."""
    return np.where(self.local_layers, self.window, GLOBAL_WINDOW).astype(
      np.int32
    )

  def truncated(self, num_layers: int) -> 'ModelConfig':
    """The same model with only its first `num_layers` layers."""
    if not 1 <= num_layers <= self.num_layers:
      raise ValueError(
        f'num_layers={num_layers} must be between 1 and the '
        f"model's {self.num_layers}."
      )
    if num_layers == self.num_layers:
      return self
    return dataclasses.replace(
      self,
      num_layers=num_layers,
      truncated_from=self.truncated_from or self.num_layers,
      local_layers=self.local_layers[:num_layers],
    )

  @classmethod
  def gemma2_2b(cls) -> 'ModelConfig':
    """google/gemma-2-2b and -2b-it: 2,614,341,888 parameters."""
    return cls(
      num_layers=26,
      d_model=2304,
      d_ff=9216,
      num_heads=8,
      num_kv_heads=4,
      head_dim=256,
      query_pre_attn_scalar=256,
    )

  @classmethod
  def gemma2_9b(cls) -> 'ModelConfig':
    """google/gemma-2-9b and -9b-it: 9,241,705,984 parameters."""
    return cls(
      num_layers=42,
      d_model=3584,
      d_ff=14336,
      num_heads=16,
      num_kv_heads=8,
      head_dim=256,
      query_pre_attn_scalar=256,
    )

  @classmethod
  def gemma2_27b(cls) -> 'ModelConfig':
    """google/gemma-2-27b and -27b-it: 27,227,128,320 parameters."""
    return cls(
      num_layers=46,
      d_model=4608,
      d_ff=36864,
      num_heads=32,
      num_kv_heads=16,
      head_dim=128,
      query_pre_attn_scalar=144,  # d_model / num_heads, not head_dim
    )

  @classmethod
  def from_hf(cls, source: str | pathlib.Path | Mapping[str, Any]):
    """Reads a Hugging Face `config.json`, strictly.

    Args:
      source: The file, its folder, or its parsed content.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not JSON, not a Gemma 2, lacks a size, or asks for
        something this implementation does not do. A field is honoured or
        refused, never ignored.
    """
    if isinstance(source, Mapping):
      return _parse_hf(source, 'config')
    path = pathlib.Path(source)
    path = path / 'config.json' if path.is_dir() else path
    if not path.is_file():
      raise FileNotFoundError(
        f'{path} does not exist. A checkpoint folder needs the config.json '
        'that was published with its weights.'
      )
    try:
      fields = json.loads(path.read_text(encoding='utf-8'))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
      raise ValueError(f'{path} is not valid JSON: {error}.') from error
    if not isinstance(fields, dict):
      raise ValueError(f'{path} must hold a JSON object.')
    return _parse_hf(fields, str(path))

  def to_hf(self) -> dict[str, Any]:
    """The content of a `config.json` that HF transformers reads."""
    hf = {key: getattr(self, name) for key, name in _SIZES.items()}
    hf |= {key: getattr(self, name) for key, name in _OPTIONAL.items()}
    hf |= _FIXED
    # transformers is strict about 24 and 24.0.
    scalar = self.query_pre_attn_scalar
    hf['query_pre_attn_scalar'] = int(scalar) if scalar % 1 == 0 else scalar
    hf['rope_theta'] = float(self.rope_theta)
    for key in ('attn_logit_softcapping', 'final_logit_softcapping'):
      hf[key] = None if hf[key] is None else float(hf[key])
    hf['layer_types'] = [
      'sliding_attention' if local else 'full_attention'
      for local in self.local_layers
    ]
    one_eos = len(self.eos_ids) == 1
    hf['eos_token_id'] = self.eos_ids[0] if one_eos else list(self.eos_ids)
    hf['architectures'] = ['Gemma2ForCausalLM']
    if self.truncated_from is not None:
      hf['truncated_from'] = self.truncated_from
    return hf


# HF field -> ours. The sizes must be present.
_SIZES = {
  'num_hidden_layers': 'num_layers',
  'hidden_size': 'd_model',
  'intermediate_size': 'd_ff',
  'num_attention_heads': 'num_heads',
  'num_key_value_heads': 'num_kv_heads',
  'head_dim': 'head_dim',
  'vocab_size': 'vocab_size',
  'query_pre_attn_scalar': 'query_pre_attn_scalar',
}
# These default to what every public checkpoint has.
_OPTIONAL = {
  'sliding_window': 'window',
  'attn_logit_softcapping': 'attn_softcap',
  'final_logit_softcapping': 'final_softcap',
  'rms_norm_eps': 'rms_norm_eps',
  'max_position_embeddings': 'max_positions',
  'pad_token_id': 'pad_id',
  'bos_token_id': 'bos_id',
}
# The only values we implement.
_FIXED = {
  'model_type': 'gemma2',
  'hidden_activation': 'gelu_pytorch_tanh',
  'attention_bias': False,
  'tie_word_embeddings': True,
}
_ALLOWED = {
  'hidden_act': ('gelu_pytorch_tanh',),
  'attention_dropout': (0, None),
  'use_bidirectional_attention': (None, False),
  'rope_scaling': (None,),
  'quantization_config': (None,),
  'tie_encoder_decoder': (False,),
  'is_encoder_decoder': (False,),
  'pruned_heads': ({}, None),
}
# Say nothing about what the model computes.
_INERT = frozenset(
  (
    'architectures torch_dtype dtype transformers_version use_cache '
    'initializer_range cache_implementation _name_or_path _commit_hash '
    'id2label label2id problem_type return_dict output_attentions '
    'output_hidden_states chunk_size_feed_forward _attn_implementation '
    'unsloth_version finetuning_task task_specific_params'
  ).split()
)


_INTEGERS = {
  field.name for field in dataclasses.fields(ModelConfig) if field.type is int
}


def _parse_hf(hf: Mapping[str, Any], origin: str) -> ModelConfig:
  """`from_hf` of parsed content; `origin` names it in errors."""

  def refuse(key, expected):
    raise ValueError(
      f'{origin}: {key}={hf.get(key)!r} is not supported; expected {expected}.'
    )

  if hf.get('model_type') != 'gemma2':
    raise ValueError(
      f'{origin}: model_type is {hf.get("model_type")!r} (architectures '
      f'{hf.get("architectures")}), not "gemma2". Only Gemma 2 checkpoints '
      'can be loaded.'
    )
  missing = sorted(_SIZES.keys() - hf.keys())
  if missing:
    raise ValueError(f'{origin} lacks {", ".join(missing)}.')

  kwargs = {name: hf[key] for key, name in _SIZES.items()}
  kwargs |= {name: hf[key] for key, name in _OPTIONAL.items() if key in hf}
  for key, name in (_SIZES | _OPTIONAL).items():
    value = kwargs.get(name)
    if name not in kwargs or (value is None and key.endswith('softcapping')):
      continue
    kind = int if name in _INTEGERS else int | float
    if isinstance(value, bool) or not isinstance(value, kind):
      refuse(key, 'an integer' if kind is int else 'a number')

  for key, value in hf.items():
    if key in _FIXED and value != _FIXED[key]:
      refuse(key, repr(_FIXED[key]))
    elif key in _ALLOWED and value not in _ALLOWED[key]:
      refuse(key, ' or '.join(map(repr, _ALLOWED[key])))
    elif key == 'sliding_window_size' and value != hf.get('sliding_window'):
      refuse(key, 'the value of sliding_window')

  num_layers = kwargs['num_layers']
  if (kinds := hf.get('layer_types')) is not None:
    known = ('sliding_attention', 'full_attention')
    good = isinstance(kinds, list) and all(kind in known for kind in kinds)
    if not good or len(kinds) != num_layers:
      refuse('layer_types', f'{num_layers} values out of {known}')
    kwargs['local_layers'] = tuple(kind == known[0] for kind in kinds)

  rope = hf.get('rope_parameters') or {}
  good = isinstance(rope, Mapping) and rope.keys() <= {
    'rope_type',
    'rope_theta',
  }
  if not good or rope.get('rope_type', 'default') != 'default':
    refuse('rope_parameters', "rope_type 'default' and rope_theta only")
  thetas = {s['rope_theta'] for s in (rope, hf) if 'rope_theta' in s}
  if len(thetas) > 1:
    refuse('rope_theta', f'one value, got {sorted(thetas)}')
  if thetas:
    kwargs['rope_theta'] = thetas.pop()

  if (eos := hf.get('eos_token_id')) is not None:
    kwargs['eos_ids'] = tuple(eos) if isinstance(eos, list) else (eos,)
    if not all(type(token) is int for token in kwargs['eos_ids']):
      refuse('eos_token_id', 'an integer or several')

  honoured = _SIZES.keys() | _OPTIONAL.keys() | _FIXED.keys() | _ALLOWED.keys()
  if (whole := hf.get('truncated_from')) is not None:
    if type(whole) is not int or whole <= num_layers:
      refuse('truncated_from', f'an integer above {num_layers}')
    kwargs['truncated_from'] = whole

  honoured |= {
    'truncated_from',
    'layer_types',
    'rope_parameters',
    'rope_theta',
    'eos_token_id',
  }
  unknown = sorted(hf.keys() - honoured - _INERT - {'sliding_window_size'})
  if unknown:
    raise ValueError(
      f'{origin}: unknown field {unknown[0]}={hf[unknown[0]]!r}'
      f'{f" (and {unknown[1:]})" if unknown[1:] else ""}. A field that might '
      'change what the model computes is not ignored; remove it if it does not.'
    )
  try:
    return ModelConfig(**kwargs)
  except ValueError as error:
    raise ValueError(f'{origin}: {error}') from error
