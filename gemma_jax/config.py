"""Sizes and constants of one decoder.

The letters, used in every shape of this package: B batch row, T query
position, S key or cache slot, L layer, D d_model, N query heads, K key/value
heads, H head_dim, F d_ff, V vocabulary, M rows of a position table, k rank or
slot, P read position, W the width of a site.
"""

from collections.abc import Mapping
import dataclasses
import numbers
from typing import Any, NamedTuple

import numpy as np

# A local layer's window is compared with a distance; a global layer's window
# is larger than any distance.
GLOBAL_WINDOW = 2**30
ACTIVATIONS = ('gelu_tanh', 'gelu', 'silu', 'relu')
# More than any model has, and few enough to count.
MAX_LAYERS = 10_000


class Kind(NamedTuple):
  """The values that a field may have.

  Attributes:
    type: int, float (integers are too), or bool.
    words: The values in words, for errors.
    least, most: The smallest and the largest number.
    or_none: True if None is one of the values.
  """

  type: type
  words: str
  least: float = 0
  most: float = 0
  or_none: bool = False

  def has(self, value) -> bool:
    """Returns whether a value is one of them."""
    if value is None or self.type is bool:
      return self.or_none if value is None else isinstance(value, bool)
    wanted = numbers.Integral if self.type is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, wanted):
      return False
    return bool(self.least <= value <= self.most)  # NaN is not


def _integer(least: int, most: int = 2**31 - 1) -> Kind:
  """Numbers that int32 holds, as arrays of positions and sizes are."""
  return Kind(int, f'an integer from {least} to {most}', least, most)


def _number(words: str, most: float = float(np.finfo(np.float32).max)) -> Kind:
  """Numbers above 0 that are so in float32 too."""
  return Kind(float, words, float(np.finfo(np.float32).tiny), most)


SIZE, COUNT, FLAG = _integer(1), _integer(0), Kind(bool, 'true or false')
POSITIVE = _number('a positive finite number')
_MAYBE = {'or_none': True}
# Field of ModelConfig -> its values; those that are no number are not here.
KINDS: Mapping[str, Kind] = (
  dict.fromkeys(
    'd_model d_ff num_heads num_kv_heads head_dim vocab_size '
    'max_positions'.split(),
    SIZE,
  )
  | dict.fromkeys(
    'post_norms qk_norm qkv_bias out_bias mlp_bias gated scale_embedding '
    'tied'.split(),
    FLAG,
  )
  | dict.fromkeys(
    'attn_softcap final_softcap query_pre_attn_scalar rope_local_theta'.split(),
    POSITIVE._replace(**_MAYBE),
  )
  | dict.fromkeys(('pad_id', 'bos_id'), COUNT._replace(**_MAYBE))
  | dict.fromkeys(('position_rows', 'position_offset'), COUNT)
  | {
    'num_layers': _integer(1, MAX_LAYERS),
    'truncated_from': _integer(1, MAX_LAYERS)._replace(**_MAYBE),
    'window': SIZE._replace(**_MAYBE),
    'rope_theta': POSITIVE,
    'norm_eps': _number('a number above 0, of at most 1', 1),
    'norm_offset': Kind(float, 'a number from 0 to 1', 0, 1),
  }
)
_SCALING_KINDS = {
  'factor': POSITIVE,
  'low_freq_factor': POSITIVE._replace(**_MAYBE),
  'high_freq_factor': POSITIVE._replace(**_MAYBE),
  'original_positions': SIZE._replace(**_MAYBE),
}


