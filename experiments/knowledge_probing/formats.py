"""How a question is put to a model, and how its answer ends: three formats.

  chat   the model's own chat template; the answer ends with its turn
  qa     'Question: ...' and 'Answer:' on two lines; a line break ends it
  bare   the question, then the answer; the end of the text ends it

Probing, training and asking again use the same format, so that a tuned model
meets the prompts that it was tuned on.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Literal

import gemma_jax as gj

Name = Literal['chat', 'qa', 'bare']
NAMES: tuple[Name, ...] = ('chat', 'qa', 'bare')
# What the prompted arm is told, written for this project.
ADMIT = 'If you do not know the answer, say "I do not know."'

Shot = tuple[str, str]  # a question and its answer


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Format:
  """Questions and answers as tokens.

  Attributes:
    name: One of NAMES.
    tokenizer: The model's.
    instruction: Said before every question, such as ADMIT; '' is nothing.
  """

  name: Name
  tokenizer: gj.Tokenizer
  instruction: str = ''

  def __post_init__(self):
    if self.name not in NAMES:
      raise ValueError(f'The format is {self.name!r}, expected one of {NAMES}.')
    if self.name == 'chat':
      self._check_template()
    if self.name == 'bare' and self.tokenizer.eos_id is None:
      raise ValueError(
        "The tokenizer has no token that ends a text, which the format 'bare' "
        'ends answers with. Use --format=qa.'
      )

  def prompt_text(self, question: str, shots: Sequence[Shot] = ()) -> str:
    """Returns the prompt as text, up to where the answer begins."""
    if self.name == 'chat':
      return self.tokenizer.chat_text(self._turns(question, shots))
    told = f'{self.instruction}\n' if self.instruction else ''
    if self.name == 'qa':
      before = ''.join(f'Question: {q}\nAnswer: {a}\n\n' for q, a in shots)
      return f'{told}{before}Question: {question}\nAnswer:'
    before = ''.join(f'{q} {a}\n' for q, a in shots)
    return f'{told}{before}{question}'

  def prompt_ids(self, question: str, shots: Sequence[Shot] = ()) -> list[int]:
    """Token ids of a prompt, BOS included where the model has one."""
    if self.name == 'chat':
      turns = self._turns(question, shots)
      return list(self.tokenizer.tokenize_chat(turns, parse_special=False).ids)
    text = self.prompt_text(question, shots)
    return self.tokenizer.encode(text, parse_special=False)

  def answer_text(self, answer: str) -> str:
    """Returns what follows a prompt, its end included, as text."""
    if self.name == 'chat':
      return answer + self._end_of_turn
    return f' {answer}\n' if self.name == 'qa' else f' {answer}'

  def answer_ids(self, answer: str) -> list[int]:
    """Token ids of an answer after a prompt, with the token that ends it."""
    encode = functools.partial(
      self.tokenizer.encode, bos=False, parse_special=False
    )
    if self.name == 'chat':
      return [*encode(answer), self.tokenizer.end_of_turn_id]
    if self.name == 'qa':
      return encode(f' {answer}\n')
    return [*encode(f' {answer}'), self.tokenizer.eos_id]

  @property
  def stops_at_line_break(self) -> bool:
    """Returns True if a line break ends an answer."""
    return self.name == 'qa'

  @property
  def ends(self) -> frozenset[int]:
    """Tokens that end an answer, besides line breaks in 'qa'."""
    return frozenset(self.tokenizer.stop_ids)

  def _turns(self, question, shots) -> list[dict[str, str]]:
    told = f'{self.instruction}\n' if self.instruction else ''
    turns = []
    for asked, answer in shots:
      turns.append({'role': 'user', 'content': told + asked})
      turns.append({'role': 'assistant', 'content': answer})
    return [*turns, {'role': 'user', 'content': told + question}]

  @functools.cached_property
  def _end_of_turn(self) -> str:
    return self.tokenizer.token_strings([self.tokenizer.end_of_turn_id])[0]

  def _check_template(self):
    """Raises ValueError unless a chat with an answer extends its prompt."""
    turns = self._turns('Who?', ())
    said = {'role': 'assistant', 'content': 'Nobody'}
    whole = self.tokenizer.chat_text([*turns, said], generation_prompt=False)
    wanted = f'{self.tokenizer.chat_text(turns)}Nobody{self._end_of_turn}'
    if not whole.startswith(wanted):
      raise ValueError(
        f'The chat template hides the completion: a chat with an answer is '
        f'{whole!r}, expected it to begin with {wanted!r}. Use --format=qa, or '
        'mend the template.'
      )
