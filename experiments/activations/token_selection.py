"""Which token of a prompt is read.

entity   the last token of the prompt's entity, by its characters
random   the last token of a word drawn uniformly from those in the window
model    the token `model` that opens the model's turn of a chat
last     the last token
...      any other text: the last token of its first occurrence. Write
         'substring:last' for a word that is a choice itself
"""

from collections.abc import Callable
import dataclasses
import hashlib
import json
import re

import gemma_jax as gj

CHOICES = ('entity', 'random', 'model', 'last')
SUBSTRING = 'substring:'
DENOMINATORS = ('valid_positions', 'all_documents')

# Why a prompt is not read.
TRUNCATED = 'truncated: the token lies outside the window'
NO_ENTITY = 'no entity is marked in the prompt'
NO_WORD = 'no word lies inside the window'
NO_MODEL_TURN = "the model's turn is not opened"
NO_SUBSTRING = 'the substring does not occur'
NO_TOKEN = 'no token spells it'

# Holds the place of the user's words in a template: a noncharacter.
_PLACE = '\ufdd0'
_WORD = re.compile(r'\S+')


class SkippedPrompt(Exception):
  """Why a prompt is not read: one of the reasons above."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """A prompt's tokens, and what is where in its text.

  Attributes:
    id: Id of the prompt.
    encoding: Text and tokens.
    words: Characters [start, stop) that are the prompt's, not a template's.
    entity: Characters of the entity, or None.
  """

  id: str
  encoding: gj.Encoding
  words: tuple[int, int]
  entity: tuple[int, int] | None


def make_reader(
  tokenizer: gj.Tokenizer, chat: bool, **options
) -> Callable[..., Source]:
  """Returns the function that turns a prompt and its id into a Source.

  Args:
    tokenizer: Tokenizer of the model.
    chat: True if prompts are what the user says in a chat, whose text then ends
      with the opening of the model's turn.
    **options: Options of `Tokenizer.tokenize`.
  """
  if not chat:

    def read_text(prompt, name):
      text, entity = _text_and_entity(prompt)
      return Source(
        id=name,
        encoding=tokenizer.tokenize(text, **options),
        words=(0, len(text)),
        entity=entity,
      )

    return read_text

  head, _, tail = tokenizer.chat_text(_PLACE).partition(_PLACE)

  def read_chat(prompt, name):
    given, entity = _text_and_entity(prompt)
    encoding = tokenizer.tokenize_chat(given, **options)
    said = given.strip()  # as templates do
    if encoding.text != head + said + tail:
      raise ValueError(
        'The chat template changes what the user says, so that it is not '
        f'known where the entity is: {said!r} became {encoding.text!r}.'
      )
    if entity is not None:
      shift = len(head) - (len(given) - len(given.lstrip()))
      entity = entity[0] + shift, entity[1] + shift
    return Source(
      id=name,
      encoding=encoding,
      words=(len(head), len(head) + len(said)),
      entity=entity,
    )

  return read_chat


def make_finder(
  tokenizer: gj.Tokenizer,
  tokens: str,
  *,
  seed: int,
  pile_denominator: str,
) -> Callable[[Source], int]:
  """Returns the function that finds the position to read, or raises Unread.

  Raises:
    ValueError: `tokens` or `pile_denominator` is no choice.
  """
  if not tokens or tokens == SUBSTRING:
    raise ValueError(
      f'tokens is {tokens!r}; expected one of {", ".join(CHOICES)}, or a text '
      'to look for.'
    )
  if pile_denominator not in DENOMINATORS:
    raise ValueError(
      f'pile_denominator is {pile_denominator!r}, expected one of '
      f'{DENOMINATORS}.'
    )
  if tokens == 'entity':
    return _entity
  if tokens == 'last':
    return _last
  if tokens == 'random':
    if pile_denominator == 'all_documents':
      return lambda source: _any_word(source, seed, tokenizer)
    return lambda source: _word_in_window(source, seed)
  if tokens == 'model':
    opening = _opening_of_turn(tokenizer)
    return lambda source: _model(source, opening)
  wanted = tokens.removeprefix(SUBSTRING)
  return lambda source: _substring(source, wanted)


def draw(seed: int, purpose: str, name: str, count: int) -> int:
  """Returns a number below `count` that depends on the arguments alone."""
  key = json.dumps([seed, purpose, name]).encode()
  return int.from_bytes(hashlib.sha256(key).digest()) % count


def _text_and_entity(prompt) -> tuple[str, tuple[int, int] | None]:
  """Returns a prompt's text and the characters of its entity, checked."""
  if isinstance(prompt, str):
    return prompt, None
  if prompt.entity is not None:
    start, stop = prompt.entity
    if not 0 <= start < stop <= len(prompt.text):
      raise ValueError(
        f'The entity has characters [{start}, {stop}) of {prompt.text!r}, '
        f'which has {len(prompt.text)}.'
      )
  return prompt.text, prompt.entity


