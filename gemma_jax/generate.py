"""Generation: a jitted prefill, then a jitted loop with a donated cache.

A row's sample depends on its own prompt, seed, temperature and interventions,
never on which other rows share its batch or on the padding.
"""

from collections.abc import Sequence
import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from gemma_jax import interventions as iv
from gemma_jax import running, sharding
from gemma_jax.cache import Cache
from gemma_jax.finite import bad_row, check_row
from gemma_jax.model import forward
from gemma_jax.weights import Decoder
from gemma_jax.where import concrete


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """Says how to draw the next token: temperature, then top-k, then top-p.

  All are data; None compiles the step out, which saves a sort.

  Attributes:
    temperature: float32 [R] or scalar; 0 takes the most likely token.
    top_k: int32 [R] or scalar; only the k most likely tokens (and those tied
      with the last of them); V is no limit.
    top_p: float32 [R] or scalar; only the most likely tokens that together
      reach this probability; 1 is no limit.
  """

  temperature: jax.Array | float = 1.0
  top_k: jax.Array | int | None = None
  top_p: jax.Array | float | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
  """Holds what `generate` returns; G is max_new_tokens, B counts every sample.

  Attributes:
    tokens: int32 [B, G]; a stop token is kept, what follows it is the
      config's fill_id.
    logprobs: float32 [B, G]: log-probability of each token under the model
      (with its interventions), before temperature, top-k and top-p; 0 at
      padding.
    lengths: int32 [B], tokens before the padding, a stop token included.
  """

  tokens: jax.Array
  logprobs: jax.Array
  lengths: jax.Array


def generate(
  model: Decoder,
  tokens,
  positions=None,
  *,
  max_new_tokens: int,
  samples: int = 1,
  sampling: Sampling | None = None,
  seeds: int | Sequence[int] | jax.Array = 0,
  stop_ids: Sequence[int] | None = None,
  interventions: iv.Interventions | None = None,
  prefix: Cache | None = None,
) -> Generation:
  """Continues every row of a batch of prompts.

  Compiled once per shape of the prompts, power of two that holds
  max_new_tokens, and structure of sampling and interventions.

  Args:
    model: Stacked, or `unstack_layers(model)`: the same tokens, faster on CPU.
    tokens: int32 [B, T], ragged prompts padded on either side.
    positions: int32 [B, T], -1 at padding; None is no padding.
    max_new_tokens: At most so many tokens per row.
    samples: Continuations of every prompt, which is run once. Those of row b
      are rows samples * b and following of the result; sampling and seeds have
      rows as the result has.
    sampling: None is greedy.
    seeds: One per row of the result, from 0 to 2^32 - 1; equal prompts with
      equal seeds give equal samples. An int stands for independent seeds made
      from it.
    stop_ids: A row ends with any of these; None is the config's eos_ids, []
      never stops.
    interventions: Changes, by absolute position, the new tokens counting on.
      'last' is the prompt's last token; `before` and `since` choose between
      the prompt and what is generated.
    prefix: From `share_prefix`: tokens before every row's own, which
      interventions do not change.

  Raises:
    ValueError: a prompt without tokens, a context longer than the model's, or
      anything `run` refuses; or logits are not finite.
  """
  config = model.config
  tokens, positions = running.check_tokens(model, tokens, positions, prefix)
  B = tokens.shape[0]
  if max_new_tokens < 1 or samples < 1:
    raise ValueError(
      'max_new_tokens and samples must be positive, got '
      f'{max_new_tokens} and {samples}.'
    )
  last = positions.max(1)
  if B == 0 or last.min() < 0:
    raise ValueError(
      f'Row {int(last.argmin()) if B else 0} has no token to continue from. '
      'Leave it out, or start it with a token such as BOS.'
    )
  if last.max() + max_new_tokens >= config.max_positions:
    raise ValueError(
      f'A prompt of {last.max() + 1} positions and {max_new_tokens} new tokens '
      f'exceed max_positions={config.max_positions}.'
    )
  # 'last' is resolved here, once: in the loop it would be every new token.
  interventions = running.check_changes(
    model, interventions, positions, max_new_tokens, prefix=prefix
  )
  seeds = np.asarray(seeds)
  if seeds.ndim == 0 and np.issubdtype(seeds.dtype, np.integer) and seeds >= 0:
    seeds = np.random.SeedSequence(int(seeds)).generate_state(B * samples)
  if seeds.shape != (B * samples,):
    raise ValueError(
      f'seeds have shape {seeds.shape}, expected ({B * samples},).'
    )
  if (
    not np.issubdtype(seeds.dtype, np.integer)
    or not ((seeds >= 0) & (seeds < 2**32)).all()
  ):
    raise ValueError(f'seeds must be integers in [0, 2^32), got {seeds}.')
  if sampling is not None:
    sampling = Sampling(**_rows_of(sampling, B * samples))
  stop_ids = config.eos_ids if stop_ids is None else stop_ids

  max_new_tokens = int(max_new_tokens)
  capacity = max(8, 1 << (max_new_tokens - 1).bit_length())
  with sharding.mesh_of(model.embed[...]):
    logits, cache = _prefill(
      model, tokens, positions, interventions, prefix, capacity=capacity
    )
    if samples > 1:
      logits, cache = _repeat_rows(logits, cache, samples)
      last = np.repeat(last, samples)
      interventions = jax.tree.map(
        lambda x: x if x.shape[0] == 1 else jnp.repeat(x, samples, axis=0),
        interventions,
      )
    result, _, bad = _decode(
      model,
      cache,
      logits,
      jnp.asarray(last + 1),
      jnp.asarray(seeds, jnp.uint32),
      jnp.asarray(stop_ids, jnp.int32),
      jnp.int32(max_new_tokens),
      sampling,
      interventions,
      prefix,
      capacity=capacity,
    )
  if (known := concrete(bad)) is not None:
    check_row(int(known), model.dtype, 'The logits')
  return dataclasses.replace(
    result,
    tokens=result.tokens[:, :max_new_tokens],
    logprobs=result.logprobs[:, :max_new_tokens],
  )


