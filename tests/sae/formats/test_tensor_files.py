"""Hostile .npz files are refused by the file's name, or read as NumPy does."""

from contextlib import nullcontext
import io
import struct
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from sae.formats.tensor_files import TensorFile

EXPECTED = {'W': 'DF', 'b': 'F'}
W = np.arange(12, dtype=np.float32).reshape(3, 4)
B = np.arange(4, dtype=np.float32)


def npy(array=W, version=(1, 0)) -> bytes:
  out = io.BytesIO()
  np.lib.format.write_array(out, array, version)
  return out.getvalue()


def header(text: str, data: bytes = W.tobytes(), length=None, version=1):
  """An .npy file whose header is `text`."""
  content = text.encode() + b'\n'
  length = len(content) if length is None else length
  packed = struct.pack('<H' if version == 1 else '<I', length)
  return b'\x93NUMPY' + bytes([version, 0]) + packed + content + data


def fields(shape='(3, 4)', descr="'<f4'", order='False'):
  return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"


def write(path, *members, kind=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, 'w', kind) as archive:
    for name, content in members or [('W.npy', npy()), ('b.npy', npy(B))]:
      archive.writestr(name, content)
  return path


def read(path):
  file = TensorFile(path, EXPECTED)
  return {name: file.read(name) for name in file.names}


@pytest.mark.parametrize(
  'member',
  [
    npy(),
    npy(version=(2, 0)),
    npy(version=(3, 0)),
    npy(np.asfortranarray(W)),
    header(fields()),
  ],
)
@pytest.mark.parametrize('kind', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_form_that_numpy_writes_is_read(tmp_path, member, kind):
  path = tmp_path / 'a.npz'
  write(path, ('W.npy', member), ('b.npy', npy(B)), kind=kind)
  for name, array in read(path).items():
    np.testing.assert_array_equal(array, {'W': W, 'b': B}[name])


HEADERS = {
  'huge': header(fields('(3, 99999999999999999999)')),
  'huge product': header(fields('(4294967296, 4294967296)')),
  'negative': header(fields('(-3, -4)')),
  'one negative': header(fields('(-1, 12)')),
  'booleans': header(fields('(True, 12)')),
  'no tuple': header(fields('12')),
  'no shape': header("{'descr': '<f4', 'fortran_order': False}"),
  'structured': header(fields('(3,)', "[('a', '<f4', (4,))]")),
  'pairs': header(fields('(3, 2)', "('<f4', (2,))")),
  'unknown dtype': header(fields(descr="'<q9'")),
  'dtype of a number': header(fields(descr='7')),
  'float64': header(fields(descr="'<f8'"), W.astype('f8').tobytes()),
  'big-endian': header(fields(descr="'>f4'")),
  'object': header(fields(descr="'|O'")),
  'no order': header(fields(order='3')),
  'longer than told': header(fields(), length=10),
  'shorter than told': header(fields(), length=500),
  'longest': header(fields(), length=65535),
  'parentheses': header('(' * 5000),
  'brackets': header('{' * 5000),
  'unhashable': header('{[]: 1}'),
  'no text': header('\x00\x01'),
  'open string': header("{'descr': '"),
  'no dictionary': header('[1, 2]'),
  'a call': header("__import__('os')"),
  'a version to come': header(fields(), version=9),
  'long and of version 2': header(fields(), length=2**31, version=2),
  'more data': npy() + b'x',
  'less data': npy()[:-1],
  'no header': b'\x93NUMPY',
  'nothing': b'',
  'a pickle': b'\x80\x04]q\x00.' * 20,
}


@pytest.mark.parametrize('member', HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize('kind', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_hostile_headers(tmp_path, member, kind):
  path = tmp_path / 'a.npz'
  write(path, ('W.npy', member), ('b.npy', npy(B)), kind=kind)
  with pytest.raises(ValueError, match=str(path)):
    read(path)


def test_a_member_twice(tmp_path):
  path = tmp_path / 'a.npz'
  for again in ('W.npy', 'W'):
    warned = pytest.warns(UserWarning) if again == 'W.npy' else nullcontext()
    with warned:
      write(path, ('W.npy', npy()), ('b.npy', npy(B)), (again, npy(W + 1)))
    with pytest.raises(ValueError, match=f'{path} .* it has W twice'):
      read(path)


@pytest.mark.parametrize(
  'damage, says',
  [
    (lambda raw: raw[10:], 'truncated or corrupt'),
    (lambda raw: raw[1000:], 'truncated or corrupt'),
    (lambda raw: b'#!/bin/sh\n' + raw, 'first member is not at its beginning'),
    (lambda raw: raw + b'\0', 'other bytes after its end'),
    (lambda raw: raw + raw, 'first member is not at its beginning'),
    (lambda raw: raw + b'x' * 50_000, 'other bytes after its end'),
    (lambda raw: b'PK\5\6' + bytes(18), 'tensor W is missing'),
  ],
)
def test_what_is_before_and_after(tmp_path, damage, says):
  path = write(tmp_path / 'a.npz')
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(ValueError, match=f'{path}.*{says}'):
    read(path)


def test_a_bomb_is_not_unpacked(tmp_path):
  """16 MB of zeros in 16 kB; their header is right."""
  path = tmp_path / 'a.npz'
  zeros = np.zeros((1000, 4000), np.float32)
  np.savez_compressed(path, W=zeros, b=np.zeros(4000, np.float32))
  assert path.stat().st_size < 20_000
  with pytest.raises(
    ValueError, match=rf'{path}.*W.npy would unpack \d+ bytes'
  ):
    read(path)
  # Weights of which half are 0 are none.
  W = np.random.default_rng(0).normal(size=(300, 4000)).astype('f4')
  W[:150] = 0
  np.savez_compressed(path, W=W, b=W[0])
  np.testing.assert_array_equal(read(path)['W'], W)


def test_unusual_compression(tmp_path):
  path = write(tmp_path / 'a.npz', kind=zipfile.ZIP_LZMA)
  with pytest.raises(ValueError, match=f'{path}.*compressed in a way'):
    read(path)


SAFETENSORS = {
  'huge header': lambda raw: struct.pack('<Q', 2**62) + raw[8:],
  'header of 99 MB': lambda raw: struct.pack('<Q', 99_000_000) + raw[8:],
  'no header': lambda raw: bytes(8) + raw[8:],
  'overlap': lambda raw: raw.replace(b'[48,64]', b'[40,56]'),
  'beyond the end': lambda raw: raw.replace(b'[48,64]', b'[48,99]'),
  'backwards': lambda raw: raw.replace(b'[48,64]', b'[64,48]'),
  'another shape': lambda raw: raw.replace(b'[3,4]', b'[3,5]'),
  'another dtype': lambda raw: raw.replace(b'"F32"', b'"F64"'),
  'unknown dtype': lambda raw: raw.replace(b'"F32"', b'"X32"'),
  'negative': lambda raw: raw.replace(b'[3,4]', b'[-3,4'),
  'more': lambda raw: raw + b'x',
  'less': lambda raw: raw[:-1],
}


@pytest.mark.parametrize('damage', SAFETENSORS.values(), ids=SAFETENSORS)
def test_errors_of_safetensors_name_the_file(tmp_path, damage):
  path = tmp_path / 'a.safetensors'
  save_file({'W': W, 'b': B}, path)
  raw = path.read_bytes()
  np.testing.assert_array_equal(read(path)['W'], W)
  assert damage(raw) != raw
  path.write_bytes(damage(raw))
  with pytest.raises(ValueError, match=str(path)):
    read(path)
