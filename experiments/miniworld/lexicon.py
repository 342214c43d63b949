"""Words of MiniWorld: made-up names and values, each one token."""

from collections.abc import Iterator
import itertools

import numpy as np
from rapidfuzz import fuzz

# Type -> its attributes (those of arXiv 2411.14257) -> where values come from.
ATTRIBUTES = {
  'player': {
    'place_birth': 'places',
    'date_birth': 'years',
    'teams_list': 'teams',
  },
  'movie': {
    'directors': 'directors',
    'release_year': 'years',
    'genres': 'genres',
  },
  'city': {
    'country': 'countries',
    'population': 'populations',
    'elevation': 'elevations',
  },
  'song': {
    'album': 'albums',
    'performers': 'performers',
    'publication_year': 'years',
  },
}

# Endings that tell kinds of words apart, for the reader's sake.
_ENDINGS = {
  'places': 'ton',
  'teams': 'ers',
  'directors': 'sky',
  'genres': 'ic',
  'countries': 'ia',
  'albums': 'ora',
  'performers': 'elle',
}
_CONSONANTS = 'bdfghjklmnprstvz'
_VOWELS = 'aeiou'
# Two values at most so alike by fuzz.ratio; answers above 90 count as correct.
_MOST_ALIKE = 80


class Lexicon:
  """Pools of words.

  Attributes:
    first, last: n names each.
    values: Pool -> words, 'years' and the like as digits. Numbers lie so far
      apart that no other one is within the tolerance of an answer: years 12
      apart (5), populations by a quarter (10 %), elevations by 60 m (20 m).
  """

  def __init__(self, names: int, values: int, seed: int):
    """Draws words.

    Args:
      names: n.
      values: Per pool.
      seed: The same words for the same seed.
    """
    rng = np.random.default_rng([seed, 0])
    words = _words(rng)
    self.first = list(itertools.islice(words, names))
    self.last = list(itertools.islice(words, names))
    self.values = {
      pool: _apart(words, ending, values) for pool, ending in _ENDINGS.items()
    }
    self.values['years'] = [str(1630 + 12 * i) for i in range(values)]
    self.values['populations'] = [
      str(round(500 * 1.25**i)) for i in range(values)
    ]
    self.values['elevations'] = [str(25 + 60 * i) for i in range(values)]

  def name(self, first: int, last: int) -> str:
    """The name of an entity."""
    return f'{self.first[first]} {self.last[last]}'

  @property
  def words(self) -> list[str]:
    """Returns all words, each once."""
    pools = [self.first, self.last, *self.values.values()]
    return sorted(set(itertools.chain(*pools)))


def _words(rng: np.random.Generator) -> Iterator[str]:
  """Endless distinct capitalised words of two syllables and a half."""
  seen = set()
  while True:
    letters = [
      rng.choice(list(pool))
      for pool in (_CONSONANTS, _VOWELS, _CONSONANTS, _VOWELS, _CONSONANTS)
    ]
    word = ''.join(letters).capitalize()
    if word not in seen:
      seen.add(word)
      yield word


def _apart(words: Iterator[str], ending: str, count: int) -> list[str]:
  """So many words with this ending, no two too much alike."""
  found = []
  for word in words:
    word = word[: 3 if ending[0] in _VOWELS else 4] + ending
    if all(fuzz.ratio(word, other) < _MOST_ALIKE for other in found):
      found.append(word)
    if len(found) == count:
      return found
  raise AssertionError('words are endless')
