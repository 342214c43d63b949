"""One update of the weights, and many in one program.

Two axes stand before those of an SAE: S sources of activations (layers, say),
each with R runs of the sweep, which share their source's batches.
"""

import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import optax

from sae.straight_through import count_firings, jumprelu
from sae.training import sharding
from sae.training.recipe import TrainConfig

# The target-L0 controller, see `_steer`. Chosen on synthetic dictionaries.
_L0_AVERAGE = 0.95
_PROPORTIONAL = 1.0
_INTEGRAL = 2.0


class Params(NamedTuple):
  """Holds what is trained, for activations of mean squared norm 1; all float32.

  Attributes:
    W_enc: [S, R, D, F].
    W_dec: [S, R, F, D], rows of norm 1.
    b_enc: [S, R, F].
    b_dec: [S, R, D]; also subtracted before encoding.
    log_threshold: [S, R, F].
  """

  W_enc: jax.Array
  W_dec: jax.Array
  b_enc: jax.Array
  b_dec: jax.Array
  log_threshold: jax.Array


class State(NamedTuple):
  """All that changes in training.

  Attributes:
    params: Params.
    adam: Adam of optax; moments like params.
    step: int32, updates made.
    scale: float32 [S], the root mean square norm of raw activations; they are
      divided by it.
    silent: int32 [S, R, F], tokens since a latent fired, up to `dead_after`.
    log_sparsity: float32 [S, R], log of the coefficient before warm-up.
    l0: float32 [S, R], running mean, for the controller.
    target_l0: float32 [R], constant; of no meaning without a controller.
  """

  params: Params
  adam: optax.OptState
  step: jax.Array
  scale: jax.Array
  silent: jax.Array
  log_sparsity: jax.Array
  l0: jax.Array
  target_l0: jax.Array


class StepMetrics(NamedTuple):
  """Holds the metrics before one update; float32 [S, R], of scaled activations.

  Attributes:
    loss: What is minimised.
    mse: Squared error, summed over D.
    fvu: The error as a fraction of the batch's variance.
    l0: Active latents per token.
    dead: Share of latents that are dead by `dead_after`.
    window: Share of entries in the straight-through window; at 0 no threshold
      moves.
    sparsity: The coefficient, warm-up and controller included.
    norm: Mean squared norm of the activations; not finite if they are not.
  """

  loss: jax.Array
  mse: jax.Array
  fvu: jax.Array
  l0: jax.Array
  dead: jax.Array
  window: jax.Array
  sparsity: jax.Array
  norm: jax.Array


def init_state(
  config: TrainConfig, scale: jax.Array, d_in: int, mesh=None
) -> State:
  """Returns the state before the first update.

  Decoder rows are uniform on a cube (He's initialisation), normalised; the
  encoder is their transpose, times `encoder_scale`; biases are 0 (arXiv
  2408.05147, section 3.2). All sources start from the same weights, so that
  one trained together with others equals one trained alone.

  Args:
    config: TrainConfig.
    scale: float32 [S].
    d_in: D.
    mesh: Where to place the weights, by `sharding.RULES`; None is one device.
  """
  runs = config.runs
  return _init(
    jnp.asarray([run.seed for run in runs], jnp.uint32),
    jnp.asarray([run.sparsity for run in runs], jnp.float32),
    jnp.asarray([run.target_l0 or 1 for run in runs], jnp.float32),
    jnp.asarray(scale, jnp.float32),
    config=config.shared,
    d_in=d_in,
    mesh=mesh,
  )


@functools.partial(jax.jit, static_argnames=('config', 'd_in', 'mesh'))
def _init(seeds, sparsity, target_l0, scale, *, config, d_in, mesh):
  S, R, F = scale.shape[0], seeds.shape[0], config.width

  def one(seed):
    key = jax.random.key(seed)
    W_dec = jax.nn.initializers.he_uniform()(key, (F, d_in), jnp.float32)
    W_dec = _unit_rows(W_dec)
    return Params(
      W_enc=config.encoder_scale * W_dec.T,
      W_dec=W_dec,
      b_enc=jnp.zeros(F, jnp.float32),
      b_dec=jnp.zeros(d_in, jnp.float32),
      log_threshold=jnp.log(jnp.full(F, config.initial_threshold, jnp.float32)),
    )

  per_source = lambda x: jnp.broadcast_to(x, (S, *x.shape))
  params = jax.tree.map(per_source, jax.vmap(one)(seeds))
  state = State(
    params=params,
    adam=_optimiser(config).init(params),
    step=jnp.zeros((), jnp.int32),
    scale=scale,
    silent=jnp.zeros((S, R, F), jnp.int32),
    log_sparsity=jnp.log(per_source(sparsity)),
    l0=per_source(target_l0),  # where the controller begins
    target_l0=target_l0,
  )
  return sharding.constrain_state(state, mesh)


