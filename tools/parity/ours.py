"""This project's side: the same passes, with all weights or one layer's.

`Loaded` runs the public `forward`: one scan over all layers. `Streamed` runs
the same parts (`embed`, `run_blocks`, `unembed`) on models of one layer, whose
weights are read when they are needed: one program for local layers and one for
global ones serve any depth.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from gemma_jax import SITES, Cache, Capture, Decoder
from gemma_jax import model as model_lib
from gemma_jax.checkpoint.hf import CheckpointReader
from gemma_jax.weights import BLOCK_LETTERS, weight_letters
from tools.parity.parity_prompts import Batch


class Loaded:
  """A checkpoint with all its weights in memory."""

  def __init__(self, reader: CheckpointReader):
    self._model = reader.load()

  def run(self, batch: Batch) -> Iterator[dict[str, np.ndarray]]:
    """Runs one forward pass over whole rows.

    Yields:
      Per layer, every site's value: [B, T, W], or [B, N, T, S] for attention's
      sites. Then {'logits': [B, T, V]}.
    """
    out = _forward(self._model, batch.tokens, batch.positions)
    for layer in range(self._model.config.num_layers):
      yield {site: _numpy(out.activations[site][layer]) for site in SITES}
    yield {'logits': _numpy(out.logits)}

  def decode(self, batch: Batch, given: np.ndarray) -> np.ndarray:
    """Greedy tokens along a given continuation, through the KV cache.

    Args:
      batch: Left-padded rows.
      given: int32 [B, n], the tokens that follow.

    Returns:
      int32 [B, n]: the arg max before each of them.
    """
    model = self._model
    B, T = batch.tokens.shape
    cache = Cache.empty(model.config, B, T + given.shape[1], model.dtype)
    chosen = []
    for tokens, positions in _decoding_steps(batch, given):
      logits, cache = _decode_step(
        model, tokens, positions, cache, first=not chosen
      )
      chosen.append(_best(logits))
    return np.stack(chosen, axis=1)


class Streamed:
  """A checkpoint of which one layer is held at a time."""

  def __init__(
    self,
    reader: CheckpointReader,
    on_layer: Callable[[], None] = lambda: None,
  ):
    """Reads all but the layers; `on_layer` is called after each of them."""
    self._reader = reader
    self._config = reader.config
    self._on_layer = on_layer
    letters = weight_letters(self._config)
    self._block_names = [name for name in letters if name in BLOCK_LETTERS]
    self._ends = {
      name: jnp.asarray(reader.read(name))
      for name in letters
      if name not in BLOCK_LETTERS
    }

  def run(self, batch: Batch) -> Iterator[dict[str, np.ndarray]]:
    """Does what `Loaded.run` does, computing layers when they are asked for."""
    positions = jnp.asarray(batch.positions)
    x = None
    for model in self._layers():
      x = _embed(model, batch.tokens, positions) if x is None else x
      x, seen = _block(model, x, positions)
      yield {site: _numpy(seen[site][0]) for site in SITES}
    yield {'logits': _numpy(_unembed(model, x))}

  def decode(self, batch: Batch, given: np.ndarray) -> np.ndarray:
    """Does what `Loaded.decode` does; reads all layers once per token."""
    B, T = batch.tokens.shape
    size = T + given.shape[1]
    caches: list[Cache] = []
    chosen = []
    for tokens, positions in _decoding_steps(batch, given):
      x = None
      for layer, model in enumerate(self._layers()):
        x = _embed(model, tokens, positions) if x is None else x
        if not chosen:
          caches.append(Cache.empty(model.config, B, size, model.dtype))
        x, caches[layer] = _decode_block(
          model, x, positions, caches[layer], first=not chosen
        )
      chosen.append(_best(_unembed(model, x[:, -1:])))
    return np.stack(chosen, axis=1)

  def _layers(self) -> Iterator[Decoder]:
    """Models of one layer each; all share what belongs to no layer."""
    for layer, local in enumerate(self._config.local_layers):
      config = dataclasses.replace(
        self._config, num_layers=1, local_layers=(local,)
      )
      index = [slice(layer, layer + 1)]
      weights = {
        name: jnp.asarray(self._reader.read(name, index))
        for name in self._block_names
      }
      yield Decoder(config, self._ends | weights)
      self._on_layer()


def _decoding_steps(batch: Batch, given: np.ndarray):
  """Tokens and positions of the prompt, then of one more token at a time."""
  yield jnp.asarray(batch.tokens), jnp.asarray(batch.positions)
  next_positions = batch.positions[:, -1:] + 1
  for step in range(given.shape[1] - 1):
    yield (
      jnp.asarray(given[:, step : step + 1]),
      jnp.asarray(next_positions + step),
    )


def _numpy(x: jax.Array) -> np.ndarray:
  return np.asarray(x).astype(np.float32)


def _best(logits: jax.Array) -> np.ndarray:
  """Returns the first token with the highest logit, int32 [B], of [B, 1, V]."""
  return np.asarray(logits[:, 0].argmax(-1), np.int32)


@jax.jit
def _forward(model, tokens, positions):
  capture = Capture(sites=SITES)
  return model_lib.forward(
    model, tokens, positions, capture=capture, logits_at='all'
  )


@functools.partial(jax.jit, static_argnames='first', donate_argnames='cache')
def _decode_step(model, tokens, positions, cache, first):
  out = model_lib.forward(
    model,
    tokens,
    positions,
    cache=cache,
    cache_is_empty=first,
    logits_at=positions[:, -1:],
  )
  return out.logits, out.cache


_embed = jax.jit(model_lib.embed)
_unembed = jax.jit(model_lib.unembed)


@jax.jit
def _block(model, x, positions):
  x, seen, _ = model_lib.run_blocks(
    model,
    x,
    positions,
    capture=Capture(sites=SITES),
    num_layers=1,
  )
  return x, seen


@functools.partial(jax.jit, static_argnames='first', donate_argnames='cache')
def _decode_block(model, x, positions, cache, first):
  x, _, cache = model_lib.run_blocks(
    model,
    x,
    positions,
    capture=Capture(sites=()),
    cache=cache,
    cache_is_empty=first,
    num_layers=1,
  )
  return x, cache
