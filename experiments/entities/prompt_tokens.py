"""Token ids of prompts, and which tokens spell the entity.

A name is always ordinary text: one that has '<bos>' in it adds no special
token, and every sequence starts with exactly one BOS.
"""

from collections.abc import Sequence
import dataclasses

from experiments.entities.entity_prompts import Prompt
import gemma_jax as gj

# Unicode noncharacters, put around a name to see where a chat template has it.
_MARKS = '\ufdd2\ufdd3'


@dataclasses.dataclass(frozen=True)
class PromptTokens:
  """Holds what a model reads.

  Attributes:
    text: All of it; a chat's template and the answer's beginning included.
    ids: Token ids, BOS first.
    entity: Tokens [start, stop) that spell any character of the entity's name.
  """

  text: str
  ids: Sequence[int]
  entity: tuple[int, int]


def tokenize_prompt(
  tokenizer: gj.Tokenizer,
  prompt: Prompt,
  *,
  chat: bool = False,
  stub: str = '',
) -> PromptTokens:
  """Token ids of a prompt.

  Args:
    tokenizer: The model's.
    prompt: A whole text, or what a user says.
    chat: The latter: it is put into the model's chat template, up to where the
      model's turn opens.
    stub: Beginning of the answer; its tokens follow the prompt's.

  Raises:
    ValueError: the tokenizer cannot encode the text, or the chat template
      changes it so that the entity is not found.
  """
  if chat:
    encoding = tokenizer.tokenize_chat(prompt.text, parse_special=False)
    start, stop = _place_in_chat(tokenizer, prompt, encoding.text)
  else:
    encoding = tokenizer.tokenize(prompt.text, parse_special=False)
    start, stop = prompt.entity
  ids = list(encoding.ids)
  if stub:
    ids += tokenizer.encode(stub, bos=False, parse_special=False)
  return PromptTokens(
    encoding.text + stub, ids, encoding.token_span(start, stop)
  )


def _place_in_chat(tokenizer, prompt, rendered) -> tuple[int, int]:
  """Returns the entity's characters in the rendered chat."""
  start, stop = prompt.entity
  opening, closing = _MARKS
  marked = tokenizer.chat_text(
    prompt.text[:start]
    + opening
    + prompt.text[start:stop]
    + closing
    + prompt.text[stop:]
  )
  before, *between = marked.split(opening)
  name, *after = ''.join(between).split(closing)
  if (
    (len(between), len(after)) != (1, 1)
    or name != prompt.name
    or before + name + ''.join(after) != rendered
  ):
    raise ValueError(
      f'The chat template does not take over {prompt.text!r} as it is, so that '
      f'{prompt.name!r} cannot be found in it. Do texts start or end with '
      'white space, or hold the noncharacters U+FDD2 and U+FDD3?'
    )
  return len(before), len(before) + len(name)
