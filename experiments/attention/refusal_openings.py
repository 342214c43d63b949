"""First tokens of a chat model's refusals.

The refusal rate takes whole answers. Thousands of windows need something
cheaper: the probability that the answer begins as refusals of this model do.
Which tokens these are is read off the model's own answers, and how often that
first token agrees with the detector of refusals is reported.
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import pathlib

from experiments.attention.cases import Case
from experiments.entities import is_refusal
from experiments.steering import Arm, generate_answers
import gemma_jax as gj

# A token opens refusals if more than this share of answers with it are some.
_SHARE = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Openings:
  """First tokens of refusals.

  Attributes:
    tokens: Their ids, the commonest first.
    counts: First token of answers as text -> how many answers begin with it,
      and how many of these decline.
    agreement: Share of answers where the first token tells what the detector
      of refusals says.
    answers: The answers' texts.
  """

  tokens: tuple[int, ...]
  counts: Mapping[str, tuple[int, int]]
  agreement: float
  answers: Sequence[str]

  def to_dict(self) -> dict:
    """Returns what JSON has of it: all but the answers."""
    return {
      'tokens': list(self.tokens),
      'openings': [
        {'text': text, 'answers': n, 'refusals': refused}
        for text, (n, refused) in self.counts.items()
      ],
      'agreement': self.agreement,
    }


def refusal_openings(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  cases: Sequence[Case],
  *,
  mode: str = 'default',
  max_new_tokens: int = 30,
  rows_per_batch: int = 256,
  folder: pathlib.Path,
  identity: Mapping,
) -> Openings:
  """Has the model answer, and finds how its refusals begin.

  Args:
    model: The chat model.
    tokenizer: The model's tokenizer.
    cases: The questions.
    mode: How refusals are told, see `entities.is_refusal`.
    max_new_tokens: Most tokens of an answer.
    rows_per_batch: Number of answers that are generated at once.
    folder: Keeps answers; those to other questions are thrown away.
    identity: What they depend on besides the questions: the model.

  Raises:
    ValueError: no answer declines.
  """
  (answers,) = generate_answers(
    model,
    cases,
    [Arm(name='original', kind='original')],
    stop_ids=tokenizer.stop_ids,
    max_new_tokens=max_new_tokens,
    rows_per_batch=rows_per_batch,
    folder=folder,
    identity=identity,
    redo=True,
  )
  stops = set(tokenizer.stop_ids)
  texts = [
    tokenizer.decode([t for t in ids if t not in stops]).strip()
    for ids in answers
  ]
  refused = [
    is_refusal(text, mode, (case.entity, case.answer))
    for text, case in zip(texts, cases, strict=True)
  ]
  begun = collections.Counter(ids[0] for ids in answers)
  declined = collections.Counter(
    ids[0] for ids, no in zip(answers, refused, strict=True) if no
  )
  tokens = [t for t, n in declined.most_common() if n > _SHARE * begun[t]]
  if not tokens:
    raise ValueError(
      f'Of {len(texts)} answers of the chat model {sum(refused)} decline, and '
      'no first token tells which: there are no refusals to study. Ask about '
      'more entities, or pass --studies=answers.'
    )
  agree = [
    (ids[0] in tokens) == no for ids, no in zip(answers, refused, strict=True)
  ]
  return Openings(
    tokens=tuple(tokens),
    counts={
      tokenizer.decode([t]): (n, declined[t]) for t, n in begun.most_common()
    },
    agreement=sum(agree) / len(agree),
    answers=texts,
  )
