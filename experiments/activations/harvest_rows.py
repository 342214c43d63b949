"""From prompts to unique rows of tokens, each with one position to read.

  rows = make_rows(tokenizer, [activation_prompt(e) for e in entities])
  groups = rows.groups(group_of_each_entity)

Prompts of the same text that are read at the same place are one row, run and
counted once; documents of which a random word is read count each. Gemma is
causal: tokens after the place do not matter to what is read there, and the
model does not run on them. Prompts that cannot be read make no row; they are
listed with the reason.
"""

from collections import Counter
from collections.abc import Sequence
import dataclasses

import numpy as np

from experiments.activations.token_selection import (
  SkippedPrompt,
  make_finder,
  make_reader,
)
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dropped:
  """A prompt that is not read, and never counted.

  Attributes:
    prompt: Number of the prompt, from 0.
    id: Id of the prompt.
    reason: Why.
  """

  prompt: int
  id: str
  reason: str


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class HarvestRows:
  """n unique rows of m prompts.

  Attributes:
    ids: [n], of the first prompt of each row.
    texts: [n], likewise; a chat with its template.
    tokens: [n] of int32 [T], BOS first, to the end of the window.
    positions: int32 [n], which token is read. Those after it are not run.
    prompt_rows: int64 [m], the row of each prompt; -1 where it was dropped.
    dropped: Those prompts.
    choices: Which token is read, as asked; several after `join`.
    windows: Most tokens of a row, for each of these choices.
    denominator: What a frequency over these rows is over: n; or, for
      pile_denominator='all_documents', n and the documents without a word.
  """

  ids: Sequence[str]
  texts: Sequence[str]
  tokens: Sequence[np.ndarray]
  positions: np.ndarray
  prompt_rows: np.ndarray
  dropped: Sequence[Dropped]
  choices: Sequence[str]
  windows: Sequence[int]
  denominator: int

  def __len__(self) -> int:
    return len(self.tokens)

  def groups(self, of_prompts: Sequence[int]) -> np.ndarray:
    """Groups of rows, int32 [n], from those of prompts, int [m].

    Raises:
      ValueError: prompts of one row are in different groups.
    """
    of_prompts = np.asarray(of_prompts, np.int32)
    if of_prompts.shape != self.prompt_rows.shape:
      raise ValueError(
        f'Got groups of shape {of_prompts.shape}, expected one for each of '
        f'{len(self.prompt_rows)} prompts.'
      )
    read = self.prompt_rows >= 0
    rows, wanted = self.prompt_rows[read], of_prompts[read]
    groups = np.full(len(self), -1, np.int32)
    groups[rows] = wanted
    other = groups[rows] != wanted
    if other.any():
      row = rows[other.argmax()]
      raise ValueError(
        f'Prompts that read the same tokens as {self.texts[row]!r} are in '
        f'groups {sorted(set(wanted[rows == row].tolist()))}. A row is counted '
        'once: put them into one group, or leave some out.'
      )
    return groups

  def num_tokens(self, first: int = 0) -> int:
    """Returns how many tokens the model runs on, for rows from `first` on."""
    return int(self.positions[first:].sum()) + len(self) - first

  def about(self) -> dict:
    """Returns what results.json says of them."""
    read = int((self.prompt_rows >= 0).sum())
    return {
      'tokens': list(self.choices),
      'windows': list(self.windows),
      'prompts': len(self.prompt_rows),
      'read': read,
      'unique': len(self),
      'duplicates': read - len(self),
      'denominator': self.denominator,
      'tokens_to_run': self.num_tokens(),
      'dropped': dict(Counter(one.reason for one in self.dropped)),
      'dropped_prompts': [dataclasses.asdict(one) for one in self.dropped],
    }


