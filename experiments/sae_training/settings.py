"""What training and measuring SAEs are told: their flags."""

import dataclasses
from typing import Annotated, Literal

from experiments.inputs.corpus import ReadingModel
from experiments.runs import (
  Count,
  Few,
  Layer,
  Many,
  Positive,
  Seed,
  Share,
  check_numbers,
  real,
  whole,
)
from experiments.runs.mesh import Devices
from sae.training.recipe import (
  COMPUTE_DTYPES,
  DECAYS,
  PENALTIES,
  TrainConfig,
)

# Where no sweep is asked for.
_SWEEP = (1e-3, 3e-3, 1e-2)
_Steps = Annotated[int, whole(0, 10**9)]
_Rate = Annotated[float, real(0, 1e3)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measuring(ReadingModel, Devices):
  """Says how SAEs are measured on a model.

  Attributes:
    out: Folder for everything that is written.
    harvest_batch: Rows of tokens per run of the model. Only speed and memory
      depend on it.
    uniformity_tokens: Number of tokens, each of another row, on which the
      uniformity of active latent importance is measured. It costs a backward
      pass per row; 0 leaves it out.
    check_memory: Refuse to start where much more memory is needed than there
      is.
  """

  out: str
  harvest_batch: Count = 16
  uniformity_tokens: Annotated[int, whole(0)] = 256
  check_memory: bool = True

  def __post_init__(self):
    super().__post_init__()
    check_numbers(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """A recipe, and what is done otherwise: fields of TrainConfig.

  In the help u is 1 / sqrt(D), about the size of a number in a unit row, where
  D is the width of an activation.

  Attributes:
    recipe: How SAEs are trained. 'paper' is Gemma Scope's recipe, for about a
      million updates. 'fast' is for hundreds or thousands of updates, with
      momentum and a rate for each kind of weight. 'short', for thousands, has
      the paper's one rate, but larger. The defaults below are those of 'paper'
      and, where they differ, of the others; u is 1 / sqrt(D), where D is the
      width of an activation.
    batch_size: Tokens per update. Default: 4096; fast and short 1024.
    learning_rate: Learning rate of Adam. Default: 7e-5; fast u / 2, short 5e-3.
    threshold_learning_rate: Learning rate of the logarithms of thresholds.
      Default: --learning_rate; fast 0.06.
    encoder_learning_rate: Learning rate of the encoder's weights. Default:
      --learning_rate; fast u / 18.
    bias_learning_rate: Learning rate of both biases. Default: --learning_rate;
      fast u / 30.
    warmup_steps: Number of updates over which the learning rate rises. Default:
      1000; fast and short a tenth of all.
    sparsity_warmup_steps: Number of updates over which the sparsity coefficient
      rises. Default: 10000; fast three quarters of all, or a fifth with
      --target_l0; short a fifth.
    decay_steps: Number of updates at the end over which the learning rate
      falls. Default: 0; fast and short a fifth of all.
    adam_b1: Decay rate of Adam's first moment; 0 keeps none. Default: 0; fast
      0.9.
    adam_b2: Decay rate of Adam's second moment. Default: 0.999; fast 0.95.
    bandwidth: Bandwidth of the straight-through kernel, in units in which
      E||x||^2 is 1. Default: 1e-3; fast u / 2, short 0.1.
    initial_threshold: Threshold of every latent at the start. Default: 1e-3;
      fast one in a hundred begins active, short 0.02.
    encoder_scale: The encoder starts as the transpose of the decoder times this
      factor. Default: 1; fast 2 D / width, or 1 if that is less.
    tanh_scale: Scale of the penalty 'tanh'. Default: 4.
    bucket_size: Activations on the device, in whole batches, that are shuffled
      as one. Default: about a million; fast and short 131072; never more than
      are trained on.
    dead_after: Number of tokens without firing after which a latent is dead.
      Default: 10000000.
    runs_at_once: SAEs of a sweep that are computed side by side; fewer need
      less memory. Default: all; one on a CPU.
    shuffle_seed: Random seed of the order within buckets. Default: 0.
    decay: How the learning rate falls at the end. Default: none; fast and short
      linear.
    penalty: What is penalised; 'l0' is Gemma Scope's penalty. Default: l0.
    compute_dtype: Data type of the factors of matrix products; weights stay
      float32. Default: float32.
  """

  recipe: Literal['paper', 'fast', 'short'] = 'fast'
  batch_size: Count | None = None
  learning_rate: _Rate | None = None
  threshold_learning_rate: _Rate | None = None
  encoder_learning_rate: _Rate | None = None
  bias_learning_rate: _Rate | None = None
  warmup_steps: _Steps | None = None
  sparsity_warmup_steps: _Steps | None = None
  decay_steps: _Steps | None = None
  adam_b1: Share | None = None
  adam_b2: Share | None = None
  bandwidth: Positive | None = None
  initial_threshold: Positive | None = None
  encoder_scale: Annotated[float, real(0, 1e6)] | None = None
  tanh_scale: Positive | None = None
  bucket_size: Many | None = None
  dead_after: Annotated[int, whole(1, 10**12)] | None = None
  runs_at_once: Few | None = None
  shuffle_seed: Seed | None = None
  decay: Literal[*DECAYS] | None = None
  penalty: Literal[*PENALTIES] | None = None
  compute_dtype: Literal[*COMPUTE_DTYPES] | None = None

  def make(self, d_in: int, **fields) -> TrainConfig:
    """Returns the recipe's configuration, with fields of one's own."""
    if self.recipe == 'paper':
      return TrainConfig(**fields)
    if self.recipe == 'short':
      return TrainConfig.short(**fields)
    return TrainConfig.fast(d_in=d_in, **fields)

  def changes(self) -> dict:
    """Returns what is done otherwise, by fields of TrainConfig."""
    given = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(Recipe)
      if field.name != 'recipe'
    }
    return {k: value for k, value in given.items() if value is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Recipe, Measuring):
  """Says how SAEs are trained and measured.

  Attributes:
    site: Site that SAEs read: resid_post, mlp_out, z, ..., or the name that
      TransformerLens or HF has for it (blocks.12.hook_resid_post).
    layer: Layers of the site, counted from 0; several are trained at once.
      Default: the layer in the name of the site, if there is one, else the
      middle one.
    width: Number of latents of each SAE.
    tokens: Tokens to train on, in whole batches.
    sparsity: Coefficients of the sparsity penalty, one SAE each, trained
      together on the same activations. Default: 0.001,0.003,0.01; or 0.001 if
      --target_l0 or --seed make the sweep.
    target_l0: Mean numbers of active latents (L0), one SAE each, towards which
      each coefficient is steered.
    seed: Random seeds of the initial weights; several make a sweep.
    repeat: Read a text file anew if it ends too early. Default: only for the
      text of the bundled model.
    eval_fraction: Share of a file's documents, at its end, that are held out
      for evaluation. 0 evaluates on the training text.
    eval_tokens: Tokens to measure SAEs on. Gemma Scope has 2048 x 1024.
    log_every: Number of updates per record of metrics.jsonl.
    checkpoint_every: Number of updates between checkpoints. Default: one
      checkpoint per bucket.
    wandb_project: Project of Weights & Biases that is logged to as well.
  """

  site: str = 'resid_post'
  layer: tuple[Layer, ...] | None = None
  width: Annotated[int, whole(1, 2**24)] = 256
  tokens: Annotated[int, whole(1, 10**12)] = 1_000_000
  sparsity: tuple[Annotated[float, real(0, 1e6)], ...] | None = None
  target_l0: tuple[Positive, ...] | None = None
  seed: tuple[Seed, ...] = (0,)
  repeat: bool | None = None
  eval_fraction: Annotated[float, real(0, 0.9)] = 0.05
  eval_tokens: Many = 20_000
  log_every: Many = 50
  checkpoint_every: Many | None = None
  wandb_project: str | None = None

  def __post_init__(self):
    super().__post_init__()
    for name in ('layer', 'sparsity', 'target_l0', 'seed'):
      if getattr(self, name) == ():
        raise ValueError(f'--{name} is empty; give at least one number.')

  @property
  def repeats(self) -> bool:
    """Returns True if the text may be read anew."""
    return self.text is None if self.repeat is None else self.repeat

  def train_config(self, d_in: int) -> TrainConfig:
    """Returns how SAEs are trained.

    Args:
      d_in: D, the width of an activation.

    Raises:
      ValueError: a value makes no sense, or there are fewer tokens than one
        batch has.
    """
    changes = self.changes() | {'seed': self.seed}
    if self.target_l0 is not None:
      changes['target_l0'] = self.target_l0
    swept = self.target_l0 is not None or len(self.seed) > 1
    if self.sparsity is not None or not swept:
      changes['sparsity'] = self.sparsity or _SWEEP
    defaults = self.make(d_in, width=1, num_steps=1)
    batch = changes.get('batch_size', defaults.batch_size)
    steps = self.tokens // batch
    if not steps:
      raise ValueError(
        f'--tokens={self.tokens} is less than one batch of {batch}. Give more '
        'tokens, or a smaller --batch_size.'
      )
    if steps >= 2**31:
      raise ValueError(
        f'--tokens={self.tokens} are {steps} updates of {batch}, more than '
        'int32 counts. Give a larger --batch_size.'
      )
    if changes.get('decay') == 'none':
      changes.setdefault('decay_steps', 0)
    if 'bucket_size' not in changes:
      largest = max(1, defaults.bucket_size // batch)
      changes['bucket_size'] = min(largest, steps) * batch
    return self.make(d_in, width=self.width, num_steps=steps, **changes)
