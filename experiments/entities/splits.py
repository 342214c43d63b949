"""Train, validation and test: 50, 10 and 40 %, always the same for a seed."""

from collections.abc import Sequence
import dataclasses
from typing import Generic, TypeVar

from sklearn.model_selection import train_test_split

T = TypeVar('T')
# With fewer, validation is empty.
SMALLEST = 9


@dataclasses.dataclass(frozen=True)
class Split(Generic[T]):
  """Three parts of a list; directions are chosen on `train` alone."""

  train: list[T]
  validation: list[T]
  test: list[T]


def split(items: Sequence[T], seed: int = 42, what: str = 'items') -> Split[T]:
  """Splits as arXiv 2411.14257 does: in halves, then one half in 20 and 80 %.

  Args:
    items: What to split; the result depends on their order.
    seed: The paper's is 42.
    what: Names them in the error: 'known players'.

  Raises:
    ValueError: there are fewer than SMALLEST.
  """
  if len(items) < SMALLEST:
    raise ValueError(
      f'{len(items)} {what} cannot be split into train, validation and test: '
      f'at least {SMALLEST} are needed. Add entities, or leave this type out.'
    )
  items = list(items)
  train, rest = train_test_split(items, test_size=0.5, random_state=seed)
  validation, test = train_test_split(rest, test_size=0.8, random_state=seed)
  return Split(train, validation, test)
