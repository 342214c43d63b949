"""One check: from a folder and options to a `Comparison`.

Both sides advance together: when HF has computed a layer, ours computes (or
hands over) the same one, they are compared, and only the sums are kept.
"""

import dataclasses
import math
import pathlib
from typing import TYPE_CHECKING

import jax
import tqdm

from experiments.host_memory import available_memory
from gemma_jax import ModelConfig, site_width
from gemma_jax.checkpoint.hf import CheckpointReader
from gemma_jax.checkpoint.hf_format import tensor_shapes
from gemma_jax.sites import VECTOR_SITES
from tools.parity import ours as ours_lib
from tools.parity import prompts as prompts_lib
from tools.parity import verdict
from tools.parity.compare import Comparison, add_layer
from tools.parity.prompts import Batch

if TYPE_CHECKING:
  from tools.parity.reference import Reference

DTYPES = ('float32', 'bfloat16')
STREAM = ('auto', 'always', 'never')
# Of the memory that is free; the rest is for one layer's work and files.
_MEMORY_SHARE = 0.7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """What to check.

  Attributes:
    checkpoint: A folder, or a hub id.
    dtype: Of weights and activations on both sides, one of DTYPES.
    prompts: A text file, one prompt per line. None takes built-in prompts if
      the folder has a tokenizer, else random token ids.
    lengths: Of the random prompts, BOS included.
    seed: Of the random prompts.
    padding: One of prompts.PADDINGS. Greedy decoding pads left, as HF's does.
    new_tokens: How many greedy tokens to compare after each prompt.
    batch_size: Prompts at a time; padding on both sides gives twice the rows.
    stream: 'always' holds one layer's weights at a time, 'never' all of them;
      'auto' streams what would not fit into memory.
    tolerance: Factor on the float32 gates.
  """

  checkpoint: str
  dtype: str = 'float32'
  prompts: pathlib.Path | None = None
  lengths: tuple[int, ...] = (1, 5, 17, 40)
  seed: int = 0
  padding: str = 'both'
  new_tokens: int = 32
  batch_size: int = 8
  stream: str = 'auto'
  tolerance: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
  """A check that is ready to run: inputs were read and found good.

  Attributes:
    config: Of the checkpoint.
    folder: Where it is.
    options: What was asked for.
    batches: Rows to run.
    greedy_batches: Left-padded rows to continue.
    streamed: Whether layers are read one at a time.
    ours: This project's side.
    reference: HF's.
    truth: HF's in float32, where dtype is another.
    bar: Counts layers, where they are streamed.
  """

  config: ModelConfig
  folder: pathlib.Path
  options: Options
  batches: list[Batch]
  greedy_batches: list[Batch]
  streamed: bool
  ours: ours_lib.Loaded | ours_lib.Streamed
  reference: 'Reference'
  truth: 'Reference | None'
  bar: tqdm.tqdm

  def run(self) -> Comparison:
    """Runs both sides and compares them."""
    with self.bar, jax.default_matmul_precision('highest'):
      return self._run()

  def _run(self) -> Comparison:
    dtype, tolerance = self.options.dtype, self.options.tolerance
    comparison = Comparison.empty(dtype, tolerance, self.config.num_layers)
    gates = verdict.site_gates(dtype, tolerance)
    for batch in self.batches:
      truth = self.truth.run(batch)[0] if self.truth else None
      mine = self.ours.run(batch)
      layers = iter(comparison.layers)
      logits, loss = self.reference.run(
        batch,
        lambda theirs, batch=batch, mine=mine, layers=layers: add_layer(
          next(layers), next(mine), theirs, batch, gates
        ),
      )
      comparison.predictions.add(
        next(mine)['logits'], logits, loss, batch, gates['logits'], truth
      )
    for batch in self.greedy_batches:
      tokens, logits = self.reference.generate(batch, self.options.new_tokens)
      chosen = self.ours.decode(batch, tokens)
      comparison.greedy.add(chosen, tokens, logits, batch)
    return comparison


