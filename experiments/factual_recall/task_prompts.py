"""A task's prompts as tokens, and where in them the subject stands.

Nothing is found by a fixed index: spans come from the characters of the
template's parts, and the answer is whatever follows the last token. The
demonstrations before all prompts are the same tokens, which are run once.
"""

from collections.abc import Sequence
import dataclasses
import re

import numpy as np

from experiments.factual_recall.tasks import SUBJECT, Task
import gemma_jax as gj

# Prompts are few and short: exact lengths, to a multiple of this.
_STEP = 4
# A space alone, or a byte of what the vocabulary cannot spell.
_NO_WORD = re.compile('▁+|<0x[0-9A-F]{2}>')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prompts:
  """n prompts of a task in one batch.

  Attributes:
    task: What they ask.
    shots: Demonstrations before each.
    texts: Without the demonstrations.
    prefix: int32 [P], the tokens before every row's own: BOS and
      demonstrations. Empty without demonstrations.
    tokens: int32 [n, T], each row's own, padded on the left.
    positions: int32 [n, T], counting on from P; -1 at padding.
    spans: int32 [n, 2], positions [start, stop) of the subject's tokens.
    subjects: int32 [n], which of the task's facts is asked for.
    templates: int32 [n], which of the task's templates is used.
    answers: int32 [n], the first token of the answer.
    names: int32 [n], the first token of the subject.
    answer_sizes: int32 [n], tokens of the answer.
    name_sizes: int32 [n], tokens of the subject.
  """

  task: Task
  shots: int
  texts: tuple[str, ...]
  prefix: np.ndarray
  tokens: np.ndarray
  positions: np.ndarray
  spans: np.ndarray
  subjects: np.ndarray
  templates: np.ndarray
  answers: np.ndarray
  names: np.ndarray
  answer_sizes: np.ndarray
  name_sizes: np.ndarray

  def __len__(self) -> int:
    return len(self.texts)

  @property
  def ends(self) -> np.ndarray:
    """int32 [n], each row's last position."""
    return self.positions[:, -1]

  @property
  def units(self) -> list[str]:
    """Returns the subject of each prompt, which resampling draws."""
    return [self.task.facts[i].subject for i in self.subjects]

  def take(self, rows: Sequence[int] | np.ndarray) -> 'Prompts':
    """Returns some of the prompts."""
    rows = np.asarray(rows)
    changed = {
      field.name: getattr(self, field.name)[rows]
      for field in dataclasses.fields(self)
      if field.name not in ('task', 'shots', 'texts', 'prefix')
    }
    texts = tuple(self.texts[row] for row in rows)
    return dataclasses.replace(self, texts=texts, **changed)

  def share_prefix(self, model: gj.Decoder) -> gj.Cache | None:
    """Returns the demonstrations' keys and values; None without any."""
    return gj.share_prefix(model, self.prefix) if len(self.prefix) else None

  def whole(self) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and positions, int32 [n, T'], with the prefix in every row."""
    P, (n, T) = len(self.prefix), self.tokens.shape
    tokens = np.zeros((n, P + T), np.int32)
    positions = np.full((n, P + T), -1, np.int32)
    tokens[:, P:], positions[:, P:] = self.tokens, self.positions
    for row, size in enumerate((self.positions >= 0).sum(1)):
      start = T - size  # the prefix ends where the row's own tokens begin
      tokens[row, start : start + P] = self.prefix
      positions[row, start : start + P] = np.arange(P)
    return tokens, positions


def make_prompts(
  tokenizer: gj.Tokenizer,
  task: Task,
  *,
  shots: int = 0,
  single_token: bool = False,
  most: int | None = None,
) -> Prompts:
  """Returns every fact in every template.

  Args:
    tokenizer: The model's.
    task: What to ask.
    shots: Demonstrations before each prompt.
    single_token: Keep only facts whose subject and answer are one token each.
    most: Keep at most so many prompts, by leaving out templates: the first of
      them stay, and one in any case.

  Raises:
    ValueError: an answer has no token, there are too few facts, or too few
      demonstrations.
  """
  facts = [
    (
      i,
      _pieces(tokenizer, task, fact.answer),
      _pieces(tokenizer, task, fact.subject),
    )
    for i, fact in enumerate(task.facts)
  ]
  if single_token:
    facts = [each for each in facts if len(each[1]) == len(each[2]) == 1]
    if len(facts) < 4:
      raise ValueError(
        f'Task {task.name}: {len(facts)} of {len(task.facts)} facts are one '
        'token on both sides in this vocabulary; at least 4 are needed. Leave '
        'out --single_token.'
      )
  templates = task.templates
  if most is not None:
    templates = templates[: max(1, most // len(facts))]
  asked = [
    (t, fact, answer, name)
    for fact, answer, name in facts
    for t in range(len(templates))
  ]
  before = task.demonstrations(shots)
  return _tokenise(
    tokenizer,
    task,
    before,
    shots,
    [
      (templates[t].replace(SUBJECT, task.facts[fact].subject), templates[t])
      for t, fact, _, _ in asked
    ],
    [task.facts[fact].subject for _, fact, _, _ in asked],
    subjects=np.array([fact for _, fact, _, _ in asked], np.int32),
    templates=np.array([t for t, _, _, _ in asked], np.int32),
    answers=np.array([answer[0] for _, _, answer, _ in asked], np.int32),
    names=np.array([name[0] for _, _, _, name in asked], np.int32),
    answer_sizes=np.array([len(a) for _, _, a, _ in asked], np.int32),
    name_sizes=np.array([len(name) for _, _, _, name in asked], np.int32),
  )


def corrupt(
  tokenizer: gj.Tokenizer,
  prompts: Prompts,
  seed: int,
  *,
  published: bool = False,
) -> Prompts:
  """Returns the same prompts with another subject of the task in each.

  The other subject is drawn from (seed, prompt), so that it depends on no other
  prompt, and is never the prompt's own. Answers and names stay the prompt's.

  Args:
    tokenizer: The model's.
    prompts: n prompts.
    seed: Random seed.
    published: As the published code does: texts end with the answer of the
      prompt's own subject, "France's" becomes "Japan", without its 's, and the
      other subject may be the prompt's own. For `published_donors`.

  Raises:
    ValueError: the prompts have one subject.
  """
  task = prompts.task
  asked = sorted(set(prompts.subjects.tolist()))
  if len(asked) < 2:
    raise ValueError(
      f'All {len(prompts)} prompts are about {prompts.units[0]!r}; to corrupt '
      'them takes another subject. Choose prompts of several.'
    )
  others = []
  for row, own in enumerate(prompts.subjects):
    rng = np.random.default_rng([seed, row])
    choice = [each for each in asked if published or each != own]
    others.append(rng.choice(choice))

  def text_of(row):
    template = task.templates[prompts.templates[row]]
    if not published:
      return template.replace(SUBJECT, task.facts[others[row]].subject)
    text = template.replace(f"{SUBJECT}'s", SUBJECT)
    text = text.replace(SUBJECT, task.facts[others[row]].subject)
    return f'{text} {task.facts[prompts.subjects[row]].answer}'

  return _tokenise(
    tokenizer,
    task,
    task.demonstrations(prompts.shots),
    prompts.shots,
    [
      (text_of(row), task.templates[t])
      for row, t in enumerate(prompts.templates)
    ],
    [task.facts[other].subject for other in others],
    **{
      name: getattr(prompts, name)
      for name in (
        'subjects',
        'templates',
        'answers',
        'names',
        'answer_sizes',
        'name_sizes',
      )
    },
  )


def _tokenise(tokenizer, task, before, shots, texts, names_in_text, **given):
  """Prompts of texts with their templates, and the subject in each."""
  rows, spans = [], []
  shared = None
  for (text, template), subject in zip(texts, names_in_text, strict=True):
    encoding = tokenizer.tokenize(before + text)
    start = len(before) + template.index(SUBJECT)
    span = encoding.token_span(start, start + len(subject))
    rows.append(encoding.ids)
    spans.append(span)
    own = (
      encoding.token_span(len(before), len(before) + 1).start if before else 0
    )
    head = encoding.ids[:own]
    shared = head if shared is None else _common(shared, head)
  P = len(shared) if before else 0
  batch = gj.pad_rows(
    [row[P:] for row in rows],
    tokenizer.pad_id,
    buckets=tuple(range(_STEP, max(map(len, rows)) + 2 * _STEP, _STEP)),
  )
  return Prompts(
    task=task,
    shots=shots,
    texts=tuple(text for text, _ in texts),
    prefix=np.array(rows[0][:P], np.int32),
    tokens=batch.tokens,
    positions=np.where(batch.positions >= 0, batch.positions + P, -1),
    spans=np.array(spans, np.int32),
    **given,
  )


def _common(a: Sequence[int], b: Sequence[int]) -> Sequence[int]:
  """Returns the tokens that both begin with."""
  size = 0
  while size < min(len(a), len(b)) and a[size] == b[size]:
    size += 1
  return a[:size]


def _pieces(tokenizer: gj.Tokenizer, task: Task, word: str) -> list[int]:
  """Tokens of a word that follows another one.

  Raises:
    ValueError: it has none but spaces, bytes and that of unknown text.
  """
  # Within a text: Llama 2's tokenizer puts a space of its own before one.
  encoding = tokenizer.tokenize(f'is {word}', bos=False)
  ids = encoding.ids[encoding.token_span(2, 3).start :]
  pieces = tokenizer.vocabulary.pieces(ids)
  if not any(
    i not in tokenizer.vocabulary.specials and not _NO_WORD.fullmatch(piece)
    for i, piece in zip(ids, pieces, strict=True)
  ):
    raise ValueError(
      f'Task {task.name}: no token of {word!r} is in the vocabulary of this '
      'model.'
    )
  return ids
