"""Chats as text: templates that models bring along, and Gemma 2's own format.

A chat is a list of messages {'role': 'user' | 'assistant', 'content': text}.
Its text ends, for a model that is to answer, with the opening of its turn. In
Gemma 2's format:

  <bos><start_of_turn>user
  Who wrote Emma?<end_of_turn>
  <start_of_turn>model
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import datetime
import json
import re
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.sandbox

from gemma_jax.text.spans import quote

START_OF_TURN, END_OF_TURN = '<start_of_turn>', '<end_of_turn>'
Messages = str | Sequence[Mapping[str, str]]

# An answer that no template contains.
_ANSWER = 'zqxj'
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
    text += f'{START_OF_TURN}{role}\n{message["content"].strip()}'
    text += f'{END_OF_TURN}\n'
  return text + f'{START_OF_TURN}model\n' * add_generation_prompt


class ChatFormat:
  """How a model writes chats: by its own template, else in Gemma 2's format."""

  def __init__(
    self,
    template: str | None,
    names: Mapping[str, str],
    specials: Collection[str],
    origin: str,
  ):
    """Compiles the template, if there is one.

    Args:
      template: Jinja source.
      names: The special tokens by the names that a template knows:
        `bos_token`, ...
      specials: All special tokens.
      origin: The model's name for error messages.

    Raises:
      ValueError: the template is not Jinja.
    """
    self._render = template and compile_template(template, origin)
    self._names, self._specials, self._origin = names, specials, origin

  def text(
    self,
    messages: Messages,
    generation_prompt: bool,
    variables: Mapping[str, Any] | None = None,
  ) -> str:
    """Returns a chat as text: see `Tokenizer.chat_text`."""
    messages = parse_messages(messages)
    if self._render:
      return self._render(
        variables,
        messages=messages,
        add_generation_prompt=generation_prompt,
        **self._names,
      )
    if not {START_OF_TURN, END_OF_TURN} <= set(self._specials):
      raise ValueError(
        f'{self._origin} has no chat template, and no token {END_OF_TURN!r} '
        "for Gemma 2's format. It is probably a base model, which knows no "
        'chats: prompt it with plain text, or take the model tuned for chats.'
      )
    if variables:
      raise ValueError(
        f"Gemma 2's format has no variables, got {sorted(variables)}."
      )
    return gemma2_chat(
      messages, generation_prompt, self._names.get('bos_token', '')
    )

  def end_of_turn(self) -> str | None:
    """Returns the special token that stands right after an answer in a chat.

    White space may come between. It is Gemma's where the template shows none,
    if the vocabulary has it.
    """
    messages = [
      {'role': 'user', 'content': 'Hello'},
      {'role': 'assistant', 'content': _ANSWER},
    ]
    try:
      _, answer, rest = self.text(messages, False).rpartition(_ANSWER)
    except ValueError:
      answer = rest = ''
    ends = [t for t in self._specials if answer and rest.lstrip().startswith(t)]
    usual = END_OF_TURN if END_OF_TURN in self._specials else None
    return max(ends, key=len, default=usual)


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
  literal = literal or '(?!)'  # with no special tokens, nothing is marked
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


class _Generation(jinja2.ext.Extension):
  """Lets a template mark answers by {% generation %}, which writes nothing."""

  tags = {'generation'}

  def parse(self, parser):
    line = next(parser.stream).lineno
    body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
    return jinja2.nodes.Scope(body).set_lineno(line)


def compile_template(source: str, origin: str) -> Callable[..., str]:
  """Returns a function that renders a Jinja template as HF does.

  The function takes `messages`, `add_generation_prompt` and the special
  tokens' names (`bos_token`, ...) by keyword, and first, if wanted, a mapping
  of further variables (`tools`, `documents`, `date_string`, ...). `tools` and
  `documents` are None unless given. It raises ValueError where the template
  refuses the chat, with the template's own words, and if a variable is given
  that the template never reads.

  Args:
    source: The template. It may call `raise_exception` and `strftime_now`
      (today's date: pass `date_string`, where a template reads it, for prompts
      that do not change from day to day), use the `tojson` filter with HF's
      options, break out of loops and mark answers by `generation`.
    origin: The model's name for error messages.

  Raises:
    ValueError: it is not a Jinja template.
  """

  def refuse(message):
    raise jinja2.TemplateError(message)

  def to_json(
    value, ensure_ascii=False, indent=None, separators=None, sort_keys=False
  ):
    return json.dumps(
      value,
      ensure_ascii=ensure_ascii,
      indent=indent,
      separators=separators,
      sort_keys=sort_keys,
    )

  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=['jinja2.ext.loopcontrols', _Generation],
  )
  environment.filters['tojson'] = to_json
  environment.globals['raise_exception'] = refuse
  environment.globals['strftime_now'] = lambda form: (
    datetime.datetime.now().strftime(form)
  )
  try:
    template = environment.from_string(source)
    read = jinja2.meta.find_undeclared_variables(environment.parse(source))
  except jinja2.TemplateError as error:
    raise ValueError(
      f'The chat template of {origin} is not a Jinja template: {error}.'
    ) from error
  read -= {'messages', 'add_generation_prompt', *environment.globals}

  def render(variables=None, /, **given):
    variables = dict(variables or {})
    if unread := sorted(variables.keys() - read):
      raise ValueError(
        f'The chat template of {origin} does not take the variables {unread}; '
        f'it takes {sorted(read)}.'
      )
    known = {'tools': None, 'documents': None, **given, **variables}
    try:
      return template.render(known)
    except (jinja2.TemplateError, TypeError) as error:
      raise ValueError(
        f'The chat template of {origin} refuses this chat: {error}.'
      ) from error

  return render
