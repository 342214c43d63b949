"""Numbers in a text, with the unit that is asked for.

amounts('2 hours and 28 minutes', 'min')      [148.0]
amounts('1,200 ft (366 m)', 'm')              [366.0, 365.76]
amounts('8.3 million as of 2020')             [8300000.0]
years('on August 23, 1978')                   [1978]
"""

import functools
import re

from experiments.entities.letter_folding import fold

ONES = {
  word: i
  for i, word in enumerate(
    'zero one two three four five six seven eight nine ten eleven twelve '
    'thirteen fourteen fifteen sixteen seventeen eighteen nineteen'.split()
  )
}
TENS = {
  word: 10 * i
  for i, word in enumerate(
    'twenty thirty forty fifty sixty seventy eighty ninety'.split(), 2
  )
}
SCALES = {
  'hundred': 10**2,
  'thousand': 10**3,
  'lakh': 10**5,
  'million': 10**6,
  'crore': 10**7,
  'billion': 10**9,
}
MONTHS = (
  'january february march april may june july august september october '
  'november december'
).split()

# Thousands are told apart by commas, also as in India, by spaces, or by points.
_UNSIGNED = (
  r'(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,2}(?:,\d\d)+,\d{3}(?!\d)'
  r'|\d{1,3}(?: \d{3})+(?!\d)|\d{1,3}(?:\.\d{3}){2,}(?!\d)|\d+)(?:\.\d+)?'
)
_DIGITS = rf'(?:(?<!\w)[-+\u2212]|(?<![^\W_])(?<!\d[.,]))(?>{_UNSIGNED})'
_WORDS = (
  rf'(?i:\b(?:(?:{"|".join(TENS)})[\s-](?:{"|".join(list(ONES)[1:10])})'
  rf'|{"|".join([*TENS, *ONES])}|half\ an?|an?)\b)'
)
_SCALE = (
  rf'(?:(?i:{"|".join(SCALES)})s?\b|[KMB]\b|k\b|m(?=\ (?:people|inhabitants)))'
)
# Unit -> what it measures, how much of it, and how it is spelled.
_UNITS = {
  'h': ('time', 60, 'hours?|hrs?|h'),
  'min': ('time', 1, 'minutes?|mins?|m'),
  's': ('time', 1 / 60, 'seconds?|secs?|s'),
  'km': ('length', 1000, r'kilomet(?:er|re)s?|km(?![23]\b)'),
  'm': ('length', 1, r'met(?:er|re)s?|m(?![23]\b)'),
  'cm': ('length', 0.01, 'centimet(?:er|re)s?|cm'),
  'mi': ('length', 1609.344, 'miles?|mi'),
  'ft': ('length', 0.3048, 'feet|foot|ft'),
  'in': ('length', 0.0254, 'inch(?:es)?|in'),
  'kg': ('mass', 1, 'kilogram(?:me)?s?|kilos?|kgs?'),
  'lb': ('mass', 0.45359237, 'pounds?|lbs?'),
  'st': ('mass', 6.35029318, 'stones?'),
}
_GAP = r'[\s-]*'
# A number before these is no count of what is asked for.
_OTHER = (
  rf'(?:(?:{"|".join(v[2] for k, v in _UNITS.items() if k != "in")}|percent'
  r'|inch(?:es)?|per\ cent|square|sq|[kcm]?m[23]|mph|acres?|hectares?|years?'
  r'|months?|weeks?|days?|degrees?|households|families)(?![^\W\d])|[%\u00b0])'
)
# Signs and words after a number that are no unit of a kind.
OTHER_SIGNS = re.compile(r'%|\bper\ ?cent\b|[$\u20ac\u00a3]')
_APPROXIMATELY = re.compile(
  r'^(?:about|approximately|around|roughly|over|nearly|[$\u20ac\u00a3~\s])+'
)
_BELOW = re.compile(r'[\s.]*(?:\([^)]*\)\s*)?below\s+(?:the\s+|mean\s+)*sea')
_JOINED = re.compile(r'[\s,.]*(?:and\s+)?')
_RANGE = re.compile(r'\s*(?:-|\u2013|to|and|or)\s*')
_FEET = re.compile(
  "(\\d)\\s*['\u2019\u2032]\\s*(\\d{1,2}(?!\\d)(?:\\.\\d+)?)"
  '(?:["\u201d\u2033]|[\'\u2019\u2032]{2})?'
)
_ATTACHED = re.compile(r'(?<=\d)(h|hrs?|ft)(?=\d)', re.IGNORECASE)
_DAY_AND_MONTH = re.compile(r'\b\d\d?\.\s?\d\d?\.(?=\s?\d{4}\b)')
_FOUR = r'[12]\d{3}(?![^\W_]|%|[.,]\d)'
_MONTH = '|'.join(f'{m[:3]}(?:{m[3:]})?' for m in MONTHS if m[3:])
_MONTH = rf'(?:{_MONTH}|may|sept)\b\.?'
_DATE = re.compile(
  rf'\b{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\s+{_FOUR})?'
  rf'|\b(?:\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?)?{_MONTH},?\s+{_FOUR}'
  r'|\b\d{4}-\d\d?-\d\d?\b|\b\d\d?([/.-])\d\d?\1\d{4}\b'
  r'|\b(?:in|as of|by|since|from|during|until|year|census of|early|late)'
  rf'(?:\s+the)?(?:\s+year)?[\s-]+(?:mid-)?{_FOUR}(?!\s+(?:people|inhabitants))'
  rf'|\b{_FOUR}\s+(?:\w+\s+)?(?:census|estimates?|data|figures?)\b'
  rf'|\({_FOUR}[^()\d]*\)|\b{_FOUR}\s*:',
  re.IGNORECASE,
)
_YEAR = re.compile(
  rf'(?<![^\W_])(?<![$\u20ac\u00a3#])(?<!\d[.,]){_FOUR}(?!{_GAP}(?:people'
  rf'|inhabitants|residents|copies|times|dollars|{_OTHER})\b)'
)