def _last_token(source: Source, characters: tuple[int, int]) -> int:
  """Returns the last token that spells any of some characters."""
  try:
    return source.encoding.token_span(*characters)[1] - 1
  except gj.TruncationError as error:
    raise SkippedPrompt(TRUNCATED) from error
  except ValueError as error:
    raise SkippedPrompt(NO_TOKEN) from error


def _entity(source: Source) -> int:
  if source.entity is None:
    raise SkippedPrompt(NO_ENTITY)
  return _last_token(source, source.entity)


def _last(source: Source) -> int:
  encoding = source.encoding
  if encoding.kept < len(encoding.text):
    raise SkippedPrompt(TRUNCATED)
  if len(encoding.ids) < 2:
    raise SkippedPrompt(NO_TOKEN)
  return len(encoding.ids) - 1


def _word_in_window(source: Source, seed: int) -> int:
  """Returns a word that lies wholly inside the window and is no part of BOS."""
  encoding = source.encoding
  start, stop = source.words
  start = max(start, encoding.offsets[0][1])
  words = [
    match.span()
    for match in _WORD.finditer(encoding.text, start, stop)
    if match.end() <= encoding.kept
  ]
  if not words:
    raise SkippedPrompt(NO_WORD)
  return _last_token(
    source, words[draw(seed, 'random word', source.id, len(words))]
  )


def _any_word(source: Source, seed: int, tokenizer: gj.Tokenizer) -> int:
  """Returns the first occurrence, as published, of any word of the text."""
  words = source.encoding.text[slice(*source.words)].split()
  if not words:
    raise SkippedPrompt(NO_WORD)
  word = words[draw(seed, 'random word', source.id, len(words))]
  try:
    return tokenizer.find_span(source.encoding, word, rule='paper')[1] - 1
  except ValueError as error:
    raise SkippedPrompt(NO_WORD) from error


def _opening_of_turn(tokenizer: gj.Tokenizer) -> str:
  """Returns what opens the model's turn in a chat."""
  closed = tokenizer.chat_text(_PLACE, generation_prompt=False)
  opening = tokenizer.chat_text(_PLACE)[len(closed) :]
  if 'model' not in opening:
    raise ValueError(
      f"The chat template opens the model's turn with {opening!r}, without "
      "the word 'model'. Read the last token: tokens='last'."
    )
  return opening


def _model(source: Source, opening: str) -> int:
  start = source.encoding.text.rfind(opening)
  if start < 0:
    raise SkippedPrompt(NO_MODEL_TURN)
  start += opening.rindex('model')
  return _last_token(source, (start, start + len('model')))


def _substring(source: Source, wanted: str) -> int:
  start = source.encoding.text.find(wanted, *source.words)
  if start < 0:
    raise SkippedPrompt(NO_SUBSTRING)
  return _last_token(source, (start, start + len(wanted)))
