"""Which questions are demonstrated, trained on, and held out.

Whole units are drawn, such as a country with all questions about its cities, so
that nothing asked at the end was answered in training.
"""

from collections.abc import Sequence
import math

import numpy as np

from experiments.knowledge_probing.probe_records import Question

SHOTS, TRAIN = 'shots', 'train'
DRAWN = (TRAIN, 'validation', 'test')
HELD_OUT_RELATION = 'held_out_relation'


def split_questions(
  questions: Sequence[Question],
  *,
  seed: int,
  shares: tuple[float, float, float] = (0.6, 0.15, 0.25),
  held_out_relation: str | None = None,
  shots: int = 12,
) -> dict[str, str]:
  """Returns the split of every question by id.

  A question that says its split keeps it. Other units are drawn so that each
  split gets its share of every relation, and of known and unknown questions
  where that is known. Then entities of 'train' become demonstrations, with all
  their questions, until a relation has `shots` of them, or half of what both
  splits have; one with another answer goes before one with the same, and none
  that is known to be unknown is taken.

  Args:
    questions: With ids of their own. The result does not depend on their order.
    seed: Random seed.
    shares: Shares of train, validation and test; they add up to 1.
    held_out_relation: All its questions but those of 'shots' are put in
      HELD_OUT_RELATION, whatever their unit.
    shots: Questions of each relation for demonstrations.

  Raises:
    ValueError: there is no such relation; a unit says its split in part; or
      what is drawn of a relation leaves one of the splits empty.
  """
  if min(shares) <= 0 or not math.isclose(sum(shares), 1):
    raise ValueError(
      f'shares={shares} must be three positive numbers that add up to 1.'
    )
  questions = sorted(questions, key=lambda each: each.id)
  relations = sorted({str(each.relation) for each in questions})
  if held_out_relation is not None and held_out_relation not in relations:
    raise ValueError(
      f'There is no relation {held_out_relation!r} to hold out; there are '
      f'{", ".join(relations)}.'
    )
  units: dict[str, list[Question]] = {}
  for question in questions:
    units.setdefault(question.unit, []).append(question)
  rng = np.random.default_rng(seed)
  found = {q.id: q.split for q in questions if q.split is not None}
  found |= _drawn(_undecided(units), shares, rng)
  _choose_shots(questions, found, shots, rng)
  if held_out_relation is not None:
    found |= {
      each.id: HELD_OUT_RELATION
      for each in questions
      if each.relation == held_out_relation and found[each.id] != SHOTS
    }
  _check(questions, found)
  return found


def _undecided(units) -> list[list[Question]]:
  """Units none of whose questions says its split."""
  left = []
  for unit, group in units.items():
    saying = [each for each in group if each.split is not None]
    if not saying:
      left.append(group)
    elif len(saying) < len(group):
      other = next(each for each in group if each.split is None)
      raise ValueError(
        f'Question {saying[0].id!r} of {unit!r} says its split, '
        f'{saying[0].split!r}, and {other.id!r} of the same unit does not. Say '
        'it for all of them, or for none.'
      )
  return left


def _drawn(units, shares, rng) -> dict[str, str]:
  """Splits of the questions of units.

  Units of one kind, which have the same relations, are dealt in random order,
  each to the split that lacks most of its share.
  """
  kinds = {}
  for i in rng.permutation(len(units)).tolist():
    kind = {(str(each.relation), str(each.known)) for each in units[i]}
    kinds.setdefault(tuple(sorted(kind)), []).append(units[i])
  wanted, found = np.zeros(len(DRAWN)), {}
  for kind in sorted(kinds):
    for group in kinds[kind]:
      wanted += len(group) * np.asarray(shares)
      place = int(wanted.argmax())
      wanted[place] -= len(group)
      found |= {each.id: DRAWN[place] for each in group}
  return found


def _choose_shots(questions, found, shots, rng):
  """Moves entities from 'train' to 'shots'."""
  entities: dict[str, list[Question]] = {}
  for question in questions:
    if found[question.id] == TRAIN:
      entities.setdefault(question.cluster, []).append(question)
  order = [list(entities)[i] for i in rng.permutation(len(entities)).tolist()]
  for relation in sorted({str(each.relation) for each in questions}):
    mine = [q for q in questions if str(q.relation) == relation]
    shown = [q for q in mine if found[q.id] == SHOTS]
    there = sum(found[q.id] == TRAIN for q in mine)
    limit = min(shots, (len(shown) + there) // 2)
    answers = {each.answers[0] for each in shown}
    count = len(shown)
    for only_new in (True, False):
      for entity in order:
        asked = [q for q in entities[entity] if str(q.relation) == relation]
        if (
          count + len(asked) > limit
          or not asked
          or any(found[each.id] == SHOTS for each in asked)
          or any(each.known is False for each in entities[entity])
          or (only_new and asked[0].answers[0] in answers)
        ):
          continue
        count += len(asked)
        answers.add(asked[0].answers[0])
        found |= {each.id: SHOTS for each in entities[entity]}


def _check(questions, found):
  """Raises ValueError if a relation is in none of a split's units."""
  splits = {}
  for question in questions:
    splits.setdefault(question.relation, set()).add(found[question.id])
  drawn = {each.relation for each in questions if each.split is None}
  for relation, there in splits.items():
    missing = [name for name in DRAWN if name not in there]
    if missing and relation in drawn and HELD_OUT_RELATION not in there:
      units = {q.unit for q in questions if q.relation == relation}
      raise ValueError(
        f'Relation {relation!r} has no question in {", ".join(missing)}: its '
        f'{len(units)} units, such as {min(units)!r}, are too few for all '
        'splits. Ask about more of them, or leave the relation out.'
      )
