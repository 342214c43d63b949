"""What names are like, besides being known: the usual suspects.

  tokens            how many the name has
  surprisal         mean of -ln p of its tokens, in nats: the logarithm of its
                    perplexity under the model
  token frequency   mean of ln(1 + count) of its tokens in text
  name frequency    ln(1 + count) of the whole name, not as a part of longer
                    words: in text, or as a file says

The last one is special. Models know what text has often, so that it may tell
known from unknown by itself: then there is nobody to compare with, and no
adjustment can take it away (`strata.py` says how many can be compared).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import csv
import dataclasses
import math
import pathlib
import re

import numpy as np

from experiments.activations import make_rows
from experiments.confounds.linear_readout import read_tokens
from experiments.entities import Prompt, tokenize_prompt
import gemma_jax as gj
from gemma_jax import json_files

NAME_FREQUENCY = 'name frequency'
_WORD = re.compile(r'\w+|[^\w\s]')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Covariates:
  """Holds C numbers about each of n names.

  Attributes:
    names: C of them; see the top of this file.
    values: float64 [n, C].
    sources: Name -> where it comes from, in words.
  """

  names: tuple[str, ...]
  values: np.ndarray
  sources: Mapping[str, str]

  def without(self, *names: str) -> 'Covariates':
    """Returns the other covariates."""
    kept = [i for i, name in enumerate(self.names) if name not in names]
    return Covariates(
      names=tuple(self.names[i] for i in kept),
      values=self.values[:, kept],
      sources=self.sources,
    )


def describe_names(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  prompts: Sequence[Prompt],
  *,
  texts: Sequence[str] = (),
  frequencies: Mapping[str, float] | None = None,
) -> Covariates:
  """Returns covariates of the names in prompts.

  Args:
    model: The model that finds names likely or not.
    tokenizer: The model's tokenizer.
    prompts: n of them.
    texts: Plain text to count in; none leaves out what it would give.
    frequencies: Name -> count, instead of those in `texts`.

  Raises:
    ValueError: two prompts read alike.
  """
  rows = make_rows(tokenizer, prompts, tokens='entity')
  if len(rows) != len(prompts):
    raise ValueError(f'{len(prompts)} prompts have {len(rows)} distinct texts.')
  found = [tokenize_prompt(tokenizer, prompt) for prompt in prompts]
  logp, _ = read_tokens(model, (), rows, description='How likely names are')
  columns = {
    'tokens': [one.entity[1] - one.entity[0] for one in found],
    'surprisal': [
      # Token i is predicted at place i - 1.
      -float(mine[one.entity[0] - 1 : one.entity[1] - 1].mean())
      for one, mine in zip(found, logp, strict=True)
    ],
  }
  sources = {
    'tokens': 'tokens that spell the name in its prompt',
    'surprisal': 'mean of -ln p of these tokens in the prompt, base model',
  }
  if texts:
    counts = Counter()
    for text in texts:
      counts.update(tokenizer.encode(text, bos=False, parse_special=False))
    columns['token frequency'] = [
      np.mean([math.log1p(counts[i]) for i in one.ids[slice(*one.entity)]])
      for one in found
    ]
    sources['token frequency'] = (
      f'mean of ln(1 + count) of its tokens in {len(texts):,} documents'
    )
  if frequencies is not None:
    columns[NAME_FREQUENCY] = [
      math.log1p(frequencies.get(prompt.name, 0)) for prompt in prompts
    ]
    missing = sum(prompt.name not in frequencies for prompt in prompts)
    sources[NAME_FREQUENCY] = (
      f'ln(1 + count) in the file of frequencies, which lacks {missing:,} of '
      f'{len(prompts):,} names: 0'
    )
  elif texts:
    counts = count_names({prompt.name for prompt in prompts}, texts)
    columns[NAME_FREQUENCY] = [
      math.log1p(counts[prompt.name]) for prompt in prompts
    ]
    sources[NAME_FREQUENCY] = (
      f'ln(1 + count) of the whole name in {len(texts):,} documents'
    )
  return Covariates(
    names=tuple(columns),
    values=np.array(list(columns.values()), np.float64).T,
    sources=sources,
  )


def count_names(names: Iterable[str], texts: Iterable[str]) -> Counter:
  """Counts how often names stand in texts as words of their own.

  The counts are those of `(?<!\\w)name(?!\\w)`, but in one pass for all.
  """
  beginning = {}
  for name in names:
    if first := _WORD.search(name):
      beginning.setdefault(first[0], []).append((first.start(), name))
  counts = Counter()
  for text in texts:
    ends = {}
    for word in _WORD.finditer(text):
      for offset, name in beginning.get(word[0], ()):
        start = word.start() - offset
        if start < ends.get(name, 0) or not text.startswith(name, start):
          continue
        end = start + len(name)
        if not (_in_word(text, start - 1) or _in_word(text, end)):
          counts[name] += 1
          ends[name] = end
  return counts


def _in_word(text: str, at: int) -> bool:
  return 0 <= at < len(text) and (text[at].isalnum() or text[at] == '_')


def read_frequencies(path: str) -> dict[str, float]:
  """Reads name -> count of a .json object, or of a .tsv with two columns.

  Raises:
    ValueError, OSError: the file is malformed; the error names the line.
  """
  file = pathlib.Path(path).expanduser()
  if file.suffix == '.json':
    found = json_files.read_json(file)
    return {name: _count(file, name, found[name]) for name in found}
  if file.suffix != '.tsv':
    raise ValueError(
      f'{file} ends in {file.suffix!r}; expected .json, {{name: count}}, or '
      '.tsv with a name and a count per line.'
    )
  found = {}
  with open(file, encoding='utf-8', newline='') as opened:
    try:
      for where, name, count in _lines(
        file, csv.reader(opened, delimiter='\t')
      ):
        if name in found:
          raise ValueError(
            f'{where}: {name!r} has a count already. Remove one of them.'
          )
        found[name] = count
    except csv.Error as error:
      raise ValueError(f'{file} is no table of text: {error}.') from error
  return found


def _lines(file, rows: Iterable[list[str]]):
  """Yields the place of each line, its name and its count."""
  for number, row in enumerate(rows, 1):
    if len(row) != 2:
      raise ValueError(
        f'{file}, line {number}: expected a name, a tab and a count, got '
        f'{row!r}.'
      )
    where = f'{file}, line {number}'
    yield where, row[0], _count(where, *row)


def _count(where, name, value) -> float:
  try:
    count = float(value)
  except (TypeError, ValueError):
    count = math.nan
  if not (math.isfinite(count) and count >= 0):
    raise ValueError(f'{where}: {name!r} has the count {value!r}.')
  return count
