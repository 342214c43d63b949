"""Chats as text: Gemma 2's own format, and templates that models bring along.

A chat is a list of messages {'role': 'user' | 'assistant', 'content': text}.
Its text ends, for a model that is to answer, with the opening of its turn:

  <bos><start_of_turn>user
  Who wrote Emma?<end_of_turn>
  <start_of_turn>model
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import json
import re
from typing import Any

import jinja2
import jinja2.sandbox

from gemma_jax.text.spans import quote

END_OF_TURN = '<end_of_turn>'
Messages = str | Sequence[Mapping[str, str]]

# Unicode noncharacters, put around special tokens that a content spells out.
_MARKS = '\ufdd0\ufdd1'


def parse_messages(messages: Messages) -> list[dict[str, str]]:
  """Messages as dictionaries; a text alone is one user turn.

  Raises:
    ValueError: there are none, or one lacks a role or a content.
  """
  if isinstance(messages, str):
    messages = [{'role': 'user', 'content': messages}]
  if not messages:
    raise ValueError('A chat needs at least one message, got none.')
  for i, message in enumerate(messages):
    known = message if isinstance(message, Mapping) else {}
    if not all(isinstance(known.get(k), str) for k in ('role', 'content')):
      raise ValueError(
        f'Message {i} must have a role and a content that are texts, got '
        f'{message!r}.'
      )
  return [dict(message) for message in messages]


def gemma2_chat(
  messages: Sequence[Mapping[str, str]], add_generation_prompt: bool, bos: str
) -> str:
  """The text of a chat in Gemma 2's format.

  Contents lose white space at both ends; the assistant's role is written
  'model'.

  Raises:
    ValueError: turns do not alternate, starting with the user's. A system role
      is refused: Gemma 2 was not trained with one.
  """
  text = bos
  for i, message in enumerate(messages):
    role = {'assistant': 'model'}.get(message['role'], message['role'])
    if role != ('user', 'model')[i % 2]:
      raise ValueError(
        f'Message {i} has role {message["role"]!r}, expected '
        f'{("user", "assistant")[i % 2]!r}: turns alternate, the user first, '
        'and Gemma 2 has no system role. Put instructions in the first user '
        'turn.'
      )
    text += f'<start_of_turn>{role}\n{message["content"].strip()}'
    text += f'{END_OF_TURN}\n'
  return text + '<start_of_turn>model\n' * add_generation_prompt


def mark(
  messages: Sequence[Mapping[str, str]], specials: Iterable[str]
) -> list[dict[str, str]]:
  """The messages, with marks around the special tokens in their contents.

  In a chat made of them, `split_at_marks` tells the contents' special tokens
  from the template's.

  Raises:
    ValueError: a content has one of the marks already.
  """
  literal = '|'.join(map(re.escape, sorted(specials, key=len, reverse=True)))
  marked = []
  for message in messages:
    content = message['content']
    if set(_MARKS) & set(content):
      raise ValueError(
        'A chat whose special tokens are to be ordinary text may not hold the '
        f'noncharacters U+FDD0 and U+FDD1, got {quote(content)}.'
      )
    content = re.sub(literal, lambda match: match[0].join(_MARKS), content)
    marked.append({**message, 'content': content})
  return marked


def split_at_marks(text: str) -> list[str]:
  """The pieces of a chat; those at odd indices were marked."""
  return re.split(f'[{_MARKS}]', text)


def select_template(config: Mapping[str, Any], origin: str) -> str | None:
  """The chat template in a tokenizer_config.json, if it has one.

  Raises:
    ValueError: it has several, and none is named 'default'.
  """
  template = config.get('chat_template')
  if not isinstance(template, list):
    return template
  named = {entry.get('name'): entry.get('template') for entry in template}
  if 'default' not in named:
    raise ValueError(
      f'{origin} has the chat templates {sorted(map(str, named))}, none of '
      "them named 'default'."
    )
  return named['default']


def compile_template(source: str, origin: str) -> Callable[..., str]:
  """A function that renders a Jinja template, in HF's dialect and sandbox.

  The function takes `messages`, `add_generation_prompt` and the special
  tokens' names (`bos_token`, ...), and raises ValueError with the template's
  own words where it refuses a chat.

  Args:
    source: The template. It may call `raise_exception`, use the `tojson`
      filter, and break out of loops; tools and dates are not offered.
    origin: The model's name for error messages.

  Raises:
    ValueError: it is not a Jinja template.
  """

  def refuse(message):
    raise jinja2.TemplateError(message)

  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=['jinja2.ext.loopcontrols']
  )
  environment.globals['raise_exception'] = refuse
  environment.filters['tojson'] = functools.partial(
    json.dumps, ensure_ascii=False
  )
  try:
    template = environment.from_string(source)
  except jinja2.TemplateError as error:
    raise ValueError(
      f'The chat template of {origin} is not a Jinja template: {error}.'
    ) from error

  def render(**variables):
    try:
      return template.render(**variables)
    except jinja2.TemplateError as error:
      raise ValueError(
        f'The chat template of {origin} refuses this chat: {error}.'
      ) from error

  return render
