"""Documents in a text file, read one after another.

  .txt     one document per line; or, with separator='blank_line', one per
           paragraph: lines up to a line of white space
  .jsonl   one JSON object per line, of which one field holds the text

Memory is that of the longest document. Documents of nothing but white space
are skipped, and counted.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import hashlib
import os
import pathlib

import tqdm

from gemma_jax.json_files import parse_json

SEPARATORS = ('line', 'blank_line')
_REMEDY = 'A .jsonl file has one JSON object per line.'
# Every so many documents, their place in the file is remembered.
_MARK_EVERY = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
  """Says what a whole file holds.

  Attributes:
    num_documents: Number of documents that are not empty.
    num_empty: Number of empty documents.
    num_bytes: Size of the file in bytes.
    sha256: SHA-256 of the file in hex.
  """

  num_documents: int
  num_empty: int
  num_bytes: int
  sha256: str


class DocumentFile:
  """A text file and its documents, which are numbered from 0.

  Attributes:
    path: Path of the file.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    field: str = 'text',
    separator: str = 'line',
  ):
    """Checks that the file is there and of a known kind.

    Args:
      path: A file that ends in .txt or .jsonl, in UTF-8.
      field: Field of the objects of a .jsonl file that has the text.
      separator: One of SEPARATORS; for .txt files.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: its name ends otherwise, or the separator is unknown.
    """
    self.path = pathlib.Path(path).expanduser()
    if not self.path.is_file():
      raise FileNotFoundError(f'There is no text file {self.path}.')
    if self.path.suffix not in ('.txt', '.jsonl'):
      raise ValueError(
        f'{self.path} ends in {self.path.suffix!r}; expected .txt (plain text) '
        'or .jsonl (a JSON object per line).'
      )
    if separator not in SEPARATORS:
      raise ValueError(
        f'separator is {separator!r}, expected one of {SEPARATORS}.'
      )
    self._field, self._separator = field, separator
    self._marks = [(0, 0)]  # (byte, lines before it) of documents 0, 4096, ...

  def scan(self) -> Scan:
    """Reads the whole file, with a progress bar.

    Raises:
      ValueError: a line is malformed (the error names it), or there is no
        document.
    """
    sha256, documents, empty = hashlib.sha256(), 0, 0
    marks = []
    with tqdm.tqdm(
      desc=f'Reading {self.path.name}',
      total=self.path.stat().st_size,
      unit='B',
      unit_scale=True,
    ) as bar:

      def on_line(line: bytes):
        sha256.update(line)
        bar.update(len(line))

      for place, _, text in self._documents(0, 0, on_line):
        if text is None:
          empty += 1
          continue
        if documents % _MARK_EVERY == 0:
          marks.append(place)
        documents += 1
    if not documents:
      raise ValueError(
        f'{self.path} has no document: it is empty, or all white space.'
      )
    self._marks = marks
    return Scan(
      num_documents=documents,
      num_empty=empty,
      num_bytes=self.path.stat().st_size,
      sha256=sha256.hexdigest(),
    )

  def read(
    self, start: int = 0, stop: int | None = None
  ) -> Iterator[tuple[int, str]]:
    """Documents `start` up to `stop` as (number of their line from 1, text).

    Raises:
      ValueError: a line is malformed; the error names it.
    """
    mark = min(start // _MARK_EVERY, len(self._marks) - 1)
    number = mark * _MARK_EVERY
    with contextlib.closing(self._documents(*self._marks[mark])) as documents:
      for _, line, text in documents:
        if text is None:
          continue
        if stop is not None and number >= stop:
          return
        if number >= start:
          yield line, text
        number += 1

  def _documents(self, byte, lines, on_line=lambda line: None):
    """Yields (byte, lines before), line from 1, text or None if empty."""
    split = self._paragraphs
    if self.path.suffix == '.jsonl':
      split = self._objects
    elif self._separator == 'line':
      split = self._lines
    with open(self.path, 'rb') as file:
      file.seek(byte)
      yield from split(self._numbered(file, byte, lines, on_line))

  def _numbered(self, file, byte, number, on_line):
    """Yields (byte, lines before) and text without its end of every line."""
    for line in file:
      on_line(line)
      try:
        # A byte order mark is no text.
        text = line.decode('utf-8-sig' if byte == 0 else 'utf-8')
      except UnicodeDecodeError as error:
        raise ValueError(
          f'{self.path}, line {number + 1}: not UTF-8: {error}. Convert the '
          'file.'
        ) from error
      yield (byte, number), text.rstrip('\r\n')
      byte += len(line)
      number += 1

  def _lines(self, lines):
    for place, text in lines:
      yield place, place[1] + 1, text if text.strip() else None

  def _paragraphs(self, lines):
    """Blank lines between paragraphs are no empty documents."""
    place, part = None, []
    for here, text in lines:
      if text.strip():
        place = place or here
        part.append(text)
      elif part:
        yield place, place[1] + 1, '\n'.join(part)
        place, part = None, []
    if part:
      yield place, place[1] + 1, '\n'.join(part)

  def _objects(self, lines):
    for place, line in lines:
      if not line.strip():
        continue
      where = f'{self.path}, line {place[1] + 1}'
      record = parse_json(line, where, object, _REMEDY)
      if not isinstance(record, dict) or self._field not in record:
        found = f'a {type(record).__name__}'
        if isinstance(record, dict):
          found = f'an object with {", ".join(map(repr, record)) or "nothing"}'
        raise ValueError(
          f'{where}: expected an object with the field {self._field!r}, got '
          f'{found}. Name the field with the text: --text_field.'
        )
      text = record[self._field]
      if not isinstance(text, str):
        raise ValueError(
          f'{where}: {self._field!r} is a {type(text).__name__}, expected a '
          'string.'
        )
      try:
        text.encode()
      except UnicodeEncodeError as error:
        raise ValueError(
          f'{where}: {self._field!r} is not Unicode text: {error}.'
        ) from error
      yield place, place[1] + 1, text if text.strip() else None
