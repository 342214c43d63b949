"""What an answer amounts to.

  refusal         it declines
  correct         it does not, and gives the answer
  hallucination   it does not, and gives another value of what was asked for
  broken          nothing of an answer's form: no words, a few words over and
                  over, a number where a name was asked for

The first that applies. A refusal comes first even if it mentions the answer, so
that refusals are exactly what the detector says. What the values of an
attribute are, a question says (`Question.values`); where they are too many to
list, anything of an answer's form counts as one.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
import re

import numpy as np

from experiments import entities
from experiments.entities.name_matching import words_of
from experiments.steering.arms import Arm
from experiments.steering.divergence import MEASURES
from experiments.steering.questions import Question
import gemma_jax as gj

REFUSAL, CORRECT = 'refusal', 'correct'
HALLUCINATION, BROKEN = 'hallucination', 'broken'
OUTCOMES = (REFUSAL, CORRECT, HALLUCINATION, BROKEN)

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
  # Most answers do not name the entity, and are the same for many questions.
  named = set(words_of(question.entity.lower())) & set(words_of(text.lower()))
  return _outcome(
    question.prompt_type,
    question.entity if named else '',
    question.answer,
    question.values,
    text,
    rules,
  )


@functools.lru_cache(maxsize=100_000)
def _outcome(prompt_type, entity, answer, values, text, rules) -> str:
  asked = entities.PROMPT_TYPES[prompt_type]
  if entities.is_refusal(text, rules.refusals, (entity, answer)):
    return REFUSAL
  says = lambda value: entities.is_correct(
    asked, text, value, rules.answers, subject=entity
  )
  if says(answer):
    return CORRECT
  if values is not None:
    return HALLUCINATION if any(map(says, values)) else BROKEN
  attempts = asked.judge.attempts(text, entity)
  return HALLUCINATION if attempts and not _goes_in_circles(text) else BROKEN


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
    divergences: float [A, Q, 4]: divergence.MEASURES, which then are in the
      records.

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
        examples[-1] |= {
          name: None if math.isnan(value) else value
          for name, value in zip(
            MEASURES, divergences[a, q].tolist(), strict=True
          )
        }
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
