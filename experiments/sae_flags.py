"""Flags that say how SAEs are trained, as a `sae.recipe.TrainConfig`."""

import functools

from absl import flags

from sae.recipe import COMPUTE_DTYPES, DECAYS, PENALTIES, TrainConfig

# Of the width of an activation, D, and fields of TrainConfig.
_RECIPES = {
  'paper': lambda d_in, **fields: TrainConfig(**fields),
  'fast': TrainConfig.fast,
  'short': lambda d_in, **fields: TrainConfig.short(**fields),
}
# Where no sweep is asked for.
_SWEEP = (1e-3, 3e-3, 1e-2)
# Flags that are fields of TrainConfig of the same name; None is the recipe's.
# u is 1 / sqrt(D), about the size of a number in a unit row.
_NUMBERS = {
  'batch_size': (int, 'Tokens per update. 4096; fast, short: 1024.'),
  'learning_rate': (float, "Adam's. 7e-5; fast: u / 2; short: 5e-3."),
  'threshold_learning_rate': (
    float,
    "Adam's, of the log thresholds. That of the rest; fast: 0.06.",
  ),
  'encoder_learning_rate': (
    float,
    "Adam's, of the encoder's weights. That of the rest; fast: u / 18.",
  ),
  'bias_learning_rate': (
    float,
    "Adam's, of both biases. That of the rest; fast: u / 30.",
  ),
  'warmup_steps': (
    int,
    'Updates over which the learning rate rises. 1000; fast, short: a tenth.',
  ),
  'sparsity_warmup_steps': (
    int,
    'Updates over which the coefficient rises. 10000; fast: three quarters, or '
    'a fifth with --target_l0; short: a fifth.',
  ),
  'decay_steps': (
    int,
    'Updates at the end over which the rate falls. 0; fast, short: a fifth.',
  ),
  'adam_b1': (float, '0 keeps no first moment. 0; fast: 0.9.'),
  'adam_b2': (float, '0.999; fast: 0.95.'),
  'bandwidth': (
    float,
    'Of the straight-through kernel, where E||x||^2 = 1. 1e-3; fast: u / 2; '
    'short: 0.1.',
  ),
  'initial_threshold': (
    float,
    'Of every latent. 1e-3; fast: one in a hundred begins active; short: 0.02.',
  ),
  'encoder_scale': (
    float,
    "The encoder starts as the decoder's transpose times this. 1; fast: 2 D / "
    'width, or 1 if less.',
  ),
  'tanh_scale': (float, "Of penalty 'tanh'. 4."),
  'bucket_size': (
    int,
    'Activations on the device, shuffled as one; whole batches. About a '
    'million; fast, short: 131072; by default never more than are trained on.',
  ),
  'dead_after': (
    int,
    'A latent is dead after so many tokens without firing. 10000000.',
  ),
  'runs_at_once': (
    int,
    'SAEs of a sweep that are computed side by side; fewer need less memory. '
    'All; on CPU one.',
  ),
  'shuffle_seed': (int, 'Of the order within buckets. 0.'),
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
  flags.DEFINE_integer(
    'width', 256, 'F, latents of each SAE.', lower_bound=1, **common
  )
  flags.DEFINE_integer(
    'tokens',
    1_000_000,
    'Tokens to train on; whole batches of them.',
    lower_bound=1,
    **common,
  )
  flags.DEFINE_list(
    'sparsity',
    None,
    'Coefficients of the L0 penalty, one SAE each, trained together on the '
    'same activations. Default: '
    f'{",".join(f"{x:g}" for x in _SWEEP)}, or 1e-3 where --target_l0 or '
    '--seed make the sweep.',
    **common,
  )
  flags.DEFINE_list(
    'target_l0',
    None,
    'Steer each coefficient until the L0 is this; one SAE each.',
    **common,
  )
  flags.DEFINE_list(
    'seed', ['0'], 'Of the initial weights; several make a sweep.', **common
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
  for name, (kind, help_text) in _NUMBERS.items():
    define = flags.DEFINE_integer if kind is int else flags.DEFINE_float
    define(name, None, f'{help_text}', **common)
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
  changes['seed'] = _numbers(values, 'seed', int)
  if values.target_l0 is not None:
    changes['target_l0'] = _numbers(values, 'target_l0', float)
  swept = values.target_l0 is not None or len(changes['seed']) > 1
  if values.sparsity is not None:
    changes['sparsity'] = _numbers(values, 'sparsity', float)
  elif not swept:
    changes['sparsity'] = _SWEEP

  make = functools.partial(_RECIPES[values.recipe], d_in=d_in)
  defaults = make(width=1, num_steps=1)
  batch = changes.get('batch_size', defaults.batch_size)
  if batch < 1:
    raise ValueError(f'--batch_size must be at least 1, got {batch}.')
  steps = values.tokens // batch
  if not steps:
    raise ValueError(
      f'--tokens={values.tokens} is less than one batch of {batch}. Give more '
      'tokens, or a smaller --batch_size.'
    )
  if changes.get('decay') == 'none':
    changes.setdefault('decay_steps', 0)
  if 'bucket_size' not in changes:
    largest = max(1, defaults.bucket_size // batch)
    changes['bucket_size'] = min(largest, steps) * batch
  return make(width=values.width, num_steps=steps, **changes)


def _numbers(values, name, kind) -> tuple:
  try:
    numbers = tuple(kind(part) for part in values[name].value)
  except ValueError as error:
    raise ValueError(
      f'--{name}={",".join(values[name].value)} must be numbers with commas '
      'between them.'
    ) from error
  if not numbers:
    raise ValueError(f'--{name} is empty; give at least one number.')
  return numbers
