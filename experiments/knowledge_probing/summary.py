"""What a probe found, in numbers with intervals over entities.

Shares are over questions unless a key says 'samples'. An answer is a
hallucination if it is informative and wrong.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from experiments.knowledge_probing import judging
from experiments.knowledge_probing import probe_records as lib
from experiments.knowledge_probing.probed import Probed
from experiments.knowledge_probing.rules import RULES
from experiments.knowledge_probing.scoring import upper_bound
from experiments.knowledge_probing.settings import Settings
from experiments.stats.resampling import cluster_bootstrap_means

ALL = 'all relations'
# Judges that need no model, for the table of their agreement.
_JUDGES = ('cascade', 'exact', 'contains', 'f1', 'fuzzy', 'reference')
# Answers on which judges are compared.
_COMPARED = 2000
# Ways to draw fewer samples, for the curve of the share of unknown questions.
_DRAWS = 200


def summarise(probed: Probed, settings: Settings) -> dict:
  """Everything but the detectors, for results.json."""
  asked = probed.asked
  relations = sorted({q.relation for q in asked if q.relation})
  groups = {ALL: asked} | {
    name: [q for q in asked if q.relation == name] for name in relations
  }
  n = next(iter(probed.scores.values())).n
  return {
    'questions': len(asked),
    'entities': len({q.cluster for q in asked}),
    'demonstrations': len(probed.questions) - len(asked),
    'splits': dict(Counter(probed.splits.values())),
    'samples': n,
    'resolution': upper_bound(n),
    'answers': {
      name: _answers(mine, probed, settings.seed)
      for name, mine in groups.items()
    },
    'categories': {
      name: _counts([probed.scores[q.id].category for q in mine])
      for name, mine in groups.items()
    },
    'decisions': {
      rule: {
        name: _counts([probed.decisions[rule][q.id] for q in mine])
        for name, mine in groups.items()
      }
      for rule in RULES
    },
    'truth': _truth(probed),
    'judges': _agreement(probed, settings),
    'unknown_by_samples': _fewer_samples(probed, settings.seed),
    'examples': _examples(probed),
  }


def _counts(found: Sequence[str]) -> dict[str, int]:
  return dict(Counter(found))


def _answers(
  questions: Sequence[lib.Question], probed: Probed, seed: int
) -> dict:
  """Estimates of what is said to some questions."""

  def share(of: Callable[[lib.Verdict], bool], answers: str) -> list[float]:
    return [
      np.mean([of(v) for v in getattr(probed.scores[q.id], answers)])
      for q in questions
    ]

  wrong = lambda v: v.informative and not v.correct
  columns = {
    'right': share(lambda v: v.correct, 'greedy'),
    'right_exact': share(lambda v: v.exact, 'greedy'),
    'right_samples': share(lambda v: v.correct, 'samples'),
    'declined': share(lambda v: v.refusal, 'greedy'),
    'declined_samples': share(lambda v: v.refusal, 'samples'),
    'hallucinated': share(wrong, 'greedy'),
    'hallucinated_samples': share(wrong, 'samples'),
    'hedged': share(lambda v: v.hedged, 'greedy'),
  }
  found = cluster_bootstrap_means(
    np.stack(list(columns.values()), axis=1),
    [q.cluster for q in questions],
    seed,
  )
  return {
    name: each.to_dict() for name, each in zip(columns, found, strict=True)
  }


def _truth(probed: Probed) -> dict | None:
  """Decision against truth, where the truth is known, by split.

  Rule -> split -> 'known' and 'unknown' -> decision -> questions.
  """
  told = [q for q in probed.asked if q.known is not None]
  if not told:
    return None
  found = {}
  for rule in RULES:
    for q in told:
      split = found.setdefault(rule, {}).setdefault(probed.splits[q.id], {})
      cell = split.setdefault('known' if q.known else 'unknown', Counter())
      cell[probed.decisions[rule][q.id]] += 1
  return found


def _agreement(probed: Probed, settings: Settings) -> dict:
  """Counts the greedy answers on which each two judges agree."""
  others = judging.others_of(probed.questions)
  rng = np.random.default_rng(settings.seed)
  asked = [
    probed.asked[i] for i in rng.permutation(len(probed.asked))[:_COMPARED]
  ]
  verdicts = {}
  for kind in _JUDGES:
    how = judging.JudgeSettings(
      kind=kind, f1_threshold=settings.f1_threshold, fuzzy=settings.fuzzy
    )
    verdicts[kind] = np.array(
      [
        judging.judge(
          q, probed.sampled[q.id].greedy[0].text, how, others.get(q.id, ())
        ).correct
        for q in asked
      ]
    )
  return {
    'answers': len(asked),
    'right': {kind: float(found.mean()) for kind, found in verdicts.items()},
    'agreement': {
      one: {
        other: float((verdicts[one] == verdicts[other]).mean())
        for other in _JUDGES
      }
      for one in _JUDGES
    },
    'rules': dict(
      Counter(
        verdict.rule
        for score in probed.scores.values()
        for verdict in score.greedy
      )
    ),
  }


def _fewer_samples(probed: Probed, seed: int) -> list[dict]:
  """Returns how many questions had no right sample, had fewer been drawn."""
  right = np.array(
    [[v.correct for v in probed.scores[q.id].samples] for q in probed.asked]
  )
  rng = np.random.default_rng(seed)
  n = right.shape[1]
  counts = sorted({1, 2, 4, 8, 16, 32, 64, n} & set(range(1, n + 1)))
  found = []
  for count in counts:
    shares = [
      (~right[:, rng.permutation(n)[:count]].any(1)).mean()
      for _ in range(_DRAWS if count < n else 1)
    ]
    found.append(
      {
        'samples': count,
        'unknown': float(np.mean(shares)),
        'resolution': upper_bound(count),
      }
    )
  return found


def _examples(probed: Probed) -> list[dict]:
  """Returns a few questions of every category with what was said."""
  found: Mapping[str, list] = {}
  for q in probed.asked:
    category = probed.scores[q.id].category
    mine = found.setdefault(category, [])
    if len(mine) < 5:
      greedy = probed.sampled[q.id].greedy[0]
      mine.append(
        {
          'category': category,
          'question': q.question,
          'answers': list(q.answers[:3]),
          'said': greedy.text,
          'rule': probed.scores[q.id].greedy[0].rule,
          'p_correct': probed.scores[q.id].p_correct,
        }
      )
  return [each for mine in found.values() for each in mine]
