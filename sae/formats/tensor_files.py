"""Named tensors in files that were not written here: .npz and .safetensors.

Names, shapes and dtypes are checked from the headers before any weight is
read, and values when they are. Nothing is unpickled.
"""

from collections.abc import Collection, Mapping
import math
import os
import pathlib
import struct
import tokenize
import zipfile
import zlib

import numpy as np
from safetensors import SafetensorError, safe_open

from sae.jumprelu import JumpReLUSAE, Weights

_SAFETENSORS_DTYPES = ('F32', 'F16', 'BF16')
# The end of a zip file without a comment: its signature, and its length.
_ZIP_END, _ZIP_END_BYTES = b'PK\5\6', 22
# A member may grow by this much when it is unpacked. Zeros of deflate grow by
# a thousand; the numbers of an SAE by less than two.
_MOST_GROWTH, _SMALL = 100, 2**20
# What opening or reading damaged .npz files raises; NumPy evaluates headers as
# Python literals.
_NPZ_ERRORS = (
  zipfile.BadZipFile,
  zlib.error,
  struct.error,
  ValueError,
  OSError,
  EOFError,
  NotImplementedError,
  RuntimeError,
  SyntaxError,
  TypeError,
  KeyError,
  MemoryError,
  OverflowError,
  tokenize.TokenError,
)


class TensorFile:
  """A file that holds the expected tensors and no others.

  Attributes:
    path: Path of the file.
    sizes: Letter -> size, of all letters in the expected shapes.
    names: Those expected tensors that it has.
  """

  def __init__(
    self,
    path: pathlib.Path,
    expected: Mapping[str, str],
    *,
    optional: Collection[str] = (),
    sizes: Mapping[str, int] | None = None,
    said_by: str = '',
  ):
    """Checks the headers.

    Args:
      path: .npz, whose names may be in any case, or .safetensors.
      expected: Name -> one letter per dimension; equal letters are equal sizes.
        '' is any shape. The first one settles sizes that are not given.
      optional: Names that may be absent.
      sizes: Letter -> size, where known beforehand.
      said_by: What knows those sizes, for errors.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or a tensor is missing, unknown, or of the
        wrong shape or dtype.
    """
    self.path = path = pathlib.Path(path)
    if not path.is_file():
      raise FileNotFoundError(f'{path} does not exist.')
    self._npz = path.suffix == '.npz'
    headers = _npz_headers(path) if self._npz else _safetensors_headers(path)

    self._keys = {}
    wanted = {name.lower() if self._npz else name: name for name in expected}
    for key in headers:
      name = wanted.get(key.lower() if self._npz else key)
      if name is None:
        raise ValueError(
          f'{path}: tensor {key} is unknown; expected {", ".join(expected)}. '
          'It is not ignored: is this another kind of SAE?'
        )
      if name in self._keys:
        raise ValueError(
          f'{path} has both {self._keys[name]} and {key}; expected one {name}.'
        )
      self._keys[name] = key
    self.names = [name for name in expected if name in self._keys]
    if missing := [n for n in expected if n not in (*self.names, *optional)]:
      raise ValueError(
        f'{path}: tensor {missing[0]} is missing; expected '
        f'{", ".join(n for n in expected if n not in optional)}, got '
        f'{", ".join(headers) or "none"}. Is it an SAE, and complete?'
      )

    self.sizes, known = dict(sizes or {}), set(sizes or {})
    for name in self.names:
      dtype, shape = headers[self._keys[name]]
      self._check_dtype(name, dtype)
      letters = expected[name]
      if letters and len(shape) == len(letters):
        for letter, size in zip(letters, shape, strict=True):
          self.sizes.setdefault(letter, size)
      if letters and shape != tuple(map(self.sizes.get, letters)):
        why = said_by if known & set(letters) else ''
        raise ValueError(
          f'{path}: tensor {name} has shape {list(shape)}, expected '
          f'[{", ".join(letters)}]{self._known_sizes(letters)}'
          f'{f", {why}" if why else ""}. Do these files belong together, and '
          'to this SAE?'
        )
      if 0 in shape:
        raise ValueError(f'{path}: tensor {name} is empty, {list(shape)}.')

  def read(self, name: str, *, minimum: float | None = None) -> np.ndarray:
    """Returns one tensor, as float32.

    Args:
      name: As expected.
      minimum: Smaller values are refused.

    Raises:
      ValueError: its bytes are damaged, or a value is NaN, infinite or less
        than `minimum`.
    """
    key = self._keys[name]
    if self._npz:
      try:
        with np.load(self.path, allow_pickle=False) as file:
          array = file[key]
      except _NPZ_ERRORS as error:
        raise _damaged(self.path, f'tensor {key}: {error}') from error
    else:
      try:
        with safe_open(self.path, 'numpy') as file:
          array = file.get_tensor(key)
      except SafetensorError as error:
        raise _damaged(self.path, f'tensor {key}: {error}') from error
    array = array.astype(np.float32, copy=False)
    # Both carry NaN on, and need no array beside the tensor.
    least, most = array.min(initial=0), array.max(initial=0)
    if not (np.isfinite(least) and np.isfinite(most)):
      raise ValueError(
        f'{self.path}: tensor {name} holds NaN or infinity; expected finite '
        'numbers. Download it again, or retrain the SAE.'
      )
    if minimum is not None and least < minimum:
      raise ValueError(
        f'{self.path}: tensor {name} has the value {least:.6g}, expected none '
        f'below {minimum:g}. If these are logarithms, take their exp.'
      )
    return array

  def _known_sizes(self, letters):
    known = [f'{x}={self.sizes[x]}' for x in letters if x in self.sizes]
    return f' with {", ".join(known)}' if known else ''

  def _check_dtype(self, name, dtype):
    if self._npz:
      wanted, right = 'float32', dtype == np.float32
      remedy = 'Save it anew with array.astype(np.float32).'
      if dtype.hasobject:
        remedy = 'Objects are pickled, and nothing is unpickled here.'
      elif dtype.kind == 'V' and dtype.itemsize == 2:
        remedy = (
          'NumPy writes bfloat16 without its name; save it anew as float32.'
        )
    else:
      wanted = f'one of {", ".join(_SAFETENSORS_DTYPES)}'
      right, remedy = dtype in _SAFETENSORS_DTYPES, 'Save it anew as float32.'
    if not right:
      raise ValueError(
        f'{self.path}: tensor {name} has dtype {dtype}, expected {wanted}. '
        f'{remedy}'
      )


