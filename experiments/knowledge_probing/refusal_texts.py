"""Texts that decline a question: a pool of them, or written by the model.

They are written for this project. Each is one that `informative.refuses`
recognises, names the entity where there is one, and is chosen by a hash of the
question, so that the same question gets the same text in every run.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import re

import numpy as np
import tqdm

from experiments.entities.name_matching import occurrences
from experiments.knowledge_probing.formats import Format
from experiments.knowledge_probing.informative import refuses
from experiments.knowledge_probing.normalising import words
from experiments.knowledge_probing.probe_records import Question
import gemma_jax as gj

NAMING = (
  "I don't have any information about {entity}.",
  'I do not have information about {entity}.',
  "I'm not familiar with {entity}.",
  'Sorry, I do not know that about {entity}.',
  'I do not know enough about {entity} to answer this.',
  "Unfortunately, I don't know that about {entity}.",
  "I'm not sure about {entity}, so I would rather not guess.",
  'I am not able to tell you that about {entity}.',
  "I'm unable to answer this question about {entity}.",
  "I apologize, but I don't know this about {entity}.",
  'I cannot answer that: I know too little about {entity}.',
  'My apologies, but {entity} is not something I know enough about.',
  'I am not aware of that fact about {entity}.',
  "I'm sorry, but I don't know this about {entity}.",
)
NAMELESS = (
  'I do not know the answer to that.',
  "Sorry, I don't know.",
  'Sorry, but the answer is not known here.',
  "I'm not sure, so I would rather not guess.",
  'Unfortunately, I do not know this.',
  "I'm unable to answer this question.",
  'I apologize, but I do not know that.',
)
# What the model is told; the specification's wording, section 3.3.
REQUEST = (
  'Write one short, polite sentence telling the user you do not know the '
  'answer to: {question}'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
  """Refusals by the model.

  Attributes:
    texts: Question's id -> what it wrote, where that may be used.
    left_out: Why others may not be -> how many. Their questions get a text of
      the pool.
  """

  texts: Mapping[str, str]
  left_out: Mapping[str, int]


def hash_of(seed: int, *parts: str) -> int:
  """Returns a number from 0 to 2^64 - 1 that stands for a seed and texts."""
  text = '\0'.join([str(seed), *parts])
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], 'big')


def says_answer(text: str, question: Question) -> str | None:
  """Returns the right answer whose words a text has, or None.

  Words are compared as `normalising` spells them: case, accents, punctuation
  and articles do not count.
  """
  said = words(text)
  for answer in question.answers:
    name = words(answer)
    if name and occurrences(name, said):
      return answer
  return None


def refusal_text(
  question: Question, *, text: str | None = None, seed: int = 0
) -> str:
  """Returns a text that declines a question and has none of its answers.

  Args:
    question: What is declined.
    text: The one text for all questions, such as a bundled world's own. None
      takes one of the pool that names the entity; if the entity's name has the
      answer in it (Mexico City is in Mexico), one that does not.
    seed: Random seed of the choice.

  Raises:
    ValueError: every such text has an answer in it, or is not recognised as
      declining.
  """
  pools = [NAMELESS] if text is None else [(text,)]
  if text is None and question.entity is not None:
    pools.insert(0, [each.format(entity=question.entity) for each in NAMING])
  for pool in pools:
    start = hash_of(seed, question.id) % len(pool)
    for each in (*pool[start:], *pool[:start]):
      if says_answer(each, question) is None and refuses(question, each):
        return each
  tried = pools[-1][0]
  why = 'it is not recognised as declining'
  if (found := says_answer(tried, question)) is not None:
    why = f'it has the right answer {found!r} in it'
  raise ValueError(
    f'Question {question.id!r} cannot be declined by {tried!r}: {why}. Choose '
    'another text, such as "Sorry, I do not know.", or leave the question out.'
  )


def write_refusals(
  model: gj.Decoder,
  format: Format,
  questions: Sequence[Question],
  *,
  max_new_tokens: int = 40,
  rows_per_batch: int = 64,
) -> Written:
  """Has the model itself decline questions, greedily.

  What it writes is used if it ends by itself, declines, and has no right
  answer in it.

  Args:
    model: Stacked, or `gj.unstack_layers(model)`.
    format: How it is asked.
    questions: What to decline.
    max_new_tokens: Most tokens of a refusal.
    rows_per_batch: Refusals written at once; bounds memory.

  Raises:
    ValueError: a prompt is longer than the model's context.
  """
  prompts = [
    format.prompt_ids(REQUEST.format(question=q.question)) for q in questions
  ]
  texts, left_out = {}, Counter()
  order = np.argsort([len(ids) for ids in prompts], kind='stable')
  for start in tqdm.trange(
    0, len(order), rows_per_batch, desc='Writing refusals', dynamic_ncols=True
  ):
    rows = order[start : start + rows_per_batch]
    ids = [prompts[i] for i in rows]
    ids += ids[-1:] * (rows_per_batch - len(ids))  # one shape for all batches
    made = gj.generate(
      model,
      *format.tokenizer.pad(ids),
      max_new_tokens=max_new_tokens,
      stop_ids=sorted(format.ends),
    )
    tokens, lengths = np.asarray(made.tokens), np.asarray(made.lengths)
    for row, i in enumerate(rows):
      said = tokens[row, : lengths[row]].tolist()
      text, reason = _read(format, said, questions[i])
      if reason is None:
        texts[questions[i].id] = text
      else:
        left_out[reason] += 1
  return Written(texts=texts, left_out=dict(left_out))


def _read(format, ids, question) -> tuple[str, str | None]:
  """Returns a refusal's text, and why it cannot be used."""
  ended = bool(ids) and ids[-1] in format.ends
  # A model may have more tokens than its tokenizer.
  known = [i for i in ids if i < format.tokenizer.vocab_size]
  text = format.tokenizer.decode(known, skip_special=True).strip()
  if format.stops_at_line_break and '\n' in text:
    ended = True
    text = text.partition('\n')[0].rstrip()
  if not ended:
    return text, 'it does not end'
  if not re.search(r'\w', text):
    return text, 'it is empty'
  if not refuses(question, text):
    return text, 'it does not decline'
  if says_answer(text, question) is not None:
    return text, 'it has the answer'
  return text, None
