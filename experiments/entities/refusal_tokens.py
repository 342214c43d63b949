"""Which tokens a model begins its refusals with."""

from collections import Counter
from collections.abc import Sequence


def refusal_tokens(
  first_tokens: Sequence[int], refused: Sequence[bool]
) -> list[int]:
  """Returns the tokens that begin refusals more often than other answers.

  Their probability says how near a model is to declining, where its answer
  says only whether it does.

  Args:
    first_tokens: First token of each answer.
    refused: True where the answer declines.

  Returns:
    Ids, sorted; [] if no answer declines, or refusals begin as other answers
    do.
  """
  counts = Counter(zip(map(int, first_tokens), map(bool, refused), strict=True))
  return sorted(
    token
    for token in {token for token, _ in counts}
    if counts[token, True] > counts[token, False]
  )
