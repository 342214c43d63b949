"""Files of JSON lines that a killed run goes on with.

A ledger is two files: `<path>` with one object per line, each with an `id` of
its own, and `<path>.key.json` with the identity of all that the lines depend
on. Lines are written in whole and reach the disk before `append` returns.
"""

from collections.abc import Iterable, Mapping
import json
import os
import pathlib

from experiments.runs import outputs
from gemma_jax import json_files, whole_files


class Ledger:
  """One stage's results, by id.

  Attributes:
    path: The file of the lines.
  """

  def __init__(
    self, path: str | os.PathLike, identity: Mapping, *, redo: bool = False
  ):
    """Opens a ledger, or begins one.

    What a kill in mid-write left of a last line is cut off.

    Args:
      path: The file of the lines; its folder is made.
      identity: For JSON: what the lines depend on.
      redo: Begin anew, whatever is there.

    Raises:
      ValueError: the lines are of another identity, or of none; or a line is
        malformed, or an id there twice. The error names the difference, or
        the line.
    """
    self.path = pathlib.Path(path)
    self._key = self.path.with_name(f'{self.path.name}.key.json')
    if redo or not self.path.exists():
      outputs.write_text(self.path, '')
    self._mend()
    self._rows: dict[str, dict] = {}
    for number, row in read_objects(self.path):
      self._rows |= self._checked([row], f'{self.path}, line {number}')
    if self._rows and not self._key.is_file():
      raise ValueError(
        f'{self.path} has {len(self._rows)} lines, and there is no {self._key} '
        'to say what they were made from. Move the file away, or do everything '
        'again with redo.'
      )
    outputs.check_same_run(self._key, identity, bool(self._rows))

  def read(self) -> dict[str, dict]:
    """Returns all rows by id, in the order in which they were written."""
    return dict(self._rows)

  def missing(self, ids: Iterable[str]) -> list[str]:
    """Returns the ids that have no row yet, in their order."""
    return [each for each in ids if each not in self._rows]

  def append(self, rows: Iterable[Mapping]):
    """Writes rows; all of them are on disk when this returns.

    A kill before that may leave some of them; of the first that a ledger gets,
    all or none.

    Raises:
      ValueError: a row has no id or one that is there already, or a number
        that is not finite. Nothing is written.
    """
    new = self._checked(rows, f'{self.path}, a new row')
    lines = [
      json.dumps(row, ensure_ascii=False, sort_keys=True, allow_nan=False)
      for row in new.values()
    ]
    text = ''.join(f'{line}\n' for line in lines)
    if not self._rows:
      outputs.write_text(self.path, text)
    with whole_files.naming(self.path), open(self.path, 'ab') as file:
      if self._rows:
        file.write(text.encode())
        file.flush()
      os.fsync(file.fileno())
    self._rows |= zip(new, map(json.loads, lines), strict=True)

  def _checked(self, rows, where) -> dict[str, dict]:
    """Returns the rows by id, each of which is new."""
    found = {}
    for row in rows:
      id = row.get('id')
      if not isinstance(id, str) or not id:
        raise ValueError(f"{where} has 'id' {id!r}, expected a text: {row!r}.")
      if id in self._rows or id in found:
        raise ValueError(
          f"{where} has 'id' {id!r}, which an earlier one has already. Remove "
          'one of them.'
        )
      found[id] = dict(row)
    return found

  def _mend(self):
    """Cuts off a last line without an end."""
    with open(self.path, 'r+b') as file:
      content = file.read()
      whole = content.rfind(b'\n') + 1
      if whole < len(content):
        file.truncate(whole)
        os.fsync(file.fileno())


def read_objects(path: str | os.PathLike) -> list[tuple[int, dict]]:
  """Returns the objects of a file of JSON lines with their numbers from 1.

  Lines of white space are passed over.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not UTF-8, or a line is no JSON object; the error names
      file and line.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'There is no file {path}.')
  found = []
  # Bytes, since a text may hold other line breaks, such as U+2028.
  lines = path.read_bytes().removeprefix(b'\xef\xbb\xbf').split(b'\n')
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    where = f'{path}, line {number}'
    row = json_files.parse_json(
      line, where, remedy='Correct the line, or remove it.'
    )
    found.append((number, row))
  return found
