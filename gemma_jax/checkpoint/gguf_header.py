"""What stands before the weights in a `.gguf` file.

The reader of the `gguf` package takes 20 s for a vocabulary of 262,144 tokens,
and does not notice that a file ends early.
"""

import mmap
import pathlib
import struct

import numpy as np

# Scalars of the metadata, by their number in the file; the rest are these.
_SCALARS = dict(enumerate(('B', 'b', '<H', '<h', '<I', '<i', '<f', '?')))
_SCALARS |= {10: '<Q', 11: '<q', 12: '<d'}
_STRING, _ARRAY = 8, 9


class Header:
  """Holds what stands before the weights.

  Attributes:
    metadata: Key -> value: bool, int, float, str or a list of them.
    tensors: Name -> number of its kind, shape as in the file, offset.
    data_start: Where offsets count from, in bytes.
  """

  def __init__(self, path: pathlib.Path, data: mmap.mmap):
    self._path, self._data, self._at = path, data, 4
    version = self._scalar('<I')
    if version & 0xFFFF == 0:
      raise ValueError(
        f'{path}: it is big-endian. Convert it with gguf-convert-endian, which '
        'the gguf package brings.'
      )
    if version not in (2, 3):
      raise ValueError(
        f'{path}: it has version {version} of GGUF, expected 2 or 3. Convert '
        'the model again with a present llama.cpp.'
      )
    num_tensors, num_keys = self._scalar('<Q'), self._scalar('<Q')
    self.metadata = {}
    for _ in range(num_keys):
      key = self._once(self._string(), self.metadata)
      self.metadata[key] = self._value(self._scalar('<I'))
    self.tensors = {}
    for _ in range(num_tensors):
      name = self._once(self._string(), self.tensors)
      shape = tuple(self._scalar('<Q') for _ in range(self._scalar('<I')))
      self.tensors[name] = self._scalar('<I'), shape, self._scalar('<Q')
    alignment = self.metadata.get('general.alignment', 32)
    if not isinstance(alignment, int) or alignment < 1:
      raise ValueError(f'{path}: general.alignment is {alignment!r}.')
    self.data_start = -(-self._at // alignment) * alignment

  def _once(self, name: str, seen) -> str:
    if name in seen:
      raise ValueError(
        f'{self._path}: its header has {name} twice. Convert the model again.'
      )
    return name

  def _bytes(self, count: int) -> bytes:
    start, self._at = self._at, self._at + count
    if self._at > len(self._data):
      raise ValueError(
        f'{self._path}: it is truncated: its header goes beyond byte '
        f'{len(self._data)}, where the file ends. Download it again.'
      )
    return self._data[start : self._at]

  def _scalar(self, code: str):
    return struct.unpack(code, self._bytes(struct.calcsize(code)))[0]

  def _string(self) -> str:
    raw = self._bytes(self._scalar('<Q'))
    try:
      return raw.decode()
    except UnicodeDecodeError as error:
      raise ValueError(
        f'{self._path}: its header holds {short(raw)}, which is not UTF-8: '
        f'{error}. Download it again.'
      ) from error

  def _value(self, kind: int):
    if kind == _STRING:
      return self._string()
    if kind == _ARRAY:
      item, count = self._scalar('<I'), self._scalar('<Q')
      if item in _SCALARS:
        code = np.dtype(_SCALARS[item])
        raw = self._bytes(count * code.itemsize)
        return np.frombuffer(raw, code).tolist()
      return [self._value(item) for _ in range(count)]
    if kind not in _SCALARS:
      raise ValueError(
        f'{self._path}: its metadata hold a value of the unknown type {kind}. '
        'The file is damaged, or newer than this reader; download it again.'
      )
    return self._scalar(_SCALARS[kind])


def short(value) -> str:
  """Returns a value for an error message."""
  text = repr(value)
  return text if len(text) <= 60 else text[:57] + '...'
