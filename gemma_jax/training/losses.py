"""What training minimises, in nats: functions of a model and a batch.

All are pure. Those of completions compute logits at learnt tokens alone: with
a vocabulary of 262,144, logits everywhere cost more than a small model does.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from gemma_jax.capture import Capture
from gemma_jax.config import ModelConfig
from gemma_jax.model import embed, forward, run_blocks, unembed
from gemma_jax.training.packing import Packed, Pairs
from gemma_jax.weights import Decoder, unstack_layers


def as_model(
  weights: Mapping[str, jax.Array], config: ModelConfig, dtype=None
) -> Decoder:
  """Returns the model that a loss runs, of weights that are trained or merged.

  On CPU its layers are unstacked: XLA copies the weights of a scan there
  (tools/BENCHMARKS.md).

  Args:
    weights: As `Decoder.weights` has them.
    config: The model's.
    dtype: What to compute in, such as bfloat16; the gradient comes back in that
      of the weights. None is the weights' own.
  """
  if dtype is not None:
    weights = {name: array.astype(dtype) for name, array in weights.items()}
  model = Decoder(config, dict(weights))
  return unstack_layers(model) if jax.default_backend() == 'cpu' else model


def next_token_loss(
  weights: Mapping[str, jax.Array],
  config: ModelConfig,
  tokens,
  counts,
  positions=None,
) -> jax.Array:
  """Returns the mean cross-entropy of each token, given those before it.

  Args:
    weights: As `Decoder.weights` has them.
    config: The model's.
    tokens: int32 [B, T].
    counts: bool [B, T]: which tokens are to be predicted; never a row's first.
    positions: int32 [B, T], -1 at padding; None is no padding.
  """
  model = as_model(weights, config)
  out = forward(model, tokens, positions, logits_at='all')
  losses = optax.softmax_cross_entropy_with_integer_labels(
    out.logits[:, :-1], tokens[:, 1:]
  )
  counts = jnp.asarray(counts, jnp.float32)[:, 1:]
  return (losses * counts).sum() / counts.sum()


def completion_loss(
  model: Decoder, batch: Packed, *, remat: bool = False
) -> jax.Array:
  """Returns the mean cross-entropy of learnt tokens, weighted by example.

  Args:
    model: Stacked or not, see `as_model`.
    batch: Rows of a Packed.
    remat: Recompute blocks in the backward pass, to save memory.
  """
  total, count = completion_sums(model, batch, remat=remat)
  return total / count


def completion_sums(
  model: Decoder, batch: Packed, *, remat: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Returns the numerator and the denominator of `completion_loss`.

  `fit` adds up both over micro-batches, whose mean is that of the whole batch
  even where they differ in how many tokens they learn.
  """
  logprobs, there = token_logprobs(model, batch, remat=remat)
  weights = _at_places(batch.weights, batch) * there
  return -(logprobs * weights).sum(), weights.sum()


def sequence_logprobs(
  model: Decoder, batch: Packed, *, remat: bool = False
) -> jax.Array:
  """Returns log p(completion | prompt) of every row, float32 [R].

  Args:
    model: Stacked or not.
    batch: Rows of one example each (`pack=False`).
    remat: As in `completion_loss`.
  """
  logprobs, there = token_logprobs(model, batch, remat=remat)
  return jnp.where(there, logprobs, 0).sum(1)


def dpo_loss(
  policy: Decoder,
  reference_logprobs: tuple[jax.Array, jax.Array],
  batch: Pairs,
  beta: float = 0.1,
  *,
  remat: bool = False,
) -> jax.Array:
  """Returns the loss of direct preference optimisation (Rafailov et al. 2023).

  Equation 7: the mean of -log sigmoid(beta (r_chosen - r_rejected)), r being
  log p_policy - log p_reference of a completion. beta = 0.1 is theirs
  (appendix B).

  Args:
    policy: The model in training.
    reference_logprobs: float32 [R] of the chosen and of the rejected rows under
      the model before training, by `sequence_logprobs`, computed once.
    batch: Pairs.
    beta: How strongly the policy is held to the reference.
    remat: As in `completion_loss`.
  """
  both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *batch)
  chosen, rejected = jnp.split(sequence_logprobs(policy, both, remat=remat), 2)
  margin = (chosen - reference_logprobs[0]) - (rejected - reference_logprobs[1])
  return -jax.nn.log_sigmoid(beta * margin).mean()


def token_logprobs(
  model: Decoder, batch: Packed, *, remat: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Log-probabilities of learnt tokens, float32 [R, M], and which there are.

  The values at places that a row does not have are of no meaning.
  """
  config = model.config
  if config.truncated_from:
    raise ValueError(
      f'This model has {config.num_layers} of {config.truncated_from} layers '
      'and no logits; load all of them.'
    )
  x, _, _ = run_blocks(
    model,
    embed(model, batch.tokens, batch.positions),
    batch.positions,
    segments=batch.segments,
    capture=Capture(sites=()),
    num_layers=config.num_layers,
    remat=remat,
  )
  # A learnt token is never the first of its example: the column before is.
  before = jnp.maximum(batch.places, 1) - 1
  x = jnp.take_along_axis(x, before[:, :, None], axis=1)  # [R, M, D]
  losses = optax.softmax_cross_entropy_with_integer_labels(
    unembed(model, x), _at_places(batch.tokens, batch)
  )
  return -losses, batch.places >= 0


def _at_places(array, batch: Packed) -> jax.Array:
  """Values [R, M] of an array [R, T]; those of column 0 where there is none."""
  return jnp.take_along_axis(
    jnp.asarray(array), jnp.maximum(batch.places, 0), axis=1
  )
