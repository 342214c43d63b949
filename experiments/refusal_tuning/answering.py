"""Asks a model again, and says what each answer is."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses

from experiments.knowledge_probing import (
  AskingPlan,
  Format,
  JudgeSettings,
  Question,
  Verdict,
  ask,
  judge,
)
from experiments.refusal_tuning.answer_metrics import Outcome
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answered:
  """A greedy answer.

  Attributes:
    id: The question's.
    text: What was said.
    outcome: What that is.
    rule: Which rule of the judge decided.
  """

  id: str
  text: str
  outcome: Outcome
  rule: str


def ask_again(
  model: gj.Decoder,
  format: Format,
  questions: Sequence[Question],
  judges: JudgeSettings,
  others: Mapping[str, tuple[str, ...]],
  *,
  plan: AskingPlan,
  pools: Mapping[str | None, Sequence[Question]],
) -> Iterator[list[Answered]]:
  """Asks and judges greedy answers; yields batches as they finish.

  Args:
    model: Stacked.
    format: How questions are put.
    questions: What to ask.
    judges: How answers are judged.
    others: Id -> other answers of the relation, from `others_of`.
    plan: How to ask.
    pools: Relation -> what can be demonstrated, where the plan has shots.
  """
  by_id = {q.id: q for q in questions}
  for batch in ask(model, format, questions, pools, plan):
    found = []
    for each in batch:
      text = each.greedy[0].text
      verdict = judge(by_id[each.id], text, judges, others.get(each.id, ()))
      found.append(
        Answered(
          id=each.id, text=text, outcome=outcome(verdict), rule=verdict.rule
        )
      )
    yield found


def outcome(verdict: Verdict) -> Outcome:
  """Returns what an answer is: what says nothing counts as abstaining."""
  if verdict.correct:
    return 'correct'
  return 'incorrect' if verdict.informative else 'abstained'