def amounts(text: str, unit: str = '') -> list[float]:
  """Returns the numbers of a text that may be an answer, the likeliest first.

  Args:
    text: Any.
    unit: What the answer is in: 'min', 'm', 'cm' or 'kg'. Numbers with this
      unit come first, then those with another one of its kind, converted. Where
      there are none, and for '', a count, these are the numbers without a unit:
      without those of dates, unless there is no other.
  """
  text = re.sub('(\\d?)\u00bd', lambda m: f'{m[1] or 0}.5', text)
  text = _ATTACHED.sub(r'\1 ', fold(text))
  found = _measured(_FEET.sub(r'\1 ft \2 inches', text), unit) if unit else []
  undated = _DATE.sub(lambda m: '~' * len(m[0]), text)
  return found or _bare(undated) or _bare(text)


def quantity(text: str) -> tuple[float, str] | None:
  """Returns the number that a text is, and its unit in lower case, if any.

  Lengths are in 'm', times in 'min' and masses in 'kg'. Any other word after
  the number, such as 'players', is no unit: ''. None is another text.
  """
  text = _APPROXIMATELY.sub('', fold(text.strip()))
  if text != text.lower() or not re.match(r'[-+\u2212]?\d|' + _WORDS, text):
    return None
  for unit in ('m', 'min', 'kg'):
    found = _measured(text, unit)
    if found and not _pattern(_UNITS[unit][0]).sub('', text).strip(' .,and'):
      return found[0], unit
  match = _BARE.match(OTHER_SIGNS.sub(' ', text))
  if match and re.fullmatch(r'\W*\w*\W*', text[match.end() :]):
    return round(_value(match['number']) * _scale(match['scale']), 6), ''
  return None


def unit_of(word: str) -> str:
  """Returns 'm', 'min' or 'kg' for the name of a unit of its kind, or ''."""
  base = {'length': 'm', 'time': 'min', 'mass': 'kg'}
  kinds = [
    kind
    for kind, _, spelled in _UNITS.values()
    if len(word) > 1 and re.fullmatch(spelled, word)
  ]
  return base[kinds[0]] if kinds else ''


