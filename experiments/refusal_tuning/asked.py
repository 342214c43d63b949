"""Questions as the models read them, and what they hold at their tokens.

Everything that looks inside starts from these: prompts that name an entity, the
same for the untuned and the tuned model. Letters: n prompts, L layers, D width
of the stream.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from experiments.activations import HarvestRows, gather
from experiments.entities.mentions import find_name
from experiments.knowledge_probing import Format, Question
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
  """Holds n prompts, each about one entity that is known or not.

  Attributes:
    ids: Tokens of each, up to where the answer begins.
    spans: int [n, 2], the entity's tokens [start, stop).
    entities: Names; intervals resample them.
    known: bool [n].
  """

  ids: tuple[tuple[int, ...], ...]
  spans: np.ndarray
  entities: tuple[str, ...]
  known: np.ndarray

  def __post_init__(self):
    n = len(self.ids)
    shapes = self.spans.shape, (len(self.entities),), self.known.shape
    if not n or shapes != ((n, 2), (n,), (n,)) or self.known.dtype != bool:
      raise ValueError(
        f'{n} prompts have spans {shapes[0]}, {shapes[1][0]} entities and '
        f'labels {self.known.dtype} {shapes[2]}; expected [n, 2], n and '
        'bool [n] with n of at least 1.'
      )
    lengths = np.array([len(ids) for ids in self.ids])
    start, stop = self.spans.T
    bad = (start < 0) | (start >= stop) | (stop > lengths)
    if bad.any():
      row = int(bad.argmax())
      raise ValueError(
        f'The entity of prompt {row} is at tokens {self.spans[row].tolist()}, '
        f'expected a stretch of its {lengths[row]} tokens.'
      )

  def __len__(self) -> int:
    return len(self.ids)

  @property
  def name_ends(self) -> np.ndarray:
    """int [n], the entity's last token."""
    return self.spans[:, 1] - 1

  @property
  def ends(self) -> np.ndarray:
    """int [n], the prompt's last token."""
    return np.array([len(ids) - 1 for ids in self.ids])

  def take(self, which: np.ndarray) -> 'Asked':
    """Returns some of the prompts, by indices or bool [n]."""
    numbers = np.arange(len(self))[which]
    return Asked(
      ids=tuple(self.ids[i] for i in numbers),
      spans=self.spans[numbers],
      entities=tuple(self.entities[i] for i in numbers),
      known=self.known[numbers],
    )

  def rows(self, positions: np.ndarray) -> HarvestRows:
    """Rows that are read at a position each, int [n]."""
    n = len(self)
    return HarvestRows(
      ids=[f'prompt {i}' for i in range(n)],
      texts=list(self.entities),
      tokens=[np.asarray(ids, np.int32) for ids in self.ids],
      positions=np.asarray(positions, np.int32),
      prompt_rows=np.arange(n),
      dropped=[],
      choices=['position'],
      windows=[max(map(len, self.ids))],
      denominator=n,
    )

  def padded(self, pad_id: int) -> gj.TokenBatch:
    """Returns all prompts as one array, padded on the right to the longest."""
    longest = max(map(len, self.ids))
    return gj.pad_rows(self.ids, pad_id, side='right', buckets=longest)


def ask(
  format: Format, questions: Sequence[Question], known: Sequence[bool]
) -> Asked:
  """Returns questions as prompts, with the place of the entity's name.

  Args:
    format: How they are put.
    questions: n of them, each about an entity that it names.
    known: bool [n], where the model knows the answer.

  Raises:
    ValueError: a question does not name its entity, or a name has no token.
  """
  ids, spans = [], []
  for question in questions:
    place = find_name(question.question, question.entity or '', last=True)
    if place < 0:
      raise ValueError(
        f'Question {question.id!r} is {question.question!r}, which does not '
        f'name its entity, {question.entity!r}. Leave it out.'
      )
    own = format.prompt_ids(question.question)
    text = format.prompt_text(question.question)
    # A chat template writes its special tokens out.
    encoding = format.tokenizer.tokenize(
      text, parse_special=format.name == 'chat'
    )
    if list(own) != list(encoding.ids):
      raise ValueError(
        f'The tokens of {text!r} are not those of its prompt, so that '
        f'{question.entity!r} cannot be found in it. Leave the question out.'
      )
    start = text.rindex(question.question) + place
    span = encoding.token_span(start, start + len(question.entity))
    spans.append(span)
    ids.append(tuple(own))
  return Asked(
    ids=tuple(ids),
    spans=np.array(spans, int).reshape(-1, 2),
    entities=tuple(question.cluster for question in questions),
    known=np.asarray(known, bool),
  )


def streams(
  model: gj.Decoder,
  asked: Asked,
  layers: Sequence[int],
  positions: np.ndarray,
  *,
  site: str = 'resid_post',
  batch_size: int = 64,
) -> np.ndarray:
  """Returns a site at one token of each prompt, float32 [L, n, D].

  Args:
    model: Stacked.
    asked: n prompts.
    layers: L distinct ones.
    positions: int [n], such as `asked.name_ends`.
    site: Where.
    batch_size: Prompts per run.
  """
  return gather(
    model,
    site,
    layers,
    asked.rows(positions),
    batch_size=batch_size,
    description=f'Reading {site}',
  )


def check_classes(asked: Asked, what: str):
  """Raises ValueError unless there are known and unknown entities."""
  if asked.known.all() or not asked.known.any():
    raise ValueError(
      f'{what} are all {"known" if asked.known.all() else "unknown"}; '
      'expected some of both. Ask more questions.'
    )


def check_pair(before: gj.Decoder, after: gj.Decoder):
  """Raises ValueError unless two models compute alike.

  Which tokens begin, fill and end texts may differ: a chat model's turns end
  with a token of their own.
  """
  for field in dataclasses.fields(before.config):
    mine, its = (getattr(m.config, field.name) for m in (before, after))
    if field.name not in ('bos_id', 'pad_id', 'eos_ids') and mine != its:
      raise ValueError(
        f'The tuned model has {field.name}={its}, the untuned one {mine}; '
        'expected two of one shape. Give the model that the tuned one was made '
        'from.'
      )
  if before.dtype != after.dtype:
    raise ValueError(
      f'The tuned model is {after.dtype}, the untuned one {before.dtype}; load '
      'both in one dtype.'
    )