def run_updates(
  state: State,
  bucket: jax.Array,
  order: jax.Array,
  start: jax.Array,
  *,
  config: TrainConfig,
  num_steps: int,
  mesh=None,
) -> tuple[State, StepMetrics]:
  """Makes several updates without the host.

  Args:
    state: Donated.
    bucket: [S, n, D] raw activations.
    order: int32 [n], a permutation of the bucket's rows.
    start: int32, where in `order` the first batch begins.
    config: Compiled in, but for what sets the runs of a sweep apart.
    num_steps: How many updates; compiled in.
    mesh: Batches are split over its 'data' axis, latents over 'model'.

  Returns:
    The new state, and metrics float32 [num_steps, S, R].
  """
  return _run_updates(
    state,
    bucket,
    order,
    start,
    config=config.shared,
    num_steps=num_steps,
    mesh=mesh,
  )


@functools.partial(
  jax.jit, static_argnames=('config', 'num_steps', 'mesh'), donate_argnums=0
)
def _run_updates(state, bucket, order, start, *, config, num_steps, mesh):
  def one(state, i):
    B = config.batch_size
    rows = lax.dynamic_slice(order, (start + i * B,), (B,))
    x = sharding.constrain(bucket[:, rows], 'SBD', mesh)
    state, metrics = update(config, state, x)
    return sharding.constrain_state(state, mesh), metrics

  return lax.scan(one, state, jnp.arange(num_steps))


def update(config: TrainConfig, state: State, x: jax.Array):
  """Does one update from raw activations x [S, B, D].

  Returns (state, StepMetrics).
  """
  x = x.astype(jnp.float32) / state.scale[:, None, None]
  sparsity = jnp.exp(state.log_sparsity)
  if config.target_l0 is not None:
    sparsity = sparsity * (state.l0 / state.target_l0) ** _PROPORTIONAL
  sparsity = sparsity * config.sparsity_factor(state.step)

  at_once = config.runs_at_once
  if at_once is None and jax.default_backend() == 'cpu':
    at_once = 1

  def per_source(params, x, sparsity, silent):
    one_run = lambda run: _gradients(config, run[0], x, *run[1:])
    runs = params, sparsity, silent
    if at_once == 1:
      return lax.map(one_run, runs)
    return lax.map(one_run, runs, batch_size=at_once or len(sparsity))

  grads, metrics, fired = jax.vmap(per_source)(
    state.params, x, sparsity, state.silent
  )
  # The part of a row's gradient along the row would only change its norm.
  W_dec, g = state.params.W_dec, grads.W_dec
  along = jnp.einsum('...FD,...FD->...F', g, W_dec)[..., None]
  grads = grads._replace(W_dec=g - along * W_dec)

  changes, adam = _optimiser(config).update(grads, state.adam)
  rates = _rates(config, state.step)
  params = jax.tree.map(
    lambda p, change, rate: p - rate * change, state.params, changes, rates
  )
  params = params._replace(W_dec=_unit_rows(params.W_dec))

  state = state._replace(
    params=params,
    adam=adam,
    step=state.step + 1,
    # Bounded, since billions of tokens would overflow.
    silent=jnp.where(
      fired, 0, jnp.minimum(state.silent + x.shape[1], config.dead_after)
    ),
  )
  return _steer(config, state, metrics.l0, rates.log_threshold), metrics


