"""Why words that are a right answer are not given as the answer.

They are denied, offered as a choice, repeated from the question, or another
answer is named as well. Texts are words, and stretches of them [start, stop).
"""

from experiments.entities.name_matching import occurrences
from experiments.knowledge_probing.keys import Key, has_digit
from experiments.knowledge_probing.normalising import STOP_WORDS, Words

# Shorter answers must be all that is said, or be meant for sure.
SHORTEST = 2
NOT = frozenset(
  """not isnt wasnt arent werent never neither nor except unlike cannot cant
  doesnt didnt doubt mistaken confused""".split()
)
_ISNT = frozenset(
  """isnt wasnt arent werent never cannot cant doesnt didnt wouldnt couldnt
  hasnt""".split()
)
_IS = frozenset('is was are were did does has had would could can will'.split())
_FALSE = frozenset('not never wrong incorrect false'.split())
# What a right answer after it takes back, or one before it only adds to.
_BUT = frozenset('but actually however rather instead'.split())
_WHILE = frozenset('while although though whereas despite'.split())
# What stands before another candidate that is only compared or related.
_RELATING = frozenset(
  """than of near from with like unlike after before over succeeded replaced
  beat defeated""".split()
)


def guard(key: Key, said: Words, start: int, stop: int) -> str:
  """Why the words from start to stop are not given as the answer; or ''."""
  if _is_denied(said, start, stop):
    return 'denied'
  before, after = said[:start], said[stop:]
  if after[:1] == ('or',) and not _begins(key, after[1:]):
    return 'a choice of answers'
  if before[-1:] == ('or',) and not _ends(key, before[:-1]):
    return 'a choice of answers'
  if before[-1:] == ('between',) and has_digit(said[start]):
    return 'a range'
  if _is_echo(key, said, start, stop):
    return 'only repeats the question'
  return ''


def _begins(key, said) -> bool:
  return any(said[: len(name)] == name for name in key.forms)


def _ends(key, said) -> bool:
  return any(said[-len(name) :] == name for name in key.forms)


def rival_of(key: Key, said: Words, own: list[tuple[int, int]]) -> str:
  """Names another candidate that stands outside the right answers; or ''.

  Not one that is denied, that belongs to a phrase of the question, that the
  right answer is compared with, or that the question names, unless the question
  names the right answer too: then it is a choice.
  """
  first = min(own, default=(len(said), len(said)))
  for start in range(len(said)):
    for stop in range(start + 1, min(start + key.longest, len(said)) + 1):
      name = key.others.get(said[start:stop])
      if name is None or len(' '.join(said[start:stop])) < SHORTEST:
        continue
      if any(a <= start and stop <= b for a, b in own):
        continue
      named = occurrences(said[start:stop], key.asked) and not key.is_choice
      if not (
        named
        or _is_aside(said, start, stop, first)
        or _is_denied(said, start, stop)
        or _is_echo(key, said, start, stop)
      ):
        return f'another answer, {name!r}'
  return ''


def _is_aside(said, start, stop, first) -> bool:
  """Returns True if words from start to stop are only compared with an answer.

  `first` is where the right answer first stands. 'Oslo, which is smaller than
  Bergen'; 'Bergen is larger, but it is Oslo'; 'while Bergen is larger'.
  """
  if start >= first[1] and said[start - 1] in _RELATING:
    return True
  if stop <= first[0] and _BUT & set(said[stop : first[0]]):
    return True
  return bool(_WHILE & set(said[max(start - 3, 0) : start]))


def own_spans(key: Key, said: Words) -> list[tuple[int, int]]:
  """Returns where right answers stand."""
  return [
    (start, start + len(name))
    for name in key.forms
    for start in occurrences(name, said)
  ]


def _is_denied(said, start, stop) -> bool:
  """'not in Paris', or 'Paris is not'; 'not Lyon but Paris' is neither."""
  before = start - 1
  while before >= 0 and said[before] in STOP_WORDS and said[before] != 'but':
    before -= 1
  if before >= 0 and said[before] in NOT:
    return True
  if said[max(start - 2, 0) : start] in (('rather', 'than'), ('instead', 'of')):
    return True
  after = [word for word in said[stop : stop + 3] if word != 'be']
  return bool(after) and (
    after[0] in _ISNT or (after[0] in _IS and bool(_FALSE & set(after[1:2])))
  )


def _is_echo(key, said, start, stop) -> bool:
  """Returns True if the words belong to a longer phrase of the question."""
  a, b = start, stop
  while a > 0 and occurrences(said[a - 1 : b], key.asked):
    a -= 1
  while b < len(said) and occurrences(said[a : b + 1], key.asked):
    b += 1
  return bool({*said[a:start], *said[stop:b]} - STOP_WORDS)
