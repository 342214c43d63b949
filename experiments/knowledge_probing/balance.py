"""Which questions become training rows, so that declining means not knowing.

A model must not learn that all questions of some relation are declined, nor all
about some group of entities. So every relation has about the same share of
refusals, and those of the larger class that are kept are, where there are any,
of the groups that the smaller class is about.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
import math

from experiments.knowledge_probing.probe_records import Decision, Question
from experiments.knowledge_probing.refusal_texts import hash_of

# Most of the rows that the model declines already (specification, section 3.3).
MOST_KEPT = 0.1


def balance(
  questions: Sequence[Question],
  decisions: Mapping[str, Decision],
  *,
  rule: str,
  max_refusal_share: float = 0.5,
  p_correct: Mapping[str, float] | None = None,
  seed: int = 0,
) -> list[str]:
  """Chooses questions to make rows of.

  The share of refusals is that among all questions, or `max_refusal_share` if
  that is less; in every relation the larger class is cut down to it. A
  relation of which a class is then empty is left out, as it alone would give
  the decision away. What the model declines already ('refuse_keep') fills up
  refusals, and is at most MOST_KEPT of the result.

  Args:
    questions: Train questions. Their order does not matter to what is chosen.
    decisions: Id -> decision.
    rule: Which made them, for the error.
    max_refusal_share: Largest share of refusals; .8 gives CRaFT's four refusals
      for each answer, if there are so many.
    p_correct: Id -> share of right samples, of the questions that are 'unsure':
      they are kept too, as answers where most of their samples are right, else
      as refusals. None leaves them out.
    seed: Random seed of the choice.

  Returns:
    Ids, in the order of the questions.

  Raises:
    ValueError: a class is empty, before or after balancing; a question has no
      decision, or is there twice; or the share is not above 0 and at most 1.
  """
  if not 0 < max_refusal_share <= 1:
    raise ValueError(
      f'max_refusal_share is {max_refusal_share}, expected above 0 and at most '
      '1.'
    )
  _check_ids(questions, decisions)
  classes = defaultdict(list), defaultdict(list)  # relation -> its questions
  for question in questions:
    refused = _is_refused(question, decisions[question.id], p_correct)
    if refused is not None:
      classes[refused][question.relation].append(question)
  answers, refusals = (sum(map(len, found.values())) for found in classes)
  said = Counter(decisions[q.id] for q in questions)
  _check_classes(rule, said, answers, refusals)
  share = min(max_refusal_share, refusals / (answers + refusals))
  kept = [], []  # answers and refusals
  for relation in sorted(classes[0].keys() & classes[1].keys(), key=str):
    mine = [found[relation] for found in classes]
    sizes = _sizes(*map(len, mine), share)
    for which, size in enumerate(sizes):
      others = mine[1 - which]
      kept[which].extend(_matched(mine[which], others, size, decisions, seed))
  if not kept[0]:
    raise ValueError(
      f'The rule {rule!r} refuses all questions of some relations and answers '
      f'all of the others ({_spelled(said)}): a model would learn relations. '
      'Ask about known and unknown entities in the same relation.'
    )
  refused = _fewer(*kept, decisions, max_refusal_share, seed)
  if not refused:
    raise ValueError(
      f'Beside {len(kept[0])} answers, max_refusal_share={max_refusal_share} '
      f'leaves no refusal of {len(kept[1])} that the rule {rule!r} makes. '
      'Raise it, or ask more questions.'
    )
  ids = {q.id for q in (*kept[0], *refused)}
  return [q.id for q in questions if q.id in ids]


def _is_refused(question, decision, p_correct) -> bool | None:
  """Returns True if a question is a refusal; None leaves it out."""
  if decision == 'unsure' and p_correct is not None:
    return p_correct[question.id] < 0.5
  if decision == 'answer':
    return False
  return True if decision in ('refuse', 'refuse_keep') else None


def _sizes(answers: int, refusals: int, share: float) -> tuple[int, int]:
  """Returns how many of each class give about a share of refusals."""
  most = _most(answers, share)
  if most is None:
    return answers, refusals
  if refusals >= most:
    return answers, max(1, most)
  return min(
    answers, math.ceil(refusals * (1 - share) / share - 1e-9)
  ), refusals


def _matched(mine, others, size, decisions, seed) -> list[Question]:
  """So many of `mine`, first those of the groups that `others` are about.

  What the model declines already comes after what it must learn to decline.
  """
  wanted = Counter(q.unit for q in others)
  seen, keyed = Counter(), []
  for question in sorted(mine, key=lambda q: hash_of(seed, q.id)):
    spare = seen[question.unit] >= wanted[question.unit] * size / len(others)
    seen[question.unit] += 1
    keyed.append((decisions[question.id] == 'refuse_keep', spare, question))
  keyed.sort(key=lambda each: each[:2])  # stable: else by hash
  return [question for *_, question in keyed[:size]]


def _fewer(answers, refusals, decisions, share, seed) -> list[Question]:
  """Returns as many refusals as are allowed, new ones first."""
  kept = [q for q in refusals if decisions[q.id] == 'refuse_keep']
  new = [q for q in refusals if decisions[q.id] != 'refuse_keep']
  for some in (kept, new):
    some.sort(key=lambda q: hash_of(seed, q.id))
  kept = kept[: _most(len(answers) + len(new), MOST_KEPT)]
  return (new + kept)[: _most(len(answers), share)]


def _most(others: int, share: float) -> int | None:
  """Returns how many are a share of the whole, with `others` besides."""
  # Rounding must not lose one that is there exactly.
  return None if share == 1 else math.floor(others * share / (1 - share) + 1e-9)


def _check_ids(questions, decisions):
  counts = Counter(q.id for q in questions)
  twice = [id for id, count in counts.items() if count > 1]
  if twice:
    raise ValueError(f'Question {twice[0]!r} is there twice; ids must differ.')
  missing = [id for id in counts if id not in decisions]
  if missing:
    raise ValueError(
      f'{len(missing)} questions have no decision, such as {missing[0]!r}. Run '
      'the rule on them, or leave them out.'
    )


def _check_classes(rule, said, answers, refusals):
  if answers and refusals:
    return
  empty = 'refuses' if answers else 'answers'
  remedy = 'harder' if answers else 'easier'
  raise ValueError(
    f'The rule {rule!r} {empty} none of {said.total()} questions '
    f'({_spelled(said)}): a model would learn to do always the same. Take '
    f'another rule, other thresholds, or ask {remedy} questions.'
  )


def _spelled(said: Counter) -> str:
  return ', '.join(f'{n} {decision}' for decision, n in sorted(said.items()))
