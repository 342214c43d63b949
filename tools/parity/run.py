"""One check: from a folder and options to a `Comparison`.

Both sides advance together: when HF has computed a layer, ours computes (or
hands over) the same one, they are compared, and only the sums are kept.
"""

import dataclasses
import math
import pathlib
from typing import TYPE_CHECKING, Literal

import jax
import tqdm

from experiments.runs import Count, Positive, Seed, check_numbers
from experiments.runs.host_memory import available_memory
from gemma_jax import (
  VECTOR_SITES,
  CheckpointReader,
  ModelConfig,
  Tokenizer,
  site_width,
)
from gemma_jax.checkpoint.hf_format import tensor_shapes
from gemma_jax.language_model import read_tokenizer
from tools.parity import ours as ours_lib
from tools.parity import parity_prompts as prompts_lib
from tools.parity import verdict
from tools.parity.compare import Comparison, add_layer
from tools.parity.parity_prompts import Batch

if TYPE_CHECKING:
  from tools.parity.reference import Reference
  from tools.parity.tokenization import Tokenization

DTYPES = ('float32', 'bfloat16')
# Share of the free memory that is used; the rest is for one layer's work and
# files.
_MEMORY_SHARE = 0.7
# Logits of a batch, in float32. Some five copies of them are held.
_LOGITS_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """Holds what to check.

  Attributes:
    checkpoint: Folder of a Hugging Face checkpoint (config.json,
      *.safetensors), a hub id, or a .gguf file.
    dtype: Data type of weights and activations, on both sides.
    prompts: UTF-8 text file with one prompt per line; it needs a tokenizer in
      the folder. Blank lines are skipped, and BOS is added where the model has
      one. Default: built-in prompts if there is a tokenizer, else random ids.
    tokenizer: Compare the tokenizer with HF's, where the checkpoint has one.
    lengths: Lengths of the random prompts without a tokenizer, BOS included.
    seed: Random seed of the random prompts.
    padding: Where rows are padded; 'both' runs every prompt in two rows. Greedy
      decoding pads on the left, as HF's does.
    new_tokens: Number of greedy tokens to compare after each prompt. Nothing
      ends a generation earlier.
    batch_size: Prompts at a time; fewer where their logits would be large.
    stream: Hold one layer's weights at a time; 'auto' does so where two models
      (bfloat16: three) would not fit into memory. A .gguf is never streamed.
    tolerance: Factor on the float32 gates, for models that amplify float noise,
      whose error grows through the layers without a jump.
  """

  checkpoint: str
  dtype: Literal[*DTYPES] = 'float32'
  prompts: str | None = None
  tokenizer: bool = True
  lengths: tuple[Count, ...] = (1, 5, 17, 40)
  seed: Seed = 0
  padding: Literal[*prompts_lib.PADDINGS] = 'both'
  new_tokens: Count = 32
  batch_size: Count = 8
  stream: Literal['auto', 'always', 'never'] = 'auto'
  tolerance: Positive = 1.0

  def __post_init__(self):
    check_numbers(self)
    if not self.lengths:
      raise ValueError('--lengths is empty; give one number at least.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
  """A check that is ready to run: inputs were read and found good.

  Attributes:
    config: Configuration of the checkpoint.
    origin: The folder, or the .gguf file.
    options: What was asked for.
    batches: Rows to run.
    greedy_batches: Left-padded rows to continue.
    tokenization: How the tokenizers compare; None where they are not compared.
    streamed: True if layers are read one at a time.
    ours: This project's side.
    reference: HF's.
    truth: HF's in float32, where dtype is another.
    bar: Counts layers, where they are streamed.
  """

  config: ModelConfig
  origin: pathlib.Path
  options: Options
  batches: list[Batch]
  greedy_batches: list[Batch]
  tokenization: 'Tokenization | None'
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
    comparison.tokenization = self.tokenization
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
    FileNotFoundError, ValueError: the checkpoint, the prompts or an option is
      not fit for a run; the message says which, and what to do.
    ImportError: a package that HF's side needs is not installed.
  """
  try:
    from tools.parity.reference import Reference
    from tools.parity.tokenization import compare_tokenizers
  except ImportError as error:
    raise ImportError(
      f"{error}. HF's side needs torch and transformers; run "
      "`pip install 'knowledge-awareness-jax[test]'`."
    ) from error
  reader = CheckpointReader(options.checkpoint, dtype=options.dtype)
  config = reader.config
  origin = reader.folder if reader.gguf is None else reader.gguf.path
  if config.truncated_from is not None:
    raise ValueError(
      f'{origin} has the first {config.num_layers} of '
      f'{config.truncated_from} layers, and so no logits. Check the whole '
      'model.'
    )
  tokenizer = read_tokenizer(reader)
  prompts = _prompts(options, tokenizer, origin, config)
  longest = max(map(len, prompts))
  if longest + options.new_tokens > config.max_positions:
    raise ValueError(
      f'The longest prompt and --new_tokens={options.new_tokens} take '
      f'{longest + options.new_tokens} positions; {origin} is made for '
      f'{config.max_positions}. Pass shorter --prompts or --lengths, or fewer '
      '--new_tokens.'
    )
  sides = 2 if options.padding == 'both' else 1
  batches, greedy_batches = (
    prompts_lib.make_batches(
      prompts, config, padding, _batch_size(options, config, places)
    )
    for padding, places in (
      (options.padding, sides * longest),
      ('left', options.new_tokens),
    )
  )
  streamed = _is_streamed(options, reader, batches[0])
  exact = options.dtype == 'float32'
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

  # Ours comes first: it refuses what is not a whole checkpoint, and says why.
  if streamed:
    ours = ours_lib.Streamed(reader, count)
  else:
    ours = ours_lib.Loaded(reader)
  tokenization = None
  if tokenizer is not None and options.tokenizer:
    tokenization = compare_tokenizers(reader, tokenizer)
  return Check(
    config=config,
    origin=origin,
    options=options,
    batches=batches,
    greedy_batches=greedy_batches,
    tokenization=tokenization,
    streamed=streamed,
    ours=ours,
    reference=Reference(reader, options.dtype, streamed, count),
    truth=None if exact else Reference(reader, 'float32', streamed, count),
    bar=bar,
  )


def num_parameters(config: ModelConfig) -> int:
  """Returns the number of weights; tied matrices count once."""
  return sum(map(math.prod, tensor_shapes(config).values()))


def memory_needed(config: ModelConfig, dtype: str, batch: Batch) -> int:
  """Bytes of a run that is not streamed: weights, sites and logits."""
  size = 4 if dtype == 'float32' else 2
  weights = num_parameters(config) * (2 * size if size == 4 else 2 * size + 4)
  B, T = batch.tokens.shape
  widths = sum(site_width(config, site) for site in VECTOR_SITES)
  per_layer = widths * size + 2 * config.num_heads * T * 4
  # HF's, what its loss makes of them, ours, and copies of both.
  logits = 5 * config.vocab_size * 4
  return weights + B * T * (config.num_layers * per_layer + logits)


def _batch_size(options: Options, config: ModelConfig, places: int) -> int:
  """Returns how many prompts to run at once with logits at some places."""
  fit = _LOGITS_BYTES // (4 * config.vocab_size * places)
  return max(1, min(options.batch_size, fit))


def _is_streamed(options: Options, reader, batch: Batch) -> bool:
  """Returns True if one layer is held at a time; a .gguf cannot be."""
  needed = memory_needed(reader.config, options.dtype, batch)
  free = available_memory()
  streamed = options.stream == 'always' or (
    options.stream == 'auto' and needed > _MEMORY_SHARE * free
  )
  if streamed and reader.gguf is not None:
    raise ValueError(
      f'{reader.gguf.path} cannot be streamed: transformers dequantises a '
      f'.gguf as a whole. It takes about {needed / 1e9:.1f} GB, and '
      f'{free / 1e9:.1f} GB are free. Pass --stream=never to try, fewer or '
      "shorter prompts, or the model's folder with safetensors."
    )
  return streamed


def _prompts(
  options: Options, tokenizer: Tokenizer | None, origin, config: ModelConfig
) -> list[list[int]]:
  if options.prompts is not None:
    lines = prompts_lib.read_lines(pathlib.Path(options.prompts))
    if tokenizer is None:
      raise FileNotFoundError(
        f'{origin} has no tokenizer.json, and --prompts is text. Put the '
        "tokenizer's files beside the weights, or leave --prompts out: random "
        'token ids (--lengths, --seed) need none.'
      )
    return prompts_lib.text_prompts(tokenizer, lines)
  if tokenizer is not None:
    return prompts_lib.text_prompts(tokenizer, prompts_lib.BUILT_IN)
  return prompts_lib.random_prompts(config, options.lengths, options.seed)
