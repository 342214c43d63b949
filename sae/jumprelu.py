"""A JumpReLU sparse autoencoder: five arrays and what is computed from them.

Letters: B tokens (any leading axes), D width of the site, F latents, k chosen
latents. An SAE here always acts on raw activations:

  z = x @ W_enc + b_enc         [B, F]  pre-activations
  f = z where z > threshold     [B, F]  latents, strict and never negative
  y = f @ W_dec + b_dec         [B, D]  reconstruction

Whatever scaling or centring an SAE was trained with is folded into the arrays
when it is loaded or exported (`folding.py`). A ReLU SAE has threshold 0.
"""

import dataclasses
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

# Name -> one letter per dimension; the names of Gemma Scope and SAELens.
WEIGHTS = {
  'W_enc': 'DF',
  'W_dec': 'FD',
  'b_enc': 'F',
  'b_dec': 'D',
  'threshold': 'F',
}


class Weights(NamedTuple):
  """The arrays of an SAE, as the pure functions take them.

  Attributes:
    W_enc: [D, F].
    W_dec: [F, D]; row i is the direction that latent i writes.
    b_enc: [F].
    b_dec: [D].
    threshold: float32 [F], in units of the raw activation.
  """

  W_enc: jax.Array
  W_dec: jax.Array
  b_enc: jax.Array
  b_dec: jax.Array
  threshold: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Latents:
  """Some latents of an SAE, as `gemma_jax.clamp_latents` takes them.

  `...` is the shape of the ids they were asked for by.

  Attributes:
    encoder: [..., D], columns of W_enc.
    decoder: [..., D], rows of W_dec.
    bias: [...], of b_enc.
    threshold: float32 [...].
    site: What the SAE reads; None is not known. Compiled in.
    layer: Layer of the site, int32 [] (data); None is not known.
  """

  encoder: jax.Array
  decoder: jax.Array
  bias: jax.Array
  threshold: jax.Array
  site: str | None = dataclasses.field(default=None, metadata={'static': True})
  layer: jax.Array | int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
  """Holds what an SAE reads, and where it comes from. None is not known.

  Attributes:
    model: Hub id of the language model, such as 'google/gemma-2-2b'.
    site: The tensor it reads and reconstructs, such as 'resid_post', 'z' (the
      heads' outputs side by side), 'mlp_out'; names of `gemma_jax.SITES`.
    layer: Layer of the site, from 0.
    release: Which collection it is of, such as 'gemma-scope-2b-pt-res'.
    sae_id: Its name there, such as 'layer_12/width_16k/average_l0_82'.
    l0: Mean number of active latents per token that its maker states.
  """

  model: str | None = None
  site: str | None = None
  layer: int | None = None
  release: str | None = None
  sae_id: str | None = None
  l0: float | None = None

  def __str__(self):
    name = '/'.join(part for part in (self.release, self.sae_id) if part)
    where = self.site or 'an unnamed site'
    where += '' if self.layer is None else f' of layer {self.layer}'
    where += f' of {self.model}' if self.model else ''
    return f'{name or "SAE"} ({where})'


def encode(weights: Weights | Latents, x: jax.Array) -> jax.Array:
  """Latents of activations.

  Args:
    weights: Weights of the SAE, or of some latents with ids [k].
    x: [..., D].

  Returns:
    [..., F or k], x.dtype. Products accumulate in float32, and the comparison
    with the threshold is made there.
  """
  if isinstance(weights, Latents):
    matrix, bias = weights.encoder.T, weights.bias
  else:
    matrix, bias = weights.W_enc, weights.b_enc
  z = jnp.einsum('...D,DF->...F', x, matrix, preferred_element_type=jnp.float32)
  z = z + bias.astype(jnp.float32)
  # So said that NaN stays NaN: a stream that overflowed has latents that show
  # it, and not none that are active.
  silent = z <= jnp.maximum(weights.threshold, 0)
  return jnp.where(silent, 0, z).astype(x.dtype)


def decode(weights: Weights, f: jax.Array) -> jax.Array:
  """Returns the reconstruction [..., D], f.dtype, of latents f [..., F]."""
  y = jnp.einsum(
    '...F,FD->...D', f, weights.W_dec, preferred_element_type=jnp.float32
  )
  return (y + weights.b_dec.astype(jnp.float32)).astype(f.dtype)


def reconstruct(weights: Weights, x: jax.Array) -> jax.Array:
  """Returns the reconstruction [..., D] of activations x [..., D]."""
  return decode(weights, encode(weights, x))


