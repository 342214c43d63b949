"""What to do with each question: answer it, decline it, or leave it out.

  correctness          what the greedy answer gets wrong is refused (R-Tuning)
  llama3               what is consistently informative and wrong is refused;
                       the table of `_llama3`
  craft                what is wrong and uncertain is refused, what is right and
                       certain is answered (CRaFT, arXiv 2410.06913)
  honesty_absolute     what no answer gets right is refused (arXiv 2312.07000)
  honesty_multisample  the same, but each sample counts: where some are right
                       and some wrong, rows say both

Llama 3 and CRaFT disagree about errors of which the model is certain: the
first refuses them, the second leaves them out. `conflict` counts.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import numpy as np

from experiments.knowledge_probing.probe_records import Decision, Score
from experiments.stats.intervals import wilson

RULES = (
  'correctness',
  'llama3',
  'craft',
  'honesty_absolute',
  'honesty_multisample',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuleSettings:
  """Thresholds of all rules; shares from 0 to 1.

  The sources publish none of the first four. The first three are those of this
  project's specification, section 3.3; the last is this project's own.

  Attributes:
    known_min: Share of right samples from which a question counts as known.
    unknown_max: Share of right samples up to which it counts as unknown.
    consistent_min: Share of samples that must agree on being informative and
      wrong, on declining, or (in `conflict`) on one meaning.
    rise_max: CRaFT leaves a wrong question out if the rehearsal raises its
      share of right samples by more than this: one sample of ten.
  """

  known_min: float = 0.75
  unknown_max: float = 0.0
  consistent_min: float = 0.8
  rise_max: float = 0.1

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if not 0 <= value <= 1:
        raise ValueError(f'{field.name} is {value}, expected 0 to 1, a share.')
    if self.unknown_max >= self.known_min:
      raise ValueError(
        f'unknown_max={self.unknown_max} must be below known_min='
        f'{self.known_min}: no question is both.'
      )


def decide(rule: str, score: Score, settings: RuleSettings) -> Decision:
  """Returns what a rule makes of one question.

  Raises:
    ValueError: the rule is unknown, or CRaFT's, which compares questions; or
      the question has no samples.
  """
  if rule == 'craft':
    raise ValueError(
      "The rule 'craft' compares questions with each other: use decide_all."
    )
  _check(rule, [score])
  if rule == 'llama3':
    return _llama3(score, settings)
  right = [verdict.correct for verdict in (*score.greedy, *score.samples)]
  if rule == 'correctness':
    return 'answer' if is_right(score) else 'refuse'
  if rule == 'honesty_absolute':
    return 'answer' if any(right) else 'refuse'
  # Rows are made of the samples alone.
  some = {verdict.correct for verdict in score.samples}
  if len(some) == 2:
    return 'unsure'
  return 'answer' if True in some else 'refuse'


def decide_all(
  rule: str,
  scores: Sequence[Score],
  settings: RuleSettings,
  rehearsed: Mapping[str, float] | None = None,
) -> dict[str, Decision]:
  """Returns what a rule makes of all questions: id -> decision.

  Args:
    rule: One of RULES.
    scores: Scores of the questions; CRaFT's medians are over them.
    settings: Thresholds.
    rehearsed: For CRaFT: id -> share of right samples after a short tuning on
      known questions. None leaves that filter out.

  Raises:
    ValueError: the rule is unknown, a question has no samples, or a wrong one
      was not asked again after the rehearsal.
  """
  _check(rule, scores)
  if rule == 'craft':
    return _craft(scores, settings, rehearsed)
  return {score.id: decide(rule, score, settings) for score in scores}


def is_right(score: Score) -> bool:
  """Returns True if more than half of the greedy answers are right."""
  return score.p_correct_greedy > 0.5


def is_error(score: Score) -> bool:
  """Returns True if the greedy answer is wrong, and none that declines.

  With several prompts: if more than half of the answers are informative and
  wrong.
  """
  wrong = [v.informative and not v.correct for v in score.greedy]
  return 2 * sum(wrong) > len(wrong)


def certainty(score: Score) -> float:
  """Returns how much the samples agree: 1 if all mean the same, 0 if no two do.

  It is 1 - H / log n for the entropy H of the clusters of n samples.
  """
  if score.n == 1:
    return 1.0
  # Rounding must not part samples that all agree from others that do.
  return float(1 - round(score.discrete_entropy / math.log(score.n), 12))


def agreement(score: Score) -> float:
  """Share of the samples that are in the largest cluster of meaning."""
  return float(np.unique(score.cluster, return_counts=True)[1].max() / score.n)


def conflict(
  scores: Sequence[Score],
  decisions: Mapping[str, Mapping[str, Decision]],
  settings: RuleSettings,
) -> dict:
  """Counts which rule refuses certain errors, and which uncertain ones.

  An error (`is_error`) is certain if at least `consistent_min` of its samples
  mean the same, and uncertain otherwise.

  Args:
    scores: Scores of the questions.
    decisions: Rule -> id -> decision.
    settings: Thresholds.

  Returns:
    For results.json: 'errors', 'certain' and 'uncertain', counts; 'refused':
    rule -> 'certain' and 'uncertain', the share of such errors that the rule
    refuses, with Wilson's interval.
  """
  kinds = {'certain': [], 'uncertain': []}
  for score in filter(is_error, scores):
    sure = agreement(score) >= settings.consistent_min
    kinds['certain' if sure else 'uncertain'].append(score.id)
  counts = {kind: len(ids) for kind, ids in kinds.items()}

  def refused(made, ids):
    return wilson(sum(made[id] == 'refuse' for id in ids), len(ids)).to_dict()

  return {
    'errors': sum(counts.values()),
    **counts,
    'refused': {
      rule: {kind: refused(made, ids) for kind, ids in kinds.items()}
      for rule, made in decisions.items()
    },
  }


def _llama3(score: Score, settings: RuleSettings) -> Decision:
  """Returns the table of this project's specification, section 3.3."""
  n = score.n
  right = sum(v.correct for v in score.samples) / n
  wrong = sum(v.informative and not v.correct for v in score.samples) / n
  declines = sum(v.refusal for v in score.samples) / n
  if wrong >= settings.consistent_min and right <= settings.unknown_max:
    return 'refuse'
  if right >= settings.known_min and is_right(score):
    return 'answer'
  if declines >= settings.consistent_min:
    return 'refuse_keep'
  return 'unsure' if 0 < right < settings.known_min else 'drop'


