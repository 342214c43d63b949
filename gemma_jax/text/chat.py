"""Chats as text: templates that models bring along, and Gemma 2's own format.

A chat is a list of messages {'role': 'user' | 'assistant', 'content': text}.
Its text ends, for a model that is to answer, with the opening of its turn. In
Gemma 2's format:

  <bos><start_of_turn>user
  Who wrote Emma?<end_of_turn>
  <start_of_turn>model
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
import re
from typing import Any

from gemma_jax.text.spans import quote
from gemma_jax.text.templates import compile_template

START_OF_TURN, END_OF_TURN = '<start_of_turn>', '<end_of_turn>'
Messages = str | Sequence[Mapping[str, str]]

# The templates that HF chooses from, and the files that hold one each.
TEMPLATE_FILES = {
  'default': 'chat_template.jinja',
  'tool_use': 'additional_chat_templates/tool_use.jinja',
}

# An answer that no template contains.
_ANSWER = 'zqxj'
# Unicode noncharacters, put around special tokens that a content spells out.
_MARKS = '\ufdd0\ufdd1'


def parse_messages(messages: Messages) -> list[dict[str, str]]:
  """Messages as dictionaries; a text alone is one user turn.

  As in HF, what is None is left out, and a message's reasoning has every name
  that templates know it by.

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
  return [_known_names(message) for message in messages]


def _known_names(message):
  message = {key: value for key, value in message.items() if value is not None}
  for name in ('reasoning_content', 'thinking', 'reasoning'):
    if name in message:
      said = message[name]
      return {'thinking': said, **message, 'reasoning_content': said}
  return message


def gemma2_chat(
  messages: Sequence[Mapping[str, str]], add_generation_prompt: bool, bos: str
) -> str:
  """Returns the text of a chat in Gemma 2's format.

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
  """Says how a model writes chats: by its template, or as Gemma 2 does."""

  def __init__(
    self,
    templates: Mapping[str, tuple[str, str]],
    names: Mapping[str, str],
    specials: Collection[str],
    origin: str,
  ):
    """Compiles the templates, if there are any.

    Args:
      templates: Jinja sources and the files that they are in, by name:
        'default', and 'tool_use' if chats with tools have their own.
      names: The special tokens by the names that a template knows:
        `bos_token`, ...
      specials: All special tokens.
      origin: The model's name for error messages.

    Raises:
      ValueError: a template is not Jinja.
    """
    self._renders = {
      name: compile_template(*template) for name, template in templates.items()
    }
    self._names, self._specials, self._origin = names, specials, origin

  def text(
    self,
    messages: Messages,
    generation_prompt: bool,
    variables: Mapping[str, Any] | None = None,
  ) -> str:
    """Returns a chat as text: see `Tokenizer.chat_text`."""
    messages = parse_messages(messages)
    if self._renders:
      with_tools = (variables or {}).get('tools') is not None
      name = 'tool_use' if with_tools else 'default'
      return self._renders.get(name, self._renders['default'])(
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
  """Returns the messages, with marks around the special tokens in their
  contents.

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
  """Returns the pieces of a chat; those at odd indices were marked."""
  return re.split(f'[{_MARKS}]', text)


def read_templates(
  config: Mapping[str, Any], given: Mapping[str, str], origin: str
) -> dict[str, tuple[str, str]]:
  """Returns the chat templates of a model, and the file that each of them is
  in.

  Args:
    config: Content of tokenizer_config.json.
    given: Name -> Jinja source; they replace what `config` has.
    origin: The model's name.

  Returns:
    Name -> Jinja source and file: 'default' and, where there is one,
    'tool_use', as HF chooses among them.

  Raises:
    ValueError: the templates are no texts with names, two have one name, or
      there are some but none is named 'default'.
  """
  source = f'{origin}/tokenizer_config.json'
  listed = config.get('chat_template')
  if given:
    found = {
      name: (template, f'{origin}/{TEMPLATE_FILES[name]}')
      for name, template in given.items()
    }
  elif listed is None:
    return {}
  elif isinstance(listed, str):
    found = {'default': (listed, source)}
  else:
    found = {}
    for entry in listed if isinstance(listed, list) else [listed]:
      entry = entry if isinstance(entry, Mapping) else {'name': entry}
      name, template = entry.get('name'), entry.get('template')
      if not isinstance(name, str) or not isinstance(template, str):
        raise ValueError(
          f'{source}: chat_template holds {quote(str(entry))}, expected a '
          "text, or a list of objects with a 'name' and a 'template' that are "
          'texts.'
        )
      if name in found:
        raise ValueError(f'{source} has two chat templates named {name!r}.')
      found[name] = template, source
  if 'default' not in found:
    raise ValueError(
      f'{source}: of the chat templates {sorted(found)}, none is named '
      "'default'."
    )
  return {name: found[name] for name in TEMPLATE_FILES if name in found}