def years(text: str) -> list[int]:
  """Returns the years of a text in its order: four digits, from 1000 to 2999.

  A number with a unit is none, nor is one with a comma, or '1990s'.
  """
  text = _DAY_AND_MONTH.sub(' ', text)
  return [int(match[0]) for match in _YEAR.finditer(text)]


def _measured(text, unit) -> list[float]:
  """Numbers with a unit of its kind, in `unit`; first those that have it."""
  kind, size, _ = _UNITS[unit]
  found, end, last = [], 0, None
  for match in _pattern(kind).finditer(text):
    name = next(k for k in _UNITS if match.groupdict().get(k))
    value = _value(match['number'])
    if match['to'] and value >= _value(match['to']):
      value = _value(match['to'])  # no range: the first was something else
    value += 0.5 * bool(match['half'] or match['later'])
    value *= _UNITS[name][1] / size
    smaller = last and _UNITS[name][1] < _UNITS[last][1]
    if smaller and _JOINED.fullmatch(text, end, match.start()):
      found[-1] = False, found[-1][1] + value  # 28 minutes after 2 hours
    elif name == 'in' and 'inch' not in match['in'].lower():
      continue  # 'in' Akron
    else:
      found.append((name == unit, value))
    end, last = match.end(), name
    if _BELOW.match(text, end):
      found[-1] = found[-1][0], -abs(found[-1][1])
  return [value for _, value in sorted(found, key=lambda each: not each[0])]


@functools.cache
def _pattern(kind) -> re.Pattern:
  """Returns a number, perhaps a range, with a unit of some kind."""
  units = '|'.join(
    rf'(?P<{name}>(?:{spelled})(?![^\W\d])\.?)'
    for name, (of, _, spelled) in _UNITS.items()
    if of == kind
  )
  number = f'(?:{_DIGITS}|{_WORDS})'
  return re.compile(
    rf'(?P<number>{number})(?:{_RANGE.pattern}(?P<to>{number}))?'
    rf'(?P<half>\s+and\s+a\s+half)?{_GAP}(?:{units})'
    r'(?P<later>\s+and\s+a\s+half\b)?',
    re.IGNORECASE,
  )


_BARE = re.compile(
  rf'(?P<number>{_DIGITS}|{_WORDS}(?=\s+{_SCALE}))'
  rf'(?P<scale>(?>(?:\s*{_SCALE})*))(?!{_GAP}(?i:{_OTHER})|(?i:st|nd|rd|th)\b)'
)


def _bare(text) -> list[float]:
  """Numbers without a unit; '8 to 9 million' begins at 8 million."""
  matches = list(_BARE.finditer(text))
  scales = [_scale(match['scale']) for match in matches]
  for i in reversed(range(len(matches) - 1)):
    between = matches[i].end(), matches[i + 1].start()
    if scales[i] == 1 and _RANGE.fullmatch(text, *between):
      if _value(matches[i]['number']) < 1000:
        scales[i] = scales[i + 1]
  return [
    round(_value(match['number']) * scale, 6)
    for match, scale in zip(matches, scales, strict=True)
  ]


def _value(number) -> float:
  words = re.split(r'[\s-]+', number.lower())
  if words[0].isalpha():
    if words[0] in ('half', 'a', 'an'):
      return 0.5 if words[0] == 'half' else 1.0
    return float(sum(ONES.get(w, 0) + TENS.get(w, 0) for w in words))
  number = re.sub(r'[,\s]', '', number.replace('\u2212', '-'))
  points = number.count('.')
  return float(number.replace('.', '') if points > 1 else number)


def _scale(written) -> int:
  """Returns the product of scales: 'hundred thousand' is 100000."""
  factor = 1
  for word in written.lower().split():
    short = {'k': 'thousand', 'm': 'million', 'b': 'billion'}
    factor *= SCALES[short.get(word, word.removesuffix('s'))]
  return factor