def _craft(scores, settings, rehearsed) -> dict[str, Decision]:
  """Certain and right is answered, uncertain and wrong is refused.

  Certainty is compared with its median among the right or among the wrong
  questions; the median itself counts as certain among the former, and as
  uncertain among the latter unless all samples agree.
  """
  if rehearsed is not None:
    missing = [
      s.id for s in scores if not is_right(s) and s.id not in rehearsed
    ]
    if missing:
      raise ValueError(
        f'{len(missing)} questions were not asked again after the rehearsal, '
        f'such as {missing[0]!r}. CRaFT needs all that were answered wrongly.'
      )
  medians = {}
  for right in (True, False):
    found = [certainty(s) for s in scores if is_right(s) == right]
    medians[right] = float(np.median(found)) if found else math.nan
  decisions = {}
  for score in scores:
    sure, right = certainty(score), is_right(score)
    kept = sure >= medians[True] if right else sure <= medians[False]
    if not right:
      kept &= sure < 1
      if rehearsed is not None:
        rise = rehearsed[score.id] - score.p_correct
        # Shares such as .3 - .2 are rounded, so that they are not above .1.
        kept &= round(rise, 9) <= settings.rise_max
    made = 'answer' if right else 'refuse'
    decisions[score.id] = made if kept else 'drop'
  return decisions


def _check(rule: str, scores: Sequence[Score]):
  if rule not in RULES:
    raise ValueError(f'The rule is {rule!r}, expected one of {RULES}.')
  for score in scores:
    if not score.n or not score.greedy:
      raise ValueError(
        f'Question {score.id!r} has {score.n} samples and '
        f'{len(score.greedy)} greedy answers; a rule needs both. Sample it '
        'again.'
      )