def host_weights(sae: JumpReLUSAE) -> Weights:
  """Returns the arrays in float32 NumPy, ready to be written.

  Thresholds below 0 do what 0 does, and become 0.

  Raises:
    ValueError: other processes hold part of them, or they are not finite.
  """
  arrays = {}
  for name, array in sae.weights()._asdict().items():
    if not array.is_fully_addressable:
      raise ValueError(
        'Other processes hold part of this SAE. Gather it on one first, with '
        'jax.experimental.multihost_utils.process_allgather(tiled=True).'
      )
    arrays[name] = np.asarray(array, np.float32)
    if not np.isfinite([arrays[name].min(), arrays[name].max()]).all():
      raise ValueError(
        f'{name} holds NaN or infinity, so the SAE is not written.'
      )
  arrays['threshold'] = np.maximum(arrays['threshold'], 0)
  return Weights(**arrays)


def _damaged(path, why):
  return ValueError(
    f'{path} ({path.stat().st_size} bytes) is truncated or corrupt: {why}. '
    'Download it again.'
  )


def _npz_headers(path) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
  """Name -> its dtype and shape, without reading or unpickling it."""
  headers = {}
  with open(path, 'rb') as file:
    try:
      with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        _check_ends(file, members)
        for member in members:
          name = member.filename.removesuffix('.npy')
          if name in headers:
            raise ValueError(f'it has {name} twice')
          headers[name] = _npy_header(archive, member)
    except _NPZ_ERRORS as error:
      raise _damaged(path, error) from error
  return headers


def _check_ends(file, members):
  """Raises ValueError unless the archive is all there is in the file."""
  file.seek(-_ZIP_END_BYTES, os.SEEK_END)
  if file.read(4) != _ZIP_END:
    raise ValueError('there are other bytes after its end')
  if members and min(member.header_offset for member in members):
    raise ValueError('its first member is not at its beginning')


def _npy_header(archive, member) -> tuple[np.dtype, tuple[int, ...]]:
  """Returns a member's dtype and shape; ValueError unless its size fits."""
  name = member.filename
  if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise ValueError(f'{name} is compressed in a way NumPy does not write')
  if member.file_size > _MOST_GROWTH * member.compress_size + _SMALL:
    raise ValueError(
      f'{name} would unpack {member.compress_size} bytes to '
      f'{member.file_size}; weights do not compress so well'
    )
  with archive.open(member) as content:
    version = np.lib.format.read_magic(content)
    if version == (1, 0):
      header = np.lib.format.read_array_header_1_0(content)
    elif version in ((2, 0), (3, 0)):  # which differ in names of fields only
      header = np.lib.format.read_array_header_2_0(content)
    else:
      raise ValueError(f'{name} is of an unknown version, {version}')
    shape, _, dtype = header
    if any(type(size) is not int or size < 0 for size in shape):
      raise ValueError(f'{name} has the shape {shape}')
    size = content.tell() + math.prod(shape) * dtype.itemsize
  if size != member.file_size and not dtype.hasobject:
    raise ValueError(f'{name} has {member.file_size} bytes, expected {size}')
  return dtype, shape


def _safetensors_headers(path) -> dict[str, tuple[str, tuple[int, ...]]]:
  """Name -> its dtype, as safetensors names it, and shape."""
  try:
    with safe_open(path, 'numpy') as file:
      slices = {key: file.get_slice(key) for key in file.keys()}
      return {
        key: (s.get_dtype(), tuple(s.get_shape())) for key, s in slices.items()
      }
  except SafetensorError as error:
    raise _damaged(path, error) from error