def share_prefix(model: Decoder, tokens) -> Cache:
  """Runs tokens [P] once, for `prefix` of `run` and `generate`.

  Rows then hold only what follows, their positions counting on from P, and no
  row stores the prefix. Interventions act on the rows' own tokens.
  """
  tokens, positions = running.check_tokens(
    model, np.asarray(tokens)[None], None
  )
  with sharding.mesh_of(model.embed[...]):
    return _prefill(model, tokens, positions, (), None, capacity=0)[1]


@functools.partial(jax.jit, static_argnames='capacity')
def _prefill(model, tokens, positions, interventions, prefix, *, capacity):
  """Logits [B, V] after the prompts, and a cache with room for more."""
  tokens = sharding.constrain(tokens, 'BT')
  positions = sharding.constrain(positions, 'BT')
  B, T = tokens.shape
  out = forward(
    model,
    tokens,
    positions,
    interventions=interventions,
    logits_at='last',
    cache=Cache.empty(
      model.config, B, T + capacity, model.dtype, model.is_stacked
    ),
    cache_is_empty=True,
    prefix=prefix,
  )
  return out.logits[:, 0], out.cache


@functools.partial(jax.jit, static_argnames='samples')
def _repeat_rows(logits, cache, samples):
  """Returns every row of logits [B, V] and of a cache, `samples` times."""
  axis = 1 if isinstance(cache.k, jax.Array) else 0  # L before B
  repeat = lambda x: jnp.repeat(x, samples, axis)
  cache = dataclasses.replace(
    cache,
    k=jax.tree.map(repeat, cache.k),
    v=jax.tree.map(repeat, cache.v),
    positions=jnp.repeat(cache.positions, samples, axis=0),
  )
  return jnp.repeat(logits, samples, axis=0), cache


