"""Is a name in a text? By the published measure, and by whole words."""

from collections.abc import Iterable, Sequence
import re

from rapidfuzz import fuzz, utils

from experiments.entities.letter_folding import fold, join_initials

# thefuzz removes these before it compares, 'é' but not 'š'.
_LATIN_1 = dict.fromkeys(range(128, 256))
# Misspelled words have so much in common, by fuzz.ratio.
_ALIKE = 75


def thefuzz_ratio(a: str, b: str) -> int:
  """token_set_ratio of thefuzz with its default processing, 0 to 100.

  It deletes code points 128 to 255, makes a space of what is no letter or
  digit, and ignores case.
  """
  a, b = (utils.default_process(text.translate(_LATIN_1)) for text in (a, b))
  return round(fuzz.token_set_ratio(a, b))


def names_any(
  completion: str, names: Iterable[str], proper: bool = False
) -> bool:
  """Returns True if a completion holds, strictly, one of some names.

  Accents do not count. All of a name's words must follow each other, or
  token_set_ratio be over 90 and each word resemble its own, which lets a long
  name be misspelled. A name of three characters must be written as it is,
  capitals included.

  Args:
    completion: What was said.
    names: Right answers.
    proper: If true, a name of one word with a capital must have one: 'Heart' is
      not in "close to my heart". A text without any capitals is let off.
  """
  said = words_of(completion)
  lower = [word.lower() for word in said]
  cased = proper and completion != completion.lower()
  for name in names:
    words = words_of(name)
    if len(fold(name.strip())) <= 3:
      found = bool(occurrences(words, said))
    else:
      small = [word.lower() for word in words]
      score = fuzz.token_set_ratio(' '.join(small), ' '.join(lower))
      if score == 100:
        found = bool(occurrences(small, lower))
      else:
        found = round(score) > 90 and _resembles(small, lower)
      if found and cased and len(words) == 1 and words[0][0].isupper():
        found = any(
          word[0].isupper() and fuzz.ratio(word.lower(), small[0]) > 90
          for word in said
        )
    if found:
      return True
  return False


def words_of(text: str) -> list[str]:
  """Words without accents; '&' is 'and', 'U.S.' is 'US', '1,000' is '1000'."""
  text = join_initials(fold(text)).replace('&', ' and ')
  text = re.sub(r'(?<=\d),(?=\d{3}(?!\d))', '', text)
  return re.findall(r'[^\W_]+', text)


def occurrences(name: Sequence[str], said: Sequence[str]) -> list[int]:
  """Returns where the words of a name follow each other; [] for no words."""
  if not name or name[0] not in said:
    return []
  size = len(name)
  starts = range(len(said) - size + 1)
  return [i for i in starts if said[i : i + size] == name]


def _resembles(words: list[str], said: list[str]) -> bool:
  """Returns True if as many words in a row are these, but misspelled."""
  size = len(words)
  return any(
    all(map(_is_alike, words, said[i : i + size]))
    for i in range(len(said) - size + 1)
  )


def _is_alike(a: str, b: str) -> bool:
  if a == b:
    return True
  exact = any(re.fullmatch(r'.*\d.*|[ivx]+', word) for word in (a, b))
  return not exact and fuzz.ratio(a, b) >= _ALIKE