class JumpReLUSAE(nnx.Module):
  """The arrays of an SAE, and what it reads.

  `sae.encode`, `sae.decode` and `sae` itself call the pure functions above. To
  compile one program for many SAEs, pass `sae.weights()` to `jax.jit`: `origin`
  is static, and part of what a program that takes the module is compiled for.

  Attributes:
    W_enc, W_dec, b_enc, b_dec, threshold: See `Weights`.
    origin: Origin.
  """

  def __init__(self, weights: Weights, origin: Origin | None = None):
    """Takes the arrays; all but the threshold are of one dtype.

    Raises:
      ValueError: shapes or dtypes do not fit together.
    """
    weights = Weights(*weights)
    if getattr(weights.W_enc, 'ndim', 0) != 2:
      raise ValueError(
        f'W_enc has shape {np.shape(weights.W_enc)}, expected [D, F].'
      )
    sizes = dict(zip('DF', weights.W_enc.shape, strict=True))
    for name, array in weights._asdict().items():
      want = tuple(sizes[letter] for letter in WEIGHTS[name])
      if array.shape != want:
        raise ValueError(
          f'{name} has shape {array.shape}, expected {want} '
          f'([{", ".join(WEIGHTS[name])}], by the shape of W_enc).'
        )
    if weights.threshold.dtype != jnp.float32:
      raise ValueError(
        f'threshold must be float32, got {weights.threshold.dtype}: coarser '
        'thresholds change which latents are active.'
      )
    dtypes = {str(array.dtype) for array in weights[:-1]}
    if len(dtypes) > 1:
      raise ValueError(f'Weights must be of one dtype, got {sorted(dtypes)}.')
    for name, array in weights._asdict().items():
      setattr(self, name, nnx.Param(array))
    self.origin = origin or Origin()

  @property
  def d_in(self) -> int:
    """D, the width of what it reads."""
    return self.W_enc.shape[0]

  @property
  def width(self) -> int:
    """F, the number of latents."""
    return self.W_enc.shape[1]

  @property
  def dtype(self) -> jnp.dtype:
    """The dtype of all weights but the threshold, which is float32."""
    return self.W_enc.dtype

  def weights(self) -> Weights:
    """Returns the arrays."""
    return Weights(*(getattr(self, name)[...] for name in WEIGHTS))

  def encode(self, x: jax.Array) -> jax.Array:
    """Latents [..., F] of activations x [..., D]; see `encode`."""
    return encode(self.weights(), self._checked(x))

  def decode(self, f: jax.Array) -> jax.Array:
    """Reconstruction [..., D] of latents f [..., F]; see `decode`."""
    if f.shape[-1:] != (self.width,):
      raise ValueError(
        f'Latents have shape {f.shape}, expected [..., F] with F={self.width}.'
      )
    return decode(self.weights(), f)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Reconstruction [..., D] of activations x [..., D]."""
    return reconstruct(self.weights(), self._checked(x))

  def as_function(self) -> jax.tree_util.Partial:
    """Returns what `sae(x)` computes, as a pytree without the static origin.

    A program that takes it is compiled once for all SAEs of a shape.
    """
    return jax.tree_util.Partial(reconstruct, self.weights())

  def select(self, ids) -> Latents:
    """Returns some latents, which can be kept without the rest.

    Args:
      ids: int, or int array. With `gemma_jax.clamp_latents`, [k] are k latents
        at once in every row, and [R, k] differ by row.

    Returns:
      Latents of the shape of `ids`.

    Raises:
      ValueError: an id is not in 0 .. F - 1, or is named twice for one row:
        edits would add its decoder row twice.
    """
    ids = self._ids(ids)
    if ids.ndim and not isinstance(ids, jax.core.Tracer):
      sorted_ids = np.sort(ids, axis=-1)
      twice = sorted_ids[..., 1:][np.diff(sorted_ids) == 0]
      if twice.size:
        raise ValueError(
          f'Latent {twice.flat[0]} is named twice; expected each one once.'
        )
    return Latents(
      encoder=jnp.moveaxis(self.W_enc[...][:, ids], 0, -1),
      decoder=self.W_dec[...][ids],
      bias=self.b_enc[...][ids],
      threshold=self.threshold[...][ids],
      site=self.origin.site,
      layer=self.origin.layer,
    )

  def directions(self, ids) -> jax.Array:
    """[..., D], what latents write: rows of W_dec, for ids [...]."""
    return self.W_dec[...][self._ids(ids)]

  def check_reads(self, site: str, layer: int | None = None):
    """Raises ValueError unless this SAE reads `site` (of `layer`).

    What is not known of the origin is not checked.
    """
    mine = self.origin
    if mine.site not in (None, site) or (
      layer is not None and mine.layer not in (None, layer)
    ):
      asked = site if layer is None else f'{site} of layer {layer}'
      raise ValueError(
        f'{mine} does not read {asked}. Apply it where it was trained, or load '
        'the SAE of that site and layer.'
      )

  def _checked(self, x):
    if x.shape[-1:] != (self.d_in,):
      raise ValueError(
        f'Activations have shape {x.shape}, expected [..., D] with '
        f'D={self.d_in}, as {self.origin} reads.'
      )
    return x

  def _ids(self, ids):
    ids = np.asarray(ids) if not isinstance(ids, jax.Array) else ids
    if not np.issubdtype(ids.dtype, np.integer):
      raise ValueError(f'Ids of latents are integers, got {ids.dtype}.')
    if not isinstance(ids, jax.core.Tracer):
      known = np.asarray(ids)
      bad = known[(known < 0) | (known >= self.width)]
      if bad.size:
        raise ValueError(
          f'There is no latent {bad.flat[0]}: {self.origin} has latents 0 to '
          f'{self.width - 1}.'
        )
    return ids
