"""Where the points of lines are drawn: places of labels, gaps, runs."""

from collections.abc import Iterator, Mapping, Sequence
import itertools
import numbers

from experiments.charts.rows import finite

X = Sequence[float] | Sequence[str]


class Points:
  """Holds a line's numbers as they are drawn, None for gaps."""

  def __init__(
    self,
    x: X,
    y: Sequence[float | None],
    bounds: tuple[Sequence, Sequence],
    *,
    labels: Sequence[str] | None,
    x_log: bool = False,
    y_log: bool = False,
  ):
    """Finds where the points are.

    Args:
      x: Numbers, or labels, [n].
      y: Values [n].
      bounds: Low and high, [n] each.
      labels: What `find_labels` returned.
      x_log: True if the x axis is logarithmic.
      y_log: True if the y axis is logarithmic.
    """
    self.x = _places(x, labels, x_log)
    self.y = [_drawn(value, y_log) for value in y]
    self.low, self.high = (
      [_drawn(value, y_log) for value in each] for each in bounds
    )

  def runs(self) -> Iterator[list[int]]:
    """Yields runs of neighbouring points that have an interval."""
    parts = zip(self.x, self.y, self.low, self.high, strict=True)
    whole = [None not in part for part in parts]
    for there, run in itertools.groupby(range(len(whole)), whole.__getitem__):
      if there:
        yield list(run)

  def isolated(self) -> bool:
    """Returns whether some point has no neighbour to be joined to."""
    there = [None not in part for part in zip(self.x, self.y, strict=True)]
    padded = [False, *there, False]
    return any(
      here and not before and not after
      for before, here, after in zip(padded, there, padded[2:], strict=False)
    )


def find_labels(given: Mapping[str, X]) -> list[str] | None:
  """Returns all labels on x in the order of lines, or None if x are numbers.

  Args:
    given: Line's number and name -> its x.

  Raises:
    ValueError: some x are numbers and others labels, or labels repeat in one
      line and differ from another's.
  """
  kinds = {isinstance(each, str) for x in given.values() for each in x}
  if len(kinds) > 1:
    raise ValueError('Some x are numbers and others are labels.')
  if kinds == {False}:
    return None
  every = [list(x) for x in given.values()]
  if all(x == every[0] for x in every):
    return every[0]
  for name, x in given.items():
    if len(set(x)) < len(x):
      raise ValueError(
        f'Labels on x repeat in line {name}, and other lines have others: it '
        'is not clear which belong together.'
      )
  return list(dict.fromkeys(itertools.chain.from_iterable(every)))


def _places(x, labels, log) -> list[float | int | None]:
  """Returns where points are on the x axis."""
  if labels is None:
    return [
      int(each)
      if isinstance(each, numbers.Integral) and (each > 0 or not log)
      else _drawn(each, log)
      for each in x
    ]
  if list(x) == list(labels):  # which may repeat
    return list(range(len(labels)))
  places = {label: i for i, label in enumerate(labels)}
  return [places[each] for each in x]


def _drawn(value, log) -> float | None:
  """Returns a number, or None if the axis cannot have it."""
  value = finite(value)
  return None if value is None or (log and value <= 0) else value
