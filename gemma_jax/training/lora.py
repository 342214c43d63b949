"""LoRA (Hu et al. 2021): a change of low rank beside matrices that stay.

The sum W + (alpha / rank) B A is made inside the loss, so that the forward
pass, and every family, are what they are without it:

  def loss(adapters, batch, weights):
    merged = merge(weights, adapters, lora)
    return completion_loss(as_model(merged, config), batch)
  adapters, _ = fit(loss, init_lora(weights, lora, key), ..., frozen=weights)

XLA drops the gradients of all that the adapters do not touch.
"""

from collections.abc import Mapping
import dataclasses
import math

import jax
import jax.numpy as jnp

# Weights that may have an adapter, and the letters of a layer's inputs.
LORA_TARGETS = {
  'wq': 'D',
  'wk': 'D',
  'wv': 'D',
  'wo': 'NH',
  'gate': 'D',
  'up': 'D',
  'down': 'F',
}
# Names of the two matrices of a weight's adapter, as PEFT has them.
A, B = '{}.lora_A', '{}.lora_B'

Adapters = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
  """Says which weights have an adapter.

  Attributes:
    rank: r, columns of B and rows of A.
    alpha: Over the rank, it multiplies B A.
    targets: Names of LORA_TARGETS. 'wq' and 'wv' are the paper's choice
      (section 4.2).
  """

  rank: int = 8
  alpha: float = 16.0
  targets: tuple[str, ...] = ('wq', 'wv')

  def __post_init__(self):
    if self.rank < 1 or not 0 < self.alpha < math.inf:
      raise ValueError(
        f'rank={self.rank} and alpha={self.alpha} must be positive.'
      )
    unknown = [name for name in self.targets if name not in LORA_TARGETS]
    if unknown or not self.targets:
      raise ValueError(
        f'targets={self.targets}; expected some of {", ".join(LORA_TARGETS)}.'
      )
    if len(set(self.targets)) < len(self.targets):
      raise ValueError(f'targets={self.targets} name one twice.')

  @property
  def scaling(self) -> float:
    """Returns what multiplies B A."""
    return self.alpha / self.rank


def init_lora(
  weights: Mapping[str, jax.Array], config: LoraConfig, key: jax.Array
) -> Adapters:
  """Returns adapters that change nothing yet, float32.

  B is 0. A is uniform within 1 / sqrt(inputs), as in the authors' code and in
  PEFT (`kaiming_uniform_` with a = sqrt(5)); the paper says Gaussian.

  Args:
    weights: Weights of the model, stacked.
    config: Which, and their rank.
    key: Random key.

  Returns:
    '<weight>.lora_A' [L, r, I] and '<weight>.lora_B' [L, O, r], O and I being
    a layer's outputs and inputs, heads and head dims in one.

  Raises:
    ValueError: the model has no such weight.
  """
  adapters = {}
  keys = jax.random.split(key, len(config.targets))
  for name, subkey in zip(config.targets, keys, strict=True):
    if name not in weights:
      raise ValueError(
        f'The model has no {name}; targets may be '
        f'{", ".join(n for n in LORA_TARGETS if n in weights)}.'
      )
    L, outputs, inputs = matrix_shape(name, weights[name].shape)
    bound = inputs**-0.5
    adapters[A.format(name)] = jax.random.uniform(
      subkey, (L, config.rank, inputs), jnp.float32, -bound, bound
    )
    adapters[B.format(name)] = jnp.zeros((L, outputs, config.rank))
  return adapters


def merge(
  weights: Mapping[str, jax.Array],
  adapters: Mapping[str, jax.Array],
  config: LoraConfig,
) -> dict[str, jax.Array]:
  """Returns weights of the same model with the change in them.

  The sum is made in float32 and rounded once to the weights' dtype.
  """
  merged = dict(weights)
  for name in config.targets:
    weight = weights[name]
    change = config.scaling * jnp.einsum(
      'LOr,LrI->LOI', adapters[B.format(name)], adapters[A.format(name)]
    )
    merged[name] = (
      weight.astype(jnp.float32) + change.reshape(weight.shape)
    ).astype(weight.dtype)
  return merged


def matrix_shape(name: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
  """L, outputs and inputs of a stacked weight, of its shape."""
  outputs = len(shape) - len(LORA_TARGETS[name])
  return shape[0], math.prod(shape[1:outputs]), math.prod(shape[outputs:])
