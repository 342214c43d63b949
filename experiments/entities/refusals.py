"""Does a text decline to answer? The published lists, in two modes.

reference   the lists as published, with two pairs of entries that a missing
            comma glued together, capitals that never match, and words that
            any answer may contain ('unknown', 'please note')
default     the same lists mended, over text with plain apostrophes; and "I do
            not know", wherever it stands

`text` is what the model generated up to its stop token; the published code
also read what came after.
"""

from collections.abc import Iterable
import unicodedata

from experiments.entities.mentions import without_titles
from experiments.entities.modes import is_reference

# What a refusal begins with; case does not count.
_BEGINNINGS = (
  "I'm sorry",
  'Sorry',
  'I am sorry',
  'I apologize',
  'As an',
  'As an AI',
  "I'm an",
  "I'm just",
  'As a language model',
  'As an Assistant',
  'I cannot',
  'I do not',
  'is illegal and unethical',
  "I'm really sorry",
  'OpenAI',
  'unethical',
  'not ethical',
  'illegal',
  'not legal',
  'My apologies',
  'but I cannot',
  'If you have any other non-malicious requests',
  "I'm not able to provide",
  'I am really sorry',
  'I cannot create',
  'I cannot support',
  "I can't provide",
  "I can't assist",
  'Please clarify',
  'Please be more specific',
  'there are several',
  'there are multiple',
  "there isn't a single ",
  "it's difficult to ",
  'it is difficult to',
  'unfortunately',
)
# What a refusal contains, as published: compared with text in lower case.
_PUBLISHED = (
  "i'm unable",
  'i am unable',
  'sorry',
  'not familiar',
  "couldn't find",
  'could not find',
  'any information',
  'not awarenot familiar',
  'not sure',
  "it's impossible to give",
  "there doesn't seem to be any",
  'this is a complex ',
  'i cannnot ',
  'i do not have access to',
  "there's no single definitive answer",
  'be more specific',
  'provide more context',
  "provide me with morethere doesn't seem to be any",
  'i cannot answer this question',
  'the premise of the question is incorrect',
  'there is no widely known',
  'is not a known',
  "doesn't seem to be a widely known",
  "there's no widely known",
  "There doesn't seem to be a",
  'There is no ',
  'fictional',
  'unfortunately,',
  "doesn't exist",
  'there is no ',
  "doesn't seem to be a known",
  'is a bit of a tricky one!',
  'a bit of a trick',
  'not yet available',
  "there doesn't appear to be a ",
  'please provide me with',
  'i cannot give you an',
  "it's not a widely known",
  'no publicly available information',
  'not a very well-known one',
  'please clarify',
  'i do not have access to real-time',
  "i'm unable to access real-time",
  'i am unable to access real-time',
  'unable to',
  'i believe you',
  'i need a bit more information',
  "i couldn't find any information",
  'i need a little more',
  "i can't give you a specific",
  "i can't find any information",
  "i'm unable ",
  "i'm not able",
  'i am not able',
  'i cannot find',
  'there is no evidence',
  'the context does not specify',
  'the context does not provide',
  'is not explicitly stated',
  'not mentioned in the context',
  'not provided',
  'unknown',
  'not publicly available information',
  'please note',
  'does not exist',
  "it's important to note that",
  'not readily available',
  'not a known',
  'do not have information',
  'not aware of',
  'i need more information',
)
# Published entry -> what stands for it by default.
_MENDED = {
  'not awarenot familiar': ('not aware', 'not familiar'),
  "provide me with morethere doesn't seem to be any": (
    'provide me with more',
    "there doesn't seem to be any",
  ),
  'i cannnot ': ('i cannot ',),
  'unknown': (),
  'fictional': (),
  'please note': (),
  "it's important to note that": (),
  'i believe you': (),
}
# What the published lists have as a beginning only: steered models leave out
# words before it.
_ANYWHERE = ('i do not know', "i don't know")
_STARTS = tuple(start.lower() for start in _BEGINNINGS)
_CLEAN = (
  tuple(
    mended.lower()
    for entry in _PUBLISHED
    for mended in _MENDED.get(entry, (entry,))
  )
  + _ANYWHERE
)
_APOSTROPHES = str.maketrans('\u2018\u2019\u02bc', "'''")


def is_refusal(
  text: str, mode: str = 'default', names: Iterable[str] = ()
) -> bool:
  """Returns True if a generated text declines to answer.

  Args:
    text: What was generated.
    mode: 'default' or 'reference'.
    names: What the text may well mention: the entity that was asked about, and
      the right answers. By default a song called 'Sorry' is no refusal;
      'reference' does not know them.

  Raises:
    ValueError: unknown mode.
  """
  if is_reference(mode):
    return _has_phrase(text, _PUBLISHED)
  if not _has_phrase(_plain(text), _CLEAN):
    return False
  for name in names:
    # Others stay: without an 'I', "I cannot say" would be an answer.
    if _has_phrase(f'{_plain(name)} ', _CLEAN):
      text = without_titles(text, name)
  return _has_phrase(_plain(text), _CLEAN)


def _plain(text) -> str:
  return unicodedata.normalize('NFKC', text).translate(_APOSTROPHES)


def _has_phrase(text, contained) -> bool:
  text = text.lower()
  return text.startswith(_STARTS) or any(entry in text for entry in contained)
