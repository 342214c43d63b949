"""Demonstrations before a question: random sets of a pool."""

from collections.abc import Sequence

import numpy as np

from experiments.knowledge_probing.formats import Shot
from experiments.knowledge_probing.probe_records import Question


def demonstrations(
  pool: Sequence[Question], *, prompts: int, shots: int, seed: int
) -> list[tuple[Shot, ...]]:
  """Returns what stands before a question in each of some prompts.

  Sets are drawn one by one, each in random order and with as many different
  answers as the pool allows. SliCK (arXiv 2405.05904, section 3) takes 10 of 4.

  Args:
    pool: Questions of one relation, none of which is asked. The result does
      not depend on their order.
    prompts: Number of sets.
    shots: Demonstrations in each.
    seed: Random seed.

  Raises:
    ValueError: the pool has fewer; or several prompts of no demonstration are
      asked for, which would all be the same.
  """
  if prompts < 1 or shots < 0:
    raise ValueError(
      f'prompts={prompts} must be at least 1, shots={shots} at least 0.'
    )
  if shots == 0:
    if prompts > 1:
      raise ValueError(
        f'prompts={prompts} without demonstrations are all the same. Use one '
        'prompt, or several shots.'
      )
    return [()]
  if len(pool) < shots:
    relation = f' of relation {pool[0].relation!r}' if pool else ''
    raise ValueError(
      f'{len(pool)} questions{relation} can be demonstrated '
      f'({", ".join(repr(each.id) for each in pool)}); shots={shots} are asked '
      'for. Lower it, or put more questions in the split of demonstrations.'
    )
  pool = sorted(pool, key=lambda each: each.id)
  rng = np.random.default_rng(seed)
  found = []
  for _ in range(prompts):
    new, again, answers = [], [], set()
    for i in rng.permutation(len(pool)):
      (again if pool[i].answers[0] in answers else new).append(pool[i])
      answers.add(pool[i].answers[0])
    chosen = (new + again)[:shots]
    chosen = [chosen[i] for i in rng.permutation(shots)]
    found.append(tuple((each.question, each.answers[0]) for each in chosen))
  return found
