"""What an answer amounts to.

  refusal   it declines
  correct   it does not, and gives the answer
  wrong     it does not, and says something else: a hallucination
  other     nothing that could be an answer: no words, a few words over and
            over, or no number where one was asked for

The first that applies. A refusal comes first even if it mentions the answer, so
that refusals are exactly what the detector says.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import re

import numpy as np

from experiments import entities
from experiments.steering.arms import Arm
from experiments.steering.questions import Question
import gemma_jax as gj

REFUSAL, CORRECT, WRONG, OTHER = 'refusal', 'correct', 'wrong', 'other'
OUTCOMES = (REFUSAL, CORRECT, WRONG, OTHER)

# A text of so many words, fewer than this share distinct, goes in circles.
_ENOUGH_WORDS, _DISTINCT = 8, 1 / 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
  """Says how answers are generated and read (paper.md, 10.1 nos. 9 and 10).

  Attributes:
    refusals: 'default' or 'reference': the lists of refusals.
    answers: 'default' or 'reference': what is correct.
    stop: True if an answer ends at the end of the model's turn; the published
      code went on, and read it all.
  """

  refusals: str = 'default'
  answers: str = 'default'
  stop: bool = True

  @classmethod
  def of_mode(cls, mode: str) -> 'Rules':
    """Returns the rules of a mode: all as published, or none."""
    return cls(refusals=mode, answers=mode, stop=mode != 'reference')


def outcome(question: Question, text: str, rules: Rules) -> str:
  """Returns one of OUTCOMES."""
  prompt_type = entities.PROMPT_TYPES[question.prompt_type]
  entity, answer = question.entity, question.answer
  if entities.is_refusal(text, rules.refusals, (entity, answer)):
    return REFUSAL
  if entities.is_correct(
    prompt_type, text, answer, rules.answers, subject=entity
  ):
    return CORRECT
  attempts = prompt_type.judge.attempts(text, entity)
  return WRONG if attempts and not _goes_in_circles(text) else OTHER


def make_examples(
  tokenizer: gj.Tokenizer,
  questions: Sequence[Question],
  arms: Sequence[Arm],
  answers: Sequence[Sequence[Sequence[int]]],
  rules: Rules,
  divergences: np.ndarray | None = None,
) -> list[dict]:
  """Answers as text, with their outcomes.

  Args:
    tokenizer: Tokenizer of the model.
    questions: Q of them.
    arms: A of them.
    answers: Token ids [A][Q] of what was generated.
    rules: How to read them.
    divergences: float [A, Q, 2]: kl and kl_first (divergence.py), which then
      are in the records.

  Returns:
    A x Q records, all questions of an arm after each other. 'text' ends where
    the model's turn does; 'reference_refusal' is what the published lists say
    of all that was generated.
  """
  stops = set(tokenizer.stop_ids)
  examples = []
  for a, (arm, row) in enumerate(zip(arms, answers, strict=True)):
    for q, (question, ids) in enumerate(zip(questions, row, strict=True)):
      ends = [i for i, token in enumerate(ids) if token in stops]
      end = ends[0] if ends else len(ids)
      text = tokenizer.decode(ids[:end]).strip()
      whole = text if rules.stop else tokenizer.decode(ids).strip()
      examples.append(
        {
          'arm': arm.name,
          'entity': question.entity,
          'type': question.type,
          'class': question.entity_class,
          'prompt_type': question.prompt_type,
          'question': question.text,
          'correct_answer': question.answer,
          'text': text,
          'num_tokens': end,
          'stopped': bool(ends),
          'outcome': outcome(question, whole, rules),
          'reference_refusal': entities.is_refusal(whole, 'reference'),
        }
      )
      if divergences is not None:
        kl, first = divergences[a, q].tolist()
        examples[-1] |= {'kl': kl, 'kl_first': first}
  return examples


def by_arm(examples: Sequence[Mapping]) -> dict[str, list[Mapping]]:
  """Arm -> its records, in order."""
  found = {}
  for example in examples:
    found.setdefault(example['arm'], []).append(example)
  return found


def _goes_in_circles(text: str) -> bool:
  words = re.findall(r'\w+', text.lower())
  return len(words) >= _ENOUGH_WORDS and len(set(words)) < _DISTINCT * len(
    words
  )