@functools.partial(jax.jit, static_argnames='capacity', donate_argnames='cache')
def _decode(
  model,
  cache,
  logits,
  next_positions,
  seeds,
  stop_ids,
  limit,
  sampling,
  interventions,
  prefix,
  *,
  capacity,
) -> tuple[Generation, Cache, jax.Array]:
  """Draws up to `limit` tokens per row, stopping when all rows have.

  The cache is returned so that the one passed in is overwritten in place; the
  last result is what `bad_row` finds. A log-probability is not finite if any
  of the row's logits is NaN or infinity.
  """
  B = logits.shape[0]
  rows = jnp.arange(B)

  def draw(step, logits, done):
    token = _choose(logits, sampling, seeds, step)
    logprob = jax.nn.log_softmax(logits)[rows, token]
    token = jnp.where(done, model.config.fill_id, token)
    logprob = jnp.where(done, 0.0, logprob)
    stops = (token[:, None] == stop_ids[None]).any(-1)
    return token, logprob, done | stops

  def body(state):
    step, cache, token, done, lengths, tokens, logprobs = state
    # A row that is done puts nothing in the cache that anyone could see.
    positions = jnp.where(done, -1, next_positions + step - 1)
    out = forward(
      model,
      token[:, None],
      positions[:, None],
      interventions=interventions,
      logits_at='all',
      cache=cache,
      prefix=prefix,
    )
    lengths = lengths + ~done
    token, logprob, done = draw(step, out.logits[:, 0], done)
    tokens = tokens.at[:, step].set(token)
    logprobs = logprobs.at[:, step].set(logprob)
    return step + 1, out.cache, token, done, lengths, tokens, logprobs

  def unfinished(state):
    step, _, _, done, *_ = state
    return (step < limit) & ~done.all()

  token, logprob, done = draw(0, logits, jnp.zeros(B, bool))
  tokens = jnp.full((B, capacity), model.config.fill_id, jnp.int32)
  logprobs = jnp.zeros((B, capacity), jnp.float32)
  state = (
    jnp.int32(1),
    cache,
    token,
    done,
    jnp.ones(B, jnp.int32),
    tokens.at[:, 0].set(token),
    logprobs.at[:, 0].set(logprob),
  )
  state = lax.while_loop(unfinished, body, state)
  _, cache, _, _, lengths, tokens, logprobs = state
  made = Generation(tokens=tokens, logprobs=logprobs, lengths=lengths)
  return made, cache, sharding.constrain(bad_row(logprobs), '')


def _choose(logits, sampling: Sampling | None, seeds, step) -> jax.Array:
  """Returns each row's next token, int32 [B], from logits float32 [B, V]."""
  best = logits.argmax(-1).astype(jnp.int32)
  if sampling is None:
    return best
  hot = sampling.temperature[:, None] > 0
  scaled = logits / jnp.where(hot, sampling.temperature[:, None], 1.0)
  if sampling.top_k is not None or sampling.top_p is not None:
    ordered = jnp.sort(scaled, axis=-1, descending=True)
    if sampling.top_k is not None:
      k = jnp.clip(sampling.top_k, 1, logits.shape[-1])
      kth = jnp.take_along_axis(ordered, k[:, None] - 1, axis=1)
      ordered = jnp.where(ordered >= kth, ordered, -jnp.inf)
      scaled = jnp.where(scaled >= kth, scaled, -jnp.inf)
    if sampling.top_p is not None:
      p = jax.nn.softmax(ordered, axis=-1)
      kept = jnp.cumsum(p, axis=-1) - p < sampling.top_p[:, None]
      kept = kept.at[:, 0].set(True)
      least = jnp.where(kept, ordered, jnp.inf).min(-1, keepdims=True)
      scaled = jnp.where(scaled >= least, scaled, -jnp.inf)

  def noise(seed):
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.random.gumbel(key, logits.shape[-1:], logits.dtype)

  drawn = (scaled + jax.vmap(noise)(seeds)).argmax(-1).astype(jnp.int32)
  return jnp.where(hot[:, 0], drawn, best)


def _rows_of(sampling: Sampling, rows: int) -> dict[str, jax.Array | None]:
  """Returns the fields of `sampling`, checked, with one value per row."""
  limits = {
    'temperature': (np.float32, lambda v: v >= 0, 'at least 0'),
    'top_k': (np.int32, lambda v: v >= 1, 'at least 1'),
    'top_p': (np.float32, lambda v: (v > 0) & (v <= 1), 'in (0, 1]'),
  }
  fields = {}
  for name, (dtype, valid, words) in limits.items():
    value = getattr(sampling, name)
    if value is not None:
      value = np.atleast_1d(np.asarray(value, dtype))
      if value.shape not in ((1,), (rows,)):
        raise ValueError(
          f'{name} has shape {value.shape}, expected a scalar or ({rows},).'
        )
      if not valid(value).all():
        bad = value[~valid(value)][0]
        raise ValueError(f'{name} must be {words}, got {bad}.')
      value = jnp.broadcast_to(value, (rows,))
    fields[name] = value
  return fields