def check_field(kind: Kind, value: Any, name: str):
  """Raises ValueError, naming the field, unless a value is of a kind."""
  if not kind.has(value):
    or_none = ', or null' if kind.or_none else ''
    raise ValueError(
      f'{name}={value!r} is not supported; expected {kind.words}{or_none}.'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
  """Says how the rotary frequencies of global layers are stretched.

  With `factor` alone, every frequency is divided by it ("linear"). With the
  others too it is Llama 3.1's rule: only wavelengths above
  original_positions / low_freq_factor are stretched, those below
  original_positions / high_freq_factor are kept, and between the two the
  frequency is interpolated (HF, modeling_rope_utils.py, 'llama3').

  Attributes:
    factor: Divides the frequencies.
    low_freq_factor: None for linear scaling.
    high_freq_factor: None for linear scaling.
    original_positions: The context before the stretching; None for linear
      scaling.
  """

  factor: float
  low_freq_factor: float | None = None
  high_freq_factor: float | None = None
  original_positions: int | None = None

  def __post_init__(self):
    for name, kind in _SCALING_KINDS.items():
      check_field(kind, getattr(self, name), name)

  def scaled(self, frequencies: np.ndarray) -> np.ndarray:
    """Returns the stretched frequencies, float32 [H/2]."""
    factor = np.float32(self.factor)
    if self.original_positions is None:
      return frequencies / factor
    low, high = self.low_freq_factor, self.high_freq_factor
    # torch divides a number by a tensor as number * (1 / tensor).
    wavelengths = np.float32(2 * np.pi) * (np.float32(1) / frequencies)
    turns = np.float32(self.original_positions) * (np.float32(1) / wavelengths)
    smooth = (turns - np.float32(low)) / np.float32(high - low)
    between = (1 - smooth) * frequencies / factor + smooth * frequencies
    kept = np.where(turns > high, frequencies, between)
    return np.where(turns < low, frequencies / factor, kept).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """One decoder, described by data. `families` makes them.

  Attributes:
    family: The key in `families.FAMILIES`: HF's model_type.
    num_layers: L.
    d_model: D, the width of the residual stream.
    d_ff: F, the width of the feed-forward layer.
    num_heads: N, query heads.
    num_kv_heads: K; query head n reads key/value head n // (N / K).
    head_dim: H. N * H need not be D.
    vocab_size: V.
    norm: 'rms', or 'layer' for LayerNorm, which has a bias.
    norm_offset: A norm's gain is norm_offset + weight: 1 in Gemma, else 0.
    norm_eps: Added to the mean square, or to the variance.
    post_norms: True if a sublayer's output is normed before it is added.
    qk_norm: True if queries and keys are RMS-normed per head, before rotation.
    qkv_bias: True if the projections to q, k and v have biases.
    out_bias: True if the projection of the heads' outputs has one.
    mlp_bias: True if the projections of the MLP have.
    gated: True if the MLP is activation(gate) * up, or activation(up).
    activation: One of ACTIVATIONS.
    query_pre_attn_scalar: Attention scores are multiplied by this to the power
      -0.5; None is head_dim. It is not head_dim on Gemma 2 27B.
    window: How many keys a local layer sees, the query's own included; None
      where no layer is local.
    local_layers: Which layers are local, L booleans; () is none of them.
    attn_softcap: c in c * tanh(score / c); None is no cap.
    final_softcap: The cap of the final logits; None is no cap.
    position_rows: M, rows of the learned position table; 0 is rotary positions.
    position_offset: Position p is row p + position_offset of that table.
    rope_theta: Base of the rotary frequencies.
    rope_local_theta: Base in local layers; None is rope_theta.
    rope_scaling: What is done to the frequencies of global layers.
    scale_embedding: True if embeddings are multiplied by sqrt(D).
    tied: True if the unembedding is the embedding.
    max_positions: Longest context the model was made for. `generate` refuses
      to go beyond it.
    pad_id: Token id that fills empty places; None where the model has none.
    bos_id: Token id that may begin a text; None where the model has none.
      Whether prompts start with it is the tokenizer's rule.
    eos_ids: Token ids that end a generation.
    truncated_from: L of the whole model where this one has only its first
      layers: such a model has streams, but no logits.
  """

  family: str
  num_layers: int
  d_model: int
  d_ff: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  vocab_size: int
  norm: str = 'rms'
  norm_offset: float = 0.0
  norm_eps: float = 1e-6
  post_norms: bool = False
  qk_norm: bool = False
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  gated: bool = True
  activation: str = 'silu'
  query_pre_attn_scalar: float | None = None
  window: int | None = None
  local_layers: tuple[bool, ...] = ()
  attn_softcap: float | None = None
  final_softcap: float | None = None
  position_rows: int = 0
  position_offset: int = 0
  rope_theta: float = 10_000.0
  rope_local_theta: float | None = None
  rope_scaling: RopeScaling | None = None
  scale_embedding: bool = False
  tied: bool = True
  max_positions: int
  pad_id: int | None = None
  bos_id: int | None = None
  eos_ids: tuple[int, ...] = ()
  truncated_from: int | None = None

  def __post_init__(self):
    for name, kind in KINDS.items():
      check_field(kind, getattr(self, name), name)
    for token in self.eos_ids:
      check_field(COUNT, token, 'eos_ids')
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads} must be a multiple of '
        f'num_kv_heads={self.num_kv_heads}: query heads share them in groups.'
      )
    if self.head_dim % 2 and not self.position_rows:
      raise ValueError(
        f'head_dim must be even for rotary embeddings, got {self.head_dim}.'
      )
    if self.activation not in ACTIVATIONS or self.norm not in ('rms', 'layer'):
      raise ValueError(
        f'activation={self.activation!r} must be one of {ACTIVATIONS}, and '
        f"norm={self.norm!r} 'rms' or 'layer'."
      )
    if self.query_pre_attn_scalar is None:
      object.__setattr__(self, 'query_pre_attn_scalar', self.head_dim)
    if not self.local_layers:
      object.__setattr__(self, 'local_layers', (False,) * self.num_layers)
    if len(self.local_layers) != self.num_layers:
      raise ValueError(
        f'local_layers must have num_layers={self.num_layers} entries, got '
        f'{len(self.local_layers)}.'
      )
    if any(self.local_layers) and self.window is None:
      raise ValueError('Local layers need a window, got window=None.')

  @property
  def windows(self) -> np.ndarray:
    """int32[L]: how far back each layer sees, as the forward pass scans it."""
    window = GLOBAL_WINDOW if self.window is None else self.window
    windows = np.where(self.local_layers, window, GLOBAL_WINDOW)
    return windows.astype(np.int32)

  @property
  def frequencies(self) -> np.ndarray:
    """float32[L, H/2]: radians per position, as HF computes them."""
    # HF's power is a float32; this one is rounded to it from float64.
    exponents = np.arange(0, self.head_dim, 2, np.float32) / self.head_dim

    def rotary(theta):
      powers = np.float64(theta) ** exponents.astype(np.float64)
      return np.float32(1) / powers.astype(np.float32)

    full = rotary(self.rope_theta)
    if self.rope_scaling is not None:
      full = self.rope_scaling.scaled(full)
    local = full
    if self.rope_local_theta is not None:
      local = rotary(self.rope_local_theta)
    return np.where(np.array(self.local_layers)[:, None], local, full)

  @property
  def fill_id(self) -> int:
    """Returns a valid token id for empty places: pad_id, eos, or 0."""
    ids = (self.pad_id, *self.eos_ids, 0)
    valid = (i for i in ids if i is not None and 0 <= i < self.vocab_size)
    return next(valid)

  def truncated(self, num_layers: int) -> 'ModelConfig':
    """Returns the same model with only its first `num_layers` layers."""
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