def _gradients(config: TrainConfig, params: Params, x, sparsity, silent):
  """Returns gradients (Params), StepMetrics and fired (bool [F]) of one run.

  x is scaled, [B, D]. Five products of 2BDF operations each.
  """
  dtype, bandwidth = config.compute_dtype, config.bandwidth

  def loss(params):
    z = _encode(dtype, x, params.W_enc, params.b_enc, params.b_dec)
    z = jax.nn.relu(z)  # [B, F]
    threshold = jnp.exp(params.log_threshold)
    f = jumprelu(z, threshold, bandwidth)
    y = _decode(dtype, f, params.W_dec, params.b_dec)  # [B, D]
    mse = ((y - x) ** 2).sum(-1).mean()
    firings, near = count_firings(z, threshold, bandwidth)
    l0 = firings.sum() / len(x)
    if config.penalty == 'l0':
      penalty = l0
    else:
      scale = config.tanh_scale * x.shape[1] ** 0.5
      penalty = jnp.tanh(scale * f).sum(-1).mean()
    return mse + sparsity * penalty, (firings, near, mse, l0)

  (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
  firings, near, mse, l0 = aux
  metrics = StepMetrics(
    loss=value,
    mse=mse,
    fvu=mse / ((x - x.mean(0)) ** 2).sum(-1).mean(),
    l0=l0,
    dead=(silent >= config.dead_after).mean(dtype=jnp.float32),
    window=near.mean() / len(x),
    sparsity=sparsity,
    norm=(x**2).sum(-1).mean(),
  )
  return grads, metrics, firings > 0


# Both backward passes are written out, such that each product has the layout of
# what it is the gradient of. Left to itself, JAX multiplies the decoder's the
# other way round and transposes F x D numbers. Of the encoder's, the smaller
# factor is turned first: on CPU that product takes two thirds of the time.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _encode(dtype, x, W_enc, b_enc, b_dec):
  """Pre-activations [B, F] of x [B, D], which is data and gets no gradient.

  Ordinary differentiation would form the gradient of x - b_dec, a sixth
  product of 2BDF operations, only to sum it over tokens for b_dec. The sum is
  W_enc times the gradient of b_enc.
  """
  return _product('BD,DF->BF', x - b_dec, W_enc, dtype) + b_enc


def _encode_fwd(dtype, x, W_enc, b_enc, b_dec):
  return _encode(dtype, x, W_enc, b_enc, b_dec), (x - b_dec, W_enc)


def _encode_bwd(dtype, saved, g):
  centred, W_enc = saved
  db_enc = g.sum(0)
  dW_enc = _product('DB,BF->DF', centred.T, g, dtype)
  return None, dW_enc, db_enc, -(W_enc @ db_enc)


_encode.defvjp(_encode_fwd, _encode_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _decode(dtype, f, W_dec, b_dec):
  """Reconstructions [B, D] of latents [B, F]."""
  return _product('BF,FD->BD', f, W_dec, dtype) + b_dec


def _decode_fwd(dtype, f, W_dec, b_dec):
  return _decode(dtype, f, W_dec, b_dec), (f, W_dec)


def _decode_bwd(dtype, saved, g):
  f, W_dec = saved
  df = _product('BD,FD->BF', g, W_dec, dtype)
  return df, _product('BF,BD->FD', f, g, dtype), g.sum(0)


_decode.defvjp(_decode_fwd, _decode_bwd)


def _product(letters: str, a, b, dtype: str):
  """einsum in float32 of factors rounded to `dtype`."""
  a, b = a.astype(dtype), b.astype(dtype)
  return jnp.einsum(letters, a, b, preferred_element_type=jnp.float32)


def _steer(config: TrainConfig, state: State, l0, threshold_rate) -> State:
  """Moves the coefficient towards the target L0, once warm-up is over.

  A controller in logarithms: the coefficient is
  exp(integral of the error) * (L0 / target), where the error is
  log(L0 / target). The integral finds the value, the second factor damps. It
  integrates at a pace given by that at which thresholds can follow.
  """
  if config.target_l0 is None:
    return state
  average = _L0_AVERAGE * state.l0 + (1 - _L0_AVERAGE) * l0
  error = jnp.log(jnp.maximum(average, 1e-3) / state.target_l0)
  change = _INTEGRAL * threshold_rate * jnp.clip(error, -1, 1)
  warm = state.step > config.sparsity_warmup_steps
  return state._replace(
    l0=jnp.where(warm, average, state.l0),
    log_sparsity=state.log_sparsity + jnp.where(warm, change, 0),
  )


def _rates(config: TrainConfig, step: jax.Array) -> Params:
  """Learning rates at a step, float32."""
  own = lambda rate: config.learning_rate if rate is None else rate
  rates = Params(
    W_enc=own(config.encoder_learning_rate),
    W_dec=config.learning_rate,
    b_enc=own(config.bias_learning_rate),
    b_dec=own(config.bias_learning_rate),
    log_threshold=own(config.threshold_learning_rate),
  )
  factor = config.rate_factor(step)
  return jax.tree.map(lambda rate: rate * factor, rates)


def _optimiser(config: TrainConfig) -> optax.GradientTransformation:
  """Adam before the learning rate; without a first moment if b1 is 0."""
  if config.adam_b1 == 0:
    return optax.scale_by_rms(
      config.adam_b2,
      config.adam_eps,
      eps_in_sqrt=False,
      bias_correction=True,
    )
  return optax.scale_by_adam(config.adam_b1, config.adam_b2, config.adam_eps)


def _unit_rows(W):
  # Multiplied, since a division per weight takes longer than all else here.
  return W * lax.rsqrt((W**2).sum(-1, keepdims=True))