def prepare(options: Options) -> Check:
  """Reads and checks everything that a run needs, weights included.

  Raises:
    FileNotFoundError, ValueError: the folder, the prompts or an option is not
      fit for a run; the message says which, and what to do.
    ImportError: torch or transformers is not installed.
  """
  try:
    from tools.parity.reference import Reference
  except ImportError as error:
    raise ImportError(
      f"{error}. HF's side needs torch and transformers; run "
      "`pip install 'knowledge-awareness-jax[test]'`."
    ) from error
  for name, allowed in (
    ('dtype', DTYPES),
    ('padding', prompts_lib.PADDINGS),
    ('stream', STREAM),
  ):
    if getattr(options, name) not in allowed:
      raise ValueError(
        f'--{name}={getattr(options, name)} is not one of {", ".join(allowed)}.'
      )
  for name in ('new_tokens', 'batch_size'):
    if getattr(options, name) < 1:
      raise ValueError(
        f'--{name} must be at least 1, got {getattr(options, name)}.'
      )
  if not options.tolerance > 0:
    raise ValueError(f'--tolerance must be above 0, got {options.tolerance}.')
  reader = CheckpointReader(options.checkpoint, dtype=options.dtype)
  config, folder = reader.config, reader.folder
  prompts = _prompts(options, folder, config)
  longest = max(map(len, prompts)) + options.new_tokens
  if longest > config.max_positions:
    raise ValueError(
      f'The longest prompt and --new_tokens={options.new_tokens} take '
      f'{longest} positions; {folder} has max_position_embeddings='
      f'{config.max_positions}. Pass shorter --prompts or --lengths, or fewer '
      '--new_tokens.'
    )
  batches, greedy_batches = (
    prompts_lib.make_batches(prompts, config, padding, options.batch_size)
    for padding in (options.padding, 'left')
  )
  exact = options.dtype == 'float32'
  needed = memory_needed(config, options.dtype, batches[0])
  streamed = options.stream == 'always' or (
    options.stream == 'auto' and needed > _MEMORY_SHARE * available_memory()
  )
  passes = (2 if exact else 3) * len(batches)
  passes += 2 * options.new_tokens * len(greedy_batches)
  bar = tqdm.tqdm(
    total=passes * config.num_layers,
    disable=not streamed,
    desc='layers',
    unit='layer',
  )

  def count() -> None:
    bar.update()

  # Ours comes first: it refuses what is not a whole Gemma 2, and says why.
  if streamed:
    ours = ours_lib.Streamed(reader, count)
  else:
    ours = ours_lib.Loaded(reader)
  return Check(
    config=config,
    folder=folder,
    options=options,
    batches=batches,
    greedy_batches=greedy_batches,
    streamed=streamed,
    ours=ours,
    reference=Reference(folder, options.dtype, streamed, count),
    truth=None if exact else Reference(folder, 'float32', streamed, count),
    bar=bar,
  )


def memory_needed(config: ModelConfig, dtype: str, batch: Batch) -> int:
  """Bytes of a run that is not streamed: weights, sites and logits."""
  size = 4 if dtype == 'float32' else 2
  parameters = sum(map(math.prod, tensor_shapes(config).values()))
  weights = parameters * (2 * size if size == 4 else 2 * size + 4)
  B, T = batch.tokens.shape
  widths = sum(site_width(config, site) for site in VECTOR_SITES)
  per_layer = widths * size + 2 * config.num_heads * T * 4
  logits = 3 * config.vocab_size * 4
  return weights + B * T * (config.num_layers * per_layer + logits)


def _prompts(options: Options, folder, config) -> list[list[int]]:
  if options.prompts is not None:
    lines = prompts_lib.read_lines(options.prompts)
    return prompts_lib.text_prompts(folder, config, lines)
  if (folder / 'tokenizer.json').is_file():
    return prompts_lib.text_prompts(folder, config, prompts_lib.BUILT_IN)
  if not options.lengths or min(options.lengths) < 1:
    raise ValueError(
      f'--lengths={list(options.lengths)} must be one or more numbers of at '
      'least 1.'
    )
  return prompts_lib.random_prompts(config, options.lengths, options.seed)
