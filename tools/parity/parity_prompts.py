"""The tokens that both sides are run on, and how they are padded."""

from collections.abc import Sequence
import dataclasses
import pathlib

import numpy as np

from gemma_jax import ModelConfig, Tokenizer

# The first is empty: a row of BOS alone, or no row where none is added.
BUILT_IN = (
  '',
  'Paris',
  'The capital of France is',
  'The movie 12 Angry Men was directed by',
  'LeBron James was born in the city of',
  'Zo\u00eb asked: \u201cWie sp\u00e4t ist es?\u201d \u2014 \u0434\u0432\u0430',
  'def fibonacci(n):\n  return n if n < 2 else fibonacci(n - 1) +',
  'To be, or not to be, that is the question: Whether it is nobler in the '
  'mind to suffer the slings and arrows of outrageous fortune, or to take '
  'arms against a sea of troubles, and by opposing',
)
PADDINGS = ('left', 'right', 'both')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
  """Rows of equal length.

  Attributes:
    tokens: int32 [B, T]; `fill_id` at padding.
    positions: int32 [B, T], counted from 0 in every row; -1 at padding.
    prompts: Per row, the number of its prompt.
    paddings: Per row, 'left' or 'right'.
  """

  tokens: np.ndarray
  positions: np.ndarray
  prompts: tuple[int, ...]
  paddings: tuple[str, ...]

  @property
  def real(self) -> np.ndarray:
    """bool [B, T]: not padding."""
    return self.positions >= 0


def text_prompts(tokenizer: Tokenizer, lines: Sequence[str]) -> list[list[int]]:
  """Token ids of each line, with BOS by the tokenizer's rule.

  Lines that have no token are left out: the empty one, where no BOS is added.
  """
  rows = [tokenizer.encode(line) for line in lines]
  return [ids for ids in rows if ids]


def read_lines(path: pathlib.Path) -> list[str]:
  """Returns the lines of a UTF-8 file that are not blank, without their line
  ends.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not UTF-8, or every line is blank.
  """
  if not path.is_file():
    raise FileNotFoundError(
      f'--prompts={path} does not exist. It must be a text file, one prompt '
      'per line.'
    )
  try:
    text = path.read_text(encoding='utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'--prompts={path} is not UTF-8: {error}. Convert it, e.g. with iconv.'
    ) from error
  lines = [line for line in text.split('\n') if line.strip()]
  if not lines:
    raise ValueError(f'--prompts={path} has no line that is not blank.')
  return [line.rstrip('\r') for line in lines]


def random_prompts(
  config: ModelConfig, lengths: Sequence[int], seed: int
) -> list[list[int]]:
  """Returns a prompt per length: BOS if there is one, then random ids."""
  rng = np.random.default_rng(seed)
  has_bos = config.bos_id in range(config.vocab_size)
  start = [config.bos_id] if has_bos else []
  return [
    start + rng.integers(config.vocab_size, size=length - len(start)).tolist()
    for length in lengths
  ]


def make_batches(
  prompts: Sequence[Sequence[int]],
  config: ModelConfig,
  padding: str,
  batch_size: int,
) -> list[Batch]:
  """Batches of up to `batch_size` prompts, all as long as the longest prompt.

  One length for all batches means one compilation. With padding='both' every
  prompt has two neighbouring rows, one padded on each side.
  """
  sides = ('left', 'right') if padding == 'both' else (padding,)
  T = max(map(len, prompts))
  batches = []
  for start in range(0, len(prompts), batch_size):
    numbers = range(start, min(start + batch_size, len(prompts)))
    rows = [(number, side) for number in numbers for side in sides]
    tokens = np.full((len(rows), T), config.fill_id, np.int32)
    positions = np.full((len(rows), T), -1, np.int32)
    for row, (number, side) in enumerate(rows):
      length = len(prompts[number])
      places = slice(0, length) if side == 'right' else slice(T - length, T)
      tokens[row, places] = prompts[number]
      positions[row, places] = np.arange(length)
    batches.append(
      Batch(
        tokens=tokens,
        positions=positions,
        prompts=tuple(number for number, _ in rows),
        paddings=tuple(side for _, side in rows),
      )
    )
  return batches
