"""How JumpReLU SAEs are trained: every constant, and the schedules.

The defaults are those of Gemma Scope (arXiv 2408.05147, section 3.2), in its
units: activations are scaled to a mean squared norm of 1, the squared error is
summed over D, and both it and the L0 are means over tokens.
"""

from collections.abc import Sequence
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

DECAYS = ('none', 'linear', 'cosine')
PENALTIES = ('l0', 'tanh')
COMPUTE_DTYPES = ('float32', 'bfloat16')
# What may have a learning rate of its own, NAME_learning_rate.
RATES = ('threshold', 'encoder', 'bias')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """Holds what sets one run of a sweep apart; all else is shared."""

  sparsity: float
  seed: int
  target_l0: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """Says how to train.

  `sparsity`, `seed` and `target_l0` may be sequences: a sweep, whose runs see
  the same activations in the same order and are trained by one program.

  Attributes:
    width: F, the number of latents.
    num_steps: Updates.
    sparsity: Coefficient of the penalty, lambda. With `target_l0`, its first
      value, from which a controller moves it.
    seed: Random seed of the initial weights.
    shuffle_seed: Random seed of the order of activations within a bucket.
    target_l0: Mean active latents per token to steer to, or None.
    batch_size: B, tokens per update.
    learning_rate: Learning rate of Adam.
    threshold_learning_rate: Learning rate of the log thresholds; None
      is `learning_rate`. Adam moves a log threshold by about this much per
      step, so at 7e-5 a factor of e takes 14,000 steps: runs shorter than that
      need more.
    encoder_learning_rate: Learning rate of the encoder's weights; None
      is `learning_rate`.
    bias_learning_rate: Learning rate of both biases; None is
      `learning_rate`. Adam moves every number by about its rate, and a bias
      moves pre-activations, which are 1 / sqrt(D) wide, by as much: at rates
      above about 0.01 biases overshoot unless theirs is smaller.
    warmup_steps: The learning rate rises to its value over so many steps,
      from a tenth of it, as half a cosine.
    decay: How the learning rate falls to 0 in the last `decay_steps`.
    decay_steps: See `decay`.
    adam_b1: 0 keeps no first moment.
    adam_b2: Decay of the running mean of squared gradients.
    adam_eps: Added to the root of that mean, so that no update explodes.
    sparsity_warmup_steps: The coefficient rises from 0, linearly, over so many
      steps.
    penalty: 'l0' counts active latents, with straight-through gradients.
      'tanh' is Anthropic's smooth stand-in, the sum of tanh(tanh_scale * f)
      (Transformer Circuits Thread, January 2025 update).
    tanh_scale: In its authors' units, where the mean squared norm is D.
    bandwidth: Width of the straight-through kernel: a wide one is biased, a
      narrow one noisy.
    initial_threshold: Threshold with which every latent starts.
    encoder_scale: The encoder starts as the decoder's transpose times this.
      At 1, and with low thresholds, the first reconstructions are about F / 2D
      times too long, which training has to unlearn first.
    compute_dtype: Compute dtype of the factors of matrix products. Products
      accumulate in float32; weights, thresholds and moments are float32
      throughout.
    bucket_size: Activations on device, shuffled as one; a multiple of
      batch_size. Gemma Scope's buckets held about a million.
    dead_after: A latent is dead when it has not fired for so many tokens.
    runs_at_once: How many runs of a sweep are computed side by side (`vmap`);
      the others follow in the same program. Fewer need less memory; a run may
      go on with fewer, to the same results but for rounding. None is all of
      them, but on CPU one, which is faster there.
  """

  width: int
  num_steps: int
  sparsity: float | Sequence[float] = 1e-3
  seed: int | Sequence[int] = 0
  shuffle_seed: int = 0
  target_l0: float | Sequence[float] | None = None
  batch_size: int = 4096
  learning_rate: float = 7e-5
  threshold_learning_rate: float | None = None
  encoder_learning_rate: float | None = None
  bias_learning_rate: float | None = None
  warmup_steps: int = 1000
  decay: str = 'none'
  decay_steps: int = 0
  adam_b1: float = 0.0
  adam_b2: float = 0.999
  adam_eps: float = 1e-8
  sparsity_warmup_steps: int = 10_000
  penalty: str = 'l0'
  tanh_scale: float = 4.0
  bandwidth: float = 1e-3
  initial_threshold: float = 1e-3
  encoder_scale: float = 1.0
  compute_dtype: str = 'float32'
  bucket_size: int = 2**20
  dead_after: int = 10_000_000
  runs_at_once: int | None = None

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = _plain(getattr(self, field.name))
      object.__setattr__(self, field.name, value)
    _check(self)

  @classmethod
  def fast(
    cls, *, d_in: int, width: int, num_steps: int, **changes
  ) -> 'TrainConfig':
    """Returns a recipe for hundreds of updates, and for thousands.

    Adam has momentum; decoder, encoder and biases have learning rates in
    proportion to how large their numbers are; the encoder starts short, so
    that the first reconstructions are no longer than activations. Sparsity is
    asked for late: its coefficient rises through three quarters of the run,
    while latents find their directions, but with `target_l0` through a fifth,
    after which the controller has it. Chosen on synthetic dictionaries, not
    from a paper; how it compares is in tools/BENCHMARKS.md.

    Args:
      d_in: D, of the activations.
      width: F.
      num_steps: Updates.
      **changes: Other fields, instead of the recipe's.
    """
    d_in = _plain(d_in)
    if not isinstance(d_in, int) or d_in < 1:
      raise ValueError(
        f'd_in must be a whole number, at least 1; got {d_in!r}.'
      )
    # The size of a number in a unit row, and of its product with an activation.
    size = d_in**-0.5
    encoder_scale = min(1.0, 2 * d_in / max(width, 1))
    steered = changes.get('target_l0') is not None
    rises = num_steps // 5 if steered else num_steps * 3 // 4
    recipe = {
      'learning_rate': size / 2,
      'encoder_learning_rate': size / 18,
      'bias_learning_rate': size / 30,
      'threshold_learning_rate': 0.06,
      'adam_b1': 0.9,
      'adam_b2': 0.95,
      'bandwidth': size / 2,
      'encoder_scale': encoder_scale,
      # A hundredth of a normal distribution is above 2.33 deviations.
      'initial_threshold': 2.33 * encoder_scale * size,
      'sparsity_warmup_steps': rises,
    }
    return cls._scheduled(recipe, width, num_steps, changes)

  @classmethod
  def short(cls, width: int, num_steps: int, **changes) -> 'TrainConfig':
    """Returns a recipe for thousands of updates, nearer to the papers' than
    `fast`.

    No momentum, and one learning rate; the sparsity warm-up is a fifth of the
    run. MiniWorld's SAEs are trained with it; at the same L0 it reconstructs
    worse than `fast`. Thresholds below half the bandwidth, 0.05, soon rise to
    it: for more than about a hundred active latents per token take a smaller
    bandwidth.
    """
    recipe = {
      'learning_rate': 5e-3,
      'threshold_learning_rate': 5e-3,
      'initial_threshold': 0.02,
      'bandwidth': 0.1,
      'sparsity_warmup_steps': num_steps // 5,
    }
    return cls._scheduled(recipe, width, num_steps, changes)

  @classmethod
  def _scheduled(cls, recipe, width, num_steps, changes) -> 'TrainConfig':
    """Returns a recipe whose rates rise in a tenth and fall in a fifth."""
    decay_steps = num_steps // 5
    recipe = recipe | {
      'batch_size': 1024,
      'warmup_steps': num_steps // 10,
      'decay': 'linear' if decay_steps else 'none',
      'decay_steps': decay_steps,
    }
    batch_size = changes.get('batch_size', recipe['batch_size'])
    recipe['bucket_size'] = max(1, (1 << 17) // batch_size) * batch_size
    return cls(width=width, num_steps=num_steps, **(recipe | changes))

  @property
  def runs(self) -> tuple[Run, ...]:
    """Returns the runs of the sweep, R of them."""
    values = [self.sparsity, self.seed, self.target_l0]
    size = max(len(v) if isinstance(v, tuple) else 1 for v in values)
    values = [v if isinstance(v, tuple) else (v,) for v in values]
    values = [v * size if len(v) == 1 else v for v in values]
    return tuple(
      Run(sparsity=sparsity, seed=seed, target_l0=target)
      for sparsity, seed, target in zip(*values, strict=True)
    )

  @property
  def shared(self) -> 'TrainConfig':
    """This without what is data to a compiled update."""
    target = None if self.target_l0 is None else 0.5
    return dataclasses.replace(
      self, sparsity=1.0, seed=0, shuffle_seed=0, target_l0=target
    )

  @property
  def identity(self) -> dict:
    """Returns the fields that change results by more than rounding."""
    values = dataclasses.asdict(self)
    del values['runs_at_once']
    return values

  def rate_factor(self, step: jax.Array) -> jax.Array:
    """Returns the learning rates' factor at a step, from 0: float32."""
    ramp = _float(step) / max(self.warmup_steps, 1)
    factor = 0.1 + 0.9 * (1 - jnp.cos(math.pi * jnp.minimum(ramp, 1))) / 2
    if self.decay == 'none':
      return factor
    left = _float(self.num_steps - step) / max(self.decay_steps, 1)
    left = jnp.clip(left, 0, 1)
    if self.decay == 'cosine':
      left = (1 - jnp.cos(math.pi * left)) / 2
    return factor * left

  def sparsity_factor(self, step: jax.Array) -> jax.Array:
    """Returns the coefficient's factor at a step, from 0: float32."""
    return jnp.minimum(_float(step) / max(self.sparsity_warmup_steps, 1), 1)


def _float(number) -> jax.Array:
  """float32, also where a quotient of integers would be a float64."""
  return jnp.asarray(number, jnp.float32)


def _plain(value):
  """Hashable, and in JSON's terms: numbers of Python, sweeps as tuples."""
  if isinstance(value, np.ndarray | np.generic):
    value = value.tolist()
  if isinstance(value, Sequence) and not isinstance(value, str):
    value = tuple(map(_plain, value))
  return value


def _check(config: TrainConfig):
  """Raises ValueError, naming the field, its value and what it may be."""
  at_least_1 = ('width', 'num_steps', 'batch_size', 'bucket_size')
  at_least_1 += ('dead_after',)
  at_least_0 = ('warmup_steps', 'decay_steps', 'sparsity_warmup_steps')
  at_least_0 += ('shuffle_seed',)
  for names, least in ((at_least_1, 1), (at_least_0, 0)):
    for name in names:
      value = getattr(config, name)
      if not isinstance(value, int) or value < least:
        raise ValueError(
          f'{name} must be a whole number, at least {least}; got {value!r}.'
        )
  positive = ('learning_rate', 'adam_eps', 'bandwidth', 'initial_threshold')
  positive += ('tanh_scale', 'encoder_scale')
  for name in positive:
    value = getattr(config, name)
    if not (_is_number(value) and 0 < value < math.inf):
      raise ValueError(f'{name} must be a positive number, got {value!r}.')
  if config.dead_after > 2**30:  # int32 counts up to it
    raise ValueError(
      f'dead_after must be at most {2**30}, got {config.dead_after}.'
    )
  at_once = config.runs_at_once
  if at_once is not None and (not isinstance(at_once, int) or at_once < 1):
    raise ValueError(f'runs_at_once must be at least 1, got {at_once!r}.')
  for name in (f'{part}_learning_rate' for part in RATES):
    rate = getattr(config, name)
    if rate is not None and not (_is_number(rate) and 0 <= rate < math.inf):
      raise ValueError(f'{name} must be 0 or more, or None; got {rate!r}.')
  for name in ('adam_b1', 'adam_b2'):
    value = getattr(config, name)
    if not (_is_number(value) and 0 <= value < 1):
      raise ValueError(f'{name} must be in [0, 1), got {value!r}.')
  choices = {
    'decay': DECAYS,
    'penalty': PENALTIES,
    'compute_dtype': COMPUTE_DTYPES,
  }
  for name, allowed in choices.items():
    if getattr(config, name) not in allowed:
      raise ValueError(
        f'{name} must be one of {allowed}, got {getattr(config, name)!r}.'
      )
  if config.decay_steps > config.num_steps:
    raise ValueError(
      f'decay_steps={config.decay_steps} is more than '
      f'num_steps={config.num_steps}.'
    )
  if (config.decay == 'none') != (config.decay_steps == 0):
    raise ValueError(
      f'decay={config.decay!r} with decay_steps={config.decay_steps}: give '
      'both or neither.'
    )
  if config.bucket_size % config.batch_size:
    raise ValueError(
      f'bucket_size={config.bucket_size} is not a multiple of '
      f'batch_size={config.batch_size}; every bucket is used whole.'
    )
  _check_sweep(config)


def _is_number(value) -> bool:
  return isinstance(value, int | float)


def _check_sweep(config: TrainConfig):
  swept = ('sparsity', 'seed', 'target_l0')
  sizes = {
    name: len(getattr(config, name))
    for name in swept
    if isinstance(getattr(config, name), tuple)
  }
  if 0 in sizes.values() or len(set(sizes.values()) - {1}) > 1:
    raise ValueError(
      f'A sweep takes one value per run; got {sizes} values. Give lists of one '
      'length, or one value for all.'
    )
  for run in config.runs:
    if not (_is_number(run.sparsity) and 0 <= run.sparsity < math.inf):
      raise ValueError(f'sparsity must be 0 or more, got {run.sparsity!r}.')
    if not isinstance(run.seed, int) or not 0 <= run.seed < 2**32:
      raise ValueError(
        f'seed must be a whole number below 2**32, got {run.seed!r}.'
      )
    if run.target_l0 is None and config.target_l0 is None:
      continue
    if run.target_l0 is None:
      raise ValueError(
        f'target_l0 must be given for all runs or none, got '
        f'{config.target_l0!r}.'
      )
    if not (_is_number(run.target_l0) and 0 < run.target_l0 < config.width):
      raise ValueError(
        f'target_l0 must be between 0 and width={config.width}, got '
        f'{run.target_l0!r}.'
      )
    if run.sparsity == 0:
      raise ValueError(
        'With target_l0, sparsity is the first coefficient and must be '
        'positive.'
      )
    if config.num_steps <= config.sparsity_warmup_steps:
      raise ValueError(
        f'target_l0 is steered to after sparsity_warmup_steps='
        f'{config.sparsity_warmup_steps}, which num_steps='
        f'{config.num_steps} never gets past. Shorten the warm-up.'
      )
    if config.threshold_learning_rate == 0:
      raise ValueError('target_l0 needs a threshold_learning_rate above 0.')
