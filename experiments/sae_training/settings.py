"""Flags that say how SAEs are trained, as a `sae.recipe.TrainConfig`."""

import functools

from absl import flags

from experiments.runs import (
  FEW,
  MANY,
  POSITIVE,
  SEED,
  SHARE,
  define_number,
  define_numbers,
  real,
  whole,
)
from sae.training.recipe import COMPUTE_DTYPES, DECAYS, PENALTIES, TrainConfig

# Of the width of an activation, D, and fields of TrainConfig.
_RECIPES = {
  'paper': lambda d_in, **fields: TrainConfig(**fields),
  'fast': TrainConfig.fast,
  'short': lambda d_in, **fields: TrainConfig.short(**fields),
}
# Where no sweep is asked for.
_SWEEP = (1e-3, 3e-3, 1e-2)
_STEPS, _RATE = whole(0, 10**9), real(0, 1e3)
# Flags that are fields of TrainConfig of the same name; None is the recipe's.
# u is 1 / sqrt(D), about the size of a number in a unit row.
_NUMBERS = {
  'batch_size': (whole(), 'Tokens per update. 4096; fast, short: 1024.'),
  'learning_rate': (_RATE, "Adam's. 7e-5; fast: u / 2; short: 5e-3."),
  'threshold_learning_rate': (
    _RATE,
    "Adam's, of the log thresholds. That of the rest; fast: 0.06.",
  ),
  'encoder_learning_rate': (
    _RATE,
    "Adam's, of the encoder's weights. That of the rest; fast: u / 18.",
  ),
  'bias_learning_rate': (
    _RATE,
    "Adam's, of both biases. That of the rest; fast: u / 30.",
  ),
  'warmup_steps': (
    _STEPS,
    'Updates over which the learning rate rises. 1000; fast, short: a tenth.',
  ),
  'sparsity_warmup_steps': (
    _STEPS,
    'Updates over which the coefficient rises. 10000; fast: three quarters, or '
    'a fifth with --target_l0; short: a fifth.',
  ),
  'decay_steps': (
    _STEPS,
    'Updates at the end over which the rate falls. 0; fast, short: a fifth.',
  ),
  'adam_b1': (SHARE, '0 keeps no first moment. 0; fast: 0.9.'),
  'adam_b2': (SHARE, '0.999; fast: 0.95.'),
  'bandwidth': (
    POSITIVE,
    'Of the straight-through kernel, where E||x||^2 = 1. 1e-3; fast: u / 2; '
    'short: 0.1.',
  ),
  'initial_threshold': (
    POSITIVE,
    'Of every latent. 1e-3; fast: one in a hundred begins active; short: 0.02.',
  ),
  'encoder_scale': (
    real(0, 1e6),
    "The encoder starts as the decoder's transpose times this. 1; fast: 2 D / "
    'width, or 1 if less.',
  ),
  'tanh_scale': (POSITIVE, "Of penalty 'tanh'. 4."),
  'bucket_size': (
    MANY,
    'Activations on the device, shuffled as one; whole batches. About a '
    'million; fast, short: 131072; by default never more than are trained on.',
  ),
  'dead_after': (
    whole(1, 10**12),
    'A latent is dead after so many tokens without firing. 10000000.',
  ),
  'runs_at_once': (
    FEW,
    'SAEs of a sweep that are computed side by side; fewer need less memory. '
    'All; on CPU one.',
  ),
  'shuffle_seed': (SEED, 'Of the order within buckets. 0.'),
}
_CHOICES = {
  'decay': (
    DECAYS,
    'How the rate falls at the end. none; fast, short: linear.',
  ),
  'penalty': (PENALTIES, "What is penalised; 'l0' is Gemma Scope's. l0."),
  'compute_dtype': (
    COMPUTE_DTYPES,
    'Of the factors of matrix products; weights stay float32. float32.',
  ),
}


def define_flags(values: flags.FlagValues) -> list[str]:
  """Defines them; returns their names."""
  before = set(values)
  common = {'flag_values': values}
  define_number(
    'width', 256, 'F, latents of each SAE.', whole(1, 2**24), **common
  )
  define_number(
    'tokens',
    1_000_000,
    'Tokens to train on; whole batches of them.',
    whole(1, 10**12),
    **common,
  )
  define_numbers(
    'sparsity',
    None,
    'Coefficients of the L0 penalty, one SAE each, trained together on the '
    'same activations. Default: '
    f'{",".join(f"{x:g}" for x in _SWEEP)}, or 1e-3 where --target_l0 or '
    '--seed make the sweep.',
    real(0, 1e6),
    **common,
  )
  define_numbers(
    'target_l0',
    None,
    'Steer each coefficient until the L0 is this; one SAE each.',
    POSITIVE,
    **common,
  )
  define_numbers(
    'seed', [0], 'Of the initial weights; several make a sweep.', SEED, **common
  )
  flags.DEFINE_enum(
    'recipe',
    'fast',
    list(_RECIPES),
    "'paper' is Gemma Scope's, for about a million updates; 'fast' is for "
    'hundreds or thousands, with momentum and a rate for each kind of weight; '
    "'short', for thousands, has the paper's one rate, larger. The defaults "
    "below are the paper's first; u is 1 / sqrt(D), D the width of an "
    'activation.',
    **common,
  )
  for name, (number, help_text) in _NUMBERS.items():
    define_number(name, None, help_text, number, **common)
  for name, (allowed, help_text) in _CHOICES.items():
    flags.DEFINE_enum(name, None, list(allowed), help_text, **common)
  return sorted(set(values) - before)


def train_config(values: flags.FlagValues, d_in: int) -> TrainConfig:
  """The configuration that parsed flags describe.

  Args:
    values: Parsed flags.
    d_in: D, of the activations.

  Raises:
    ValueError: a value makes no sense, or there are fewer tokens than one
      batch has.
  """
  changes = {
    name: values[name].value
    for name in (*_NUMBERS, *_CHOICES)
    if values[name].value is not None
  }
  changes['seed'] = tuple(values.seed)
  if values.target_l0 is not None:
    changes['target_l0'] = tuple(values.target_l0)
  swept = values.target_l0 is not None or len(changes['seed']) > 1
  if values.sparsity is not None:
    changes['sparsity'] = tuple(values.sparsity)
  elif not swept:
    changes['sparsity'] = _SWEEP

  make = functools.partial(_RECIPES[values.recipe], d_in=d_in)
  defaults = make(width=1, num_steps=1)
  batch = changes.get('batch_size', defaults.batch_size)
  steps = values.tokens // batch
  if not steps:
    raise ValueError(
      f'--tokens={values.tokens} is less than one batch of {batch}. Give more '
      'tokens, or a smaller --batch_size.'
    )
  if steps >= 2**31:
    raise ValueError(
      f'--tokens={values.tokens} are {steps} updates of {batch}, more than '
      'int32 counts. Give a larger --batch_size.'
    )
  if changes.get('decay') == 'none':
    changes.setdefault('decay_steps', 0)
  if 'bucket_size' not in changes:
    largest = max(1, defaults.bucket_size // batch)
    changes['bucket_size'] = min(largest, steps) * batch
  return make(width=values.width, num_steps=steps, **changes)
