"""Plain text, for what a change costs elsewhere and for how common tokens are.

Text is read line by line, so that no more of it is tokenised than is needed,
and tokenizers that join words need not look at all of it at once.
"""

from collections.abc import Iterator
import itertools
import pathlib
import pydoc_data.topics
import re

import numpy as np

from experiments import inputs
from experiments.inputs.token_rows import cut_rows
import gemma_jax as gj

_PYTHON_TEXT = 'documentation of the Python language (pydoc_data.topics)'
# Rows are taken from so many times as much text.
_APART = 32
# A paragraph of prose has so many characters, so large a share of which are
# letters, spaces and the marks of sentences.
_SHORTEST, _PROSE = 80, 0.93
_MARKS = str.maketrans('', '', '"*')
_NOT_PROSE = re.compile(r'::=|>>>|\+--|==|\.\.\. |\| |^(New|Changed) in ')
_PLAIN = re.compile(r'[A-Za-z ,.;:\'()-]')


def default_text() -> str:
  """Returns the prose of Python's language reference, about 150,000 characters.

  Every CPython has it, as `pydoc_data.topics` (PSF licence); its wording
  depends on Python's version. Paragraphs come by topic in alphabetical order,
  each once; grammar, tables, code and headings are left out. It is technical
  prose of one kind: perplexities and frequencies are those of such text, not of
  English. Give another text where that matters.
  """
  topics = pydoc_data.topics.topics
  found = {}  # in order, each once
  for topic in sorted(topics):
    for paragraph in re.split(r'\n\s*\n', topics[topic]):
      whole = re.sub(r'(?<=\w)-\n\s*', '-', paragraph)  # 'non-' at a line's end
      text = ' '.join(whole.translate(_MARKS).split())
      if _is_prose(text):
        found[text] = None
  return '\n\n'.join(found) + '\n'


def find_text(path: str | None, model: str) -> tuple[str, str]:
  """Returns the plain text that --text names, and what to call it.

  Args:
    path: A file; None is the bundled world's text for the bundled model, else
      `default_text`.
    model: What --model names.

  Raises:
    FileNotFoundError: there is no such file.
  """
  if path is not None:
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
      raise FileNotFoundError(f'There is no text file {file} (--text).')
    return file.read_text(encoding='utf-8'), file.name
  if model == inputs.BUNDLED:
    folder = pathlib.Path(inputs.resolve_path(inputs.BUNDLED, inputs.BUNDLE))
    text = (folder / 'text.txt').read_text(encoding='utf-8')
    return text, 'text of the bundled world'
  return default_text(), _PYTHON_TEXT


def has_documents(path: str | None, model: str) -> bool:
  """Returns True if every line of `find_text` is a document of its own."""
  return path is None and model == inputs.BUNDLED


def text_rows(
  tokenizer: gj.Tokenizer,
  text: str,
  *,
  context: int = 128,
  tokens: int,
  config: gj.ModelConfig,
  documents: bool = False,
) -> np.ndarray:
  """Returns rows of a text's tokens, int32 [R, context].

  A row is running text, and begins with BOS where the model's sequences do.
  Rows do not overlap and lie far apart if the text is long, so that they are
  about different things: evenly over its beginning, 32 times as many tokens.

  Args:
    tokenizer: The model's.
    text: What to cut into rows.
    context: Tokens of a row, BOS included.
    tokens: How many at most, in whole rows, but at least one row; a text that
      ends earlier gives fewer.
    config: Configuration of the model.
    documents: Every line is a document, which ends with EOS and has no line
      break, as in the bundled world's text.

  Raises:
    ValueError: the context is too long or too short, the text does not fill a
      row, or the tokenizer is another model's.
  """
  if not 3 <= context <= config.max_positions:
    raise ValueError(
      f'Rows of {context} tokens do not fit: the model reads 3 to '
      f'{config.max_positions}.'
    )
  wanted = max(1, tokens // context)
  bos = tokenizer.bos_id if tokenizer.adds_bos else None
  most = wanted * context * _APART
  ids = _ids(tokenizer, text)
  if documents:
    ids = _document_ids(tokenizer, text)
  ids = list(itertools.islice(ids, most))
  rows = cut_rows([ids], context, bos, pack=True)
  rows = [row for row in rows if len(row) == context]
  if not rows:
    raise ValueError(
      f'The text has {len(ids)} tokens, which do not fill one row of '
      f'{context}. Give a longer text or a shorter context.'
    )
  wanted = min(wanted, len(rows))
  rows = np.array(rows, np.int32)[np.arange(wanted) * len(rows) // wanted]
  if rows.max() >= config.vocab_size:
    raise ValueError(
      f'The tokenizer gave token {rows.max()}; the model has '
      f'{config.vocab_size} tokens. They do not belong together.'
    )
  return rows


def unigram_counts(tokenizer: gj.Tokenizer, text: str) -> np.ndarray:
  """Returns how often each token occurs in a text, int64 [V].

  V is the tokenizer's, which may be smaller than the model's. BOS is not
  counted.
  """
  ids = np.fromiter(_ids(tokenizer, text), np.int64)
  return np.bincount(ids, minlength=tokenizer.vocab_size)


def _ids(tokenizer, text) -> Iterator[int]:
  for piece in re.split(r'(?<=\n)(?=\S)', text):
    if piece:
      yield from tokenizer.encode(piece, bos=False, parse_special=False)


def _document_ids(tokenizer, text) -> Iterator[int]:
  for line in filter(None, text.split('\n')):
    yield from tokenizer.encode(line, bos=False, parse_special=False)
    yield tokenizer.eos_id


def _is_prose(text: str) -> bool:
  if len(text) < _SHORTEST or not text[0].isupper() or text[-1] not in '.:':
    return False
  if _NOT_PROSE.search(text):
    return False
  return len(_PLAIN.findall(text)) >= _PROSE * len(text)
