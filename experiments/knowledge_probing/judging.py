"""Is an answer right? A cascade of rules that need no model.

  exact      the first line is one of the right answers, once both are normal
  alias      the first sentence is
  contains   an answer's words stand in the text, one after the other
  date       the text has a date that says all that the right one says
  amount     its first number is the right one, in any unit, if both are rounded
  f1         at least half of the words are shared (SQuAD's F1, 1606.05250)
  fuzzy      some words are an answer but for a letter or so, or a plural's 's'
  short      a surname stands for a person, 'Pacific' for an ocean that is asked
             for, or initials for a name

All but the first are guarded. An answer that is denied ('not Paris'), offered
as a choice ('Paris or Lyon') or only repeated from the question does not count,
and neither does any where another answer of the relation is named as well.
"""

from collections import defaultdict
from collections.abc import Sequence
import dataclasses

from experiments.entities import label_trivia
from experiments.knowledge_probing.answer_matching import RULES, exact
from experiments.knowledge_probing.informative import hedges, informs, refuses
from experiments.knowledge_probing.keys import key_of
from experiments.knowledge_probing.normalising import words
from experiments.knowledge_probing.probe_records import Question, Verdict

CASCADE = tuple(RULES)
# 'reference' is the published matching of TriviaQA answers (2411.14257).
KINDS = ('cascade', *CASCADE, 'reference')


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeSettings:
  """Says how answers are judged without a model.

  Attributes:
    kind: One of KINDS: all rules, one of them alone, or 'reference'. 'exact' is
      SliCK's judge.
    f1_threshold: Least F1 of words.
    fuzzy: Least Damerau-Levenshtein similarity, 1 being equal.
  """

  kind: str = 'cascade'
  f1_threshold: float = 0.5
  fuzzy: float = 0.9

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(f'The judge is {self.kind!r}, expected one of {KINDS}.')
    for name in ('f1_threshold', 'fuzzy'):
      value = getattr(self, name)
      if not 0 < value <= 1:
        raise ValueError(f'{name} is {value}, expected it in (0, 1].')


def others_of(questions: Sequence[Question]) -> dict[str, tuple[str, ...]]:
  """Other answers of the same relation, for every question.

  Args:
    questions: All there are. One without a relation has no others.

  Returns:
    Id of a question -> canonical answers of the other questions, in order of
    first appearance, without those that are names of its own answer.
  """
  canonical = defaultdict(dict)  # relation -> words -> as first written
  for each in questions:
    name = each.answers[0]
    canonical[each.relation].setdefault(words(name), name)
  found, shared = {}, {}
  for each in questions:
    if each.relation is None:
      found[each.id] = ()
      continue
    candidates = canonical[each.relation]
    own = frozenset(w for w in map(words, each.answers) if w in candidates)
    if (each.relation, own) not in shared:
      shared[each.relation, own] = tuple(
        name for key, name in candidates.items() if key not in own
      )
    found[each.id] = shared[each.relation, own]
  return found


def judge(
  question: Question,
  text: str,
  settings: JudgeSettings,
  others: tuple[str, ...] = (),
) -> Verdict:
  """Judges one answer.

  Args:
    question: With its right answers.
    text: What was said. One that declines is never right.
    settings: How.
    others: Other answers of the relation, from `others_of`.

  Returns:
    The verdict. Its rule is one of CASCADE or 'reference', or 'none: ...'. An
    answer that is right is informative too.

  Raises:
    ValueError: a right answer is blank.
  """
  key = key_of(question, others)
  refusal = refuses(question, text)
  if settings.kind == 'reference':
    label = label_trivia(text, question.answers, 'reference')
    refusal = label == 'refusal'
    right, rule = label == 'correct', 'reference'
  elif refusal:
    right, rule = False, 'none: declines'
  else:
    right, rule = _decide(key, text, settings)
  if not right and not rule.startswith('none'):
    rule = f'none: {rule}'
  return Verdict(
    correct=right,
    exact=not refusal and exact(key, text).right,
    rule=rule,
    informative=right or (not refusal and informs(question, text)),
    refusal=refusal,
    hedged=not refusal and hedges(text),
  )


def _decide(key, text, settings) -> tuple[bool, str]:
  """Returns True if one rule finds a text right, and which, or why none does.

  An answer that stands there, but is guarded, is not looked for by other rules;
  words that F1 finds too different may still be misspelt.
  """
  if not words(text):
    return False, 'none: empty'
  why = 'no match'
  for rule in CASCADE if settings.kind == 'cascade' else (settings.kind,):
    found = RULES[rule](key, text, settings)
    if found.right:
      return True, rule
    why = found.why or why
    if found.why and rule != 'f1':
      break
  return False, f'none: {why}'
