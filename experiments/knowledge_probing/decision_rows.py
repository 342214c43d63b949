"""Training rows: what a model shall say to each question.

A row that answers has the model's own words if any answer was right, else the
gold one. A row that declines never has a right answer in what it teaches:
fitting facts that a model does not know makes it hallucinate (Gekhman et al.
2024, arXiv 2405.05904).
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Literal

from experiments.knowledge_probing.probe_records import (
  Category,
  Decision,
  Question,
  Said,
  Sampled,
  Score,
  Verdict,
)
from experiments.knowledge_probing.refusal_texts import (
  refusal_text,
  says_answer,
)

TargetSource = Literal['sample', 'gold', 'refusal_template', 'refusal_model']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A question and what shall be said.

  Attributes:
    id: The question's; rows of one question share it.
    question: What is asked.
    completion: What shall be said.
    refusal: True if that declines.
    relation: The question's.
    entity: The question's.
    target_source: Where the completion is from: the model's answers, the right
      answers, the pool of refusals, or a refusal that the model wrote.
    p_correct: Share of the question's samples that are right.
    category: SliCK's.
    decision: What the rule makes of the question.
    weight: Weight of the row in a loss; rows of one question sum to 1.
    rejected: What shall not be said, for DPO and KTO: an answer that the model
      gave and that is wrong, or a refusal where it is right. None where the
      model gave no such answer.
  """

  id: str
  question: str
  completion: str
  refusal: bool
  relation: str | None
  entity: str | None
  target_source: TargetSource
  p_correct: float
  category: Category
  decision: Decision
  weight: float
  rejected: str | None

  def __post_init__(self):
    if not self.completion.strip():
      raise ValueError(
        f'The row of question {self.id!r} has nothing to say: '
        f'{self.completion!r}. Its loss mask would be empty.'
      )


def make_rows(
  questions: Sequence[Question],
  sampled: Mapping[str, Sampled],
  scores: Mapping[str, Score],
  decisions: Mapping[str, Decision],
  ids: Sequence[str],
  *,
  text: str | None = None,
  written: Mapping[str, str] | None = None,
  seed: int = 0,
) -> list[Row]:
  """Makes rows of some questions.

  A question that is 'unsure' has a row per sample: a right one keeps its text,
  any other one declines. Weights then sum to 1, so that a question counts as
  much as others do; in Alignment for Honesty (arXiv 2312.07000) every question
  has ten rows.

  Args:
    questions: Those of `ids`, and perhaps others.
    sampled: Id -> what the model said.
    scores: Id -> what that amounts to.
    decisions: Id -> decision.
    ids: Ids of the questions to make rows of, from `balance`.
    text: The one refusal for all questions; None is a pool of texts.
    written: Id -> a refusal that the model wrote; questions without one get
      `text`, or one of the pool.
    seed: Random seed of the choice from the pool.

  Returns:
    Rows in the order of `ids`.

  Raises:
    ValueError: a question is unknown or is to be left out; or a refusal does
      not decline, or has a right answer in it.
  """
  known = {q.id: q for q in questions}
  rows = []
  for id in ids:
    missing = [
      name
      for name, found in (
        ('question', known),
        ('answers', sampled),
        ('score', scores),
        ('decision', decisions),
      )
      if id not in found
    ]
    if missing:
      raise ValueError(
        f'A row was asked for of {id!r}, which has no {missing[0]}.'
      )
    question, decision = known[id], decisions[id]
    declined = _refusal(question, written or {}, text, seed)
    if decision == 'unsure':
      parts = _of_samples(sampled[id], scores[id], declined)
    elif decision == 'answer':
      said = _answer(question, sampled[id], scores[id])
      parts = [(*said, declined[0])]
    elif decision in ('refuse', 'refuse_keep'):
      parts = [(*declined, _wrong(sampled[id], scores[id]))]
    else:
      raise ValueError(
        f'Question {id!r} is to be left out (its decision is {decision!r}), '
        'but a row was asked for. Take the ids from `balance`.'
      )
    for completion, source, rejected in parts:
      row = Row(
        id=id,
        question=question.question,
        completion=completion,
        refusal=source.startswith('refusal'),
        relation=question.relation,
        entity=question.entity,
        target_source=source,
        p_correct=scores[id].p_correct,
        category=scores[id].category,
        decision=decision,
        weight=1 / len(parts),
        rejected=rejected,
      )
      _check_no_answer(row, question)
      rows.append(row)
  return rows


def _refusal(question, written, text, seed) -> tuple[str, TargetSource]:
  if question.id in written:
    return written[question.id], 'refusal_model'
  return refusal_text(question, text=text, seed=seed), 'refusal_template'


def _answer(
  question: Question, sampled: Sampled, score: Score
) -> tuple[str, TargetSource]:
  """Returns the shortest right answer of the model's own, else the gold one."""
  right = [
    said.text.strip()
    for said, verdict in _judged(sampled, score)
    if verdict.correct and said.stop and said.text.strip()
  ]
  if right:
    return min(right, key=len), 'sample'  # the first of equally short ones
  return question.answers[0].strip(), 'gold'


def _of_samples(sampled, score, declined):
  """Returns, per sample, what is said, its source and what is rejected."""
  parts = []
  for said, verdict in zip(sampled.samples, score.samples, strict=True):
    own = said.text.strip()
    if verdict.correct and own:
      parts.append((own, 'sample', declined[0]))
    else:
      parts.append((*declined, own if _misleads(said, verdict) else None))
  return parts


def _wrong(sampled: Sampled, score: Score) -> str | None:
  """Returns the first answer that is informative and wrong."""
  for said, verdict in _judged(sampled, score):
    if _misleads(said, verdict):
      return said.text.strip()
  return None


def _misleads(said: Said, verdict: Verdict) -> bool:
  wrong = verdict.informative and not verdict.correct
  return wrong and bool(said.text.strip())


def _judged(sampled: Sampled, score: Score) -> list[tuple[Said, Verdict]]:
  """Greedy answers, then samples, with their verdicts."""
  return [
    *zip(sampled.greedy, score.greedy, strict=True),
    *zip(sampled.samples, score.samples, strict=True),
  ]


def _check_no_answer(row: Row, question: Question):
  if row.refusal and (found := says_answer(row.completion, question)):
    raise ValueError(
      f'The refusal of question {row.id!r} has its right answer {found!r} in '
      f'it: {row.completion!r}. Choose another text, or leave the question out.'
    )