def make_rows(
  tokenizer: gj.Tokenizer,
  prompts: Sequence,
  *,
  tokens: str = 'entity',
  chat: bool = False,
  ids: Sequence[str] | None = None,
  window: int = gj.BUCKETS[-1],
  seed: int = 0,
  parse_special: bool = False,
  pile_denominator: str = 'valid_positions',
) -> HarvestRows:
  """Rows of prompts.

  Args:
    tokenizer: Tokenizer of the model.
    prompts: Texts, or `entities.Prompt`s: a text, and the characters of an
      entity in it.
    tokens: Which token is read; see `token_selection.py`.
    chat: Prompts are what the user says; the chat template goes around them,
      with the model's turn opened. Words and substrings are then looked for
      in what the user says.
    ids: Ids of the prompts; None numbers them. A random word depends on the
      seed and the prompt's id alone.
    window: Most tokens of a row, BOS included; what is longer is cut.
    seed: Random seed of random words.
    parse_special: True if '<eos>' written out in a prompt is that token, or
      ordinary text; say so for texts that have a chat's template in them.
    pile_denominator: For tokens='random'. 'all_documents' is what the code of
      arXiv 2411.14257 does (paper.md 10.1, no. 3): the word is drawn from the
      whole document and its first occurrence in the window is read; documents
      without one are inactive, and `denominator` counts them.

  Raises:
    ValueError: an argument is malformed, ids do not match the prompts, or a
      prompt's characters are not in it.
  """
  if window < 2:
    raise ValueError(f'A window of {window} tokens has no room after BOS.')
  ids = list(map(str, range(len(prompts)) if ids is None else ids))
  if len(ids) != len(prompts):
    raise ValueError(f'Got {len(ids)} ids for {len(prompts)} prompts.')
  if tokens == 'model' and not (chat or parse_special):
    raise ValueError(
      "tokens='model' is a token of the chat template. Pass chat=True, or "
      'parse_special=True if the texts have the template in them.'
    )
  find = make_finder(
    tokenizer, tokens, seed=seed, pile_denominator=pile_denominator
  )
  read = make_reader(
    tokenizer,
    chat,
    parse_special=parse_special,
    max_length=window,
    truncate=True,
  )
  row_of, sources, positions = {}, [], []
  prompt_rows, dropped = [], []
  for number, (prompt, name) in enumerate(zip(prompts, ids, strict=True)):
    source = read(prompt, name)
    try:
      at = find(source)
    except SkippedPrompt as reason:
      dropped.append(Dropped(prompt=number, id=name, reason=str(reason)))
      prompt_rows.append(-1)
      continue
    key = source.encoding.text, at, name if tokens == 'random' else None
    row = row_of.setdefault(key, len(sources))
    if row == len(sources):
      sources.append(source)
      positions.append(at)
    prompt_rows.append(row)
  inactive = tokens == 'random' and pile_denominator == 'all_documents'
  return HarvestRows(
    ids=[source.id for source in sources],
    texts=[source.encoding.text for source in sources],
    tokens=[np.asarray(source.encoding.ids, np.int32) for source in sources],
    positions=np.array(positions, np.int32),
    prompt_rows=np.array(prompt_rows, np.int64),
    dropped=dropped,
    choices=[tokens],
    windows=[window],
    denominator=len(sources) + inactive * len(dropped),
  )


def join(*parts: HarvestRows) -> HarvestRows:
  """Rows of several kinds one after another, for one pass of the model.

  Prompts are numbered on. What is a row in two parts stays two.
  """
  rows = np.cumsum([0, *map(len, parts)])
  prompts = np.cumsum([0, *(len(part.prompt_rows) for part in parts)])
  return HarvestRows(
    ids=[name for part in parts for name in part.ids],
    texts=[text for part in parts for text in part.texts],
    tokens=[row for part in parts for row in part.tokens],
    positions=np.concatenate([part.positions for part in parts]),
    prompt_rows=np.concatenate(
      [
        np.where(part.prompt_rows < 0, -1, part.prompt_rows + first)
        for part, first in zip(parts, rows, strict=False)
      ]
    ),
    dropped=[
      dataclasses.replace(one, prompt=one.prompt + int(first))
      for part, first in zip(parts, prompts, strict=False)
      for one in part.dropped
    ],
    choices=[choice for part in parts for choice in part.choices],
    windows=[window for part in parts for window in part.windows],
    denominator=sum(part.denominator for part in parts),
  )
