"""A published number beside ours."""

from collections.abc import Mapping
import dataclasses
import math

from experiments.paper.claims import Claim
from experiments.paper.finding import find

INSIDE, OUTSIDE = 'inside', 'outside'
UNJUDGED, MISSING = 'no interval', 'missing'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
  """One row of the table.

  Attributes:
    claim: What was published.
    verdict: INSIDE; OUTSIDE; UNJUDGED, if neither side has an interval;
      MISSING.
    value: Our number, in the published unit; None if it is missing.
    low: Lower bound of its interval, if it has one.
    high: Upper bound of its interval.
    n: Size of the sample it was computed from, if known.
    why: Why it is missing, if it is.
  """

  claim: Claim
  verdict: str
  value: float | str | None = None
  low: float | None = None
  high: float | None = None
  n: int | None = None
  why: str = ''

  def to_dict(self) -> dict:
    """Returns what results.json has."""
    fields = dataclasses.asdict(self)
    return {**fields.pop('claim'), 'ours': fields}


def compare(
  claim: Claim,
  results: Mapping[str, Mapping],
  why: Mapping[str, str] | None = None,
) -> Compared:
  """Finds ours, and judges.

  A text is inside if it is the same. A claim with bounds has ours inside if its
  value is within them. One without has it inside if the published number is
  within our interval.

  Args:
    claim: What was published.
    results: Binary -> its results.json; those that did not run are absent.
    why: Binary -> why its results are absent.
  """
  if not claim.experiment:
    return Compared(claim=claim, verdict=MISSING, why=claim.note)
  if claim.experiment not in results:
    said = (why or {}).get(claim.experiment, 'has not run')
    return Compared(
      claim=claim, verdict=MISSING, why=f'{claim.experiment} {said}'
    )
  try:
    found = find(results[claim.experiment], claim.at)
  except KeyError as error:
    return Compared(claim=claim, verdict=MISSING, why=str(error.args[0]))
  if isinstance(found, str):
    same = found == claim.published
    return Compared(
      claim=claim, verdict=INSIDE if same else OUTSIDE, value=found
    )
  ours = _numbers(found, claim.scale)
  if ours is None:
    why = f'{claim.at} is {found!r}, which is no number'
    return Compared(claim=claim, verdict=MISSING, why=why)
  return Compared(claim=claim, verdict=_judged(claim, ours), **ours)


def _numbers(found, scale: float) -> dict | None:
  """Returns value, low, high and n of an estimate; None if it is none."""
  if not isinstance(found, Mapping):
    found = {'value': found}
  value = found.get('value')
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    return None
  if not math.isfinite(value):
    return None
  bounds = [found.get(name) for name in ('low', 'high')]
  scaled = [None if each is None else scale * each for each in bounds]
  if scale < 0:
    scaled.reverse()
  return {
    'value': scale * value,
    'low': scaled[0],
    'high': scaled[1],
    'n': found.get('n'),
  }


def _judged(claim: Claim, ours: Mapping) -> str:
  if claim.low is not None or claim.high is not None:
    low = -math.inf if claim.low is None else claim.low
    high = math.inf if claim.high is None else claim.high
    return INSIDE if low <= ours['value'] <= high else OUTSIDE
  if ours['low'] is None or ours['high'] is None:
    return UNJUDGED
  within = ours['low'] <= claim.published <= ours['high']
  return INSIDE if within else OUTSIDE
