"""Activations on disk: Zarr arrays of rows, and where each row comes from.

  write_store(folder, model, rows, sites=['resid_post'], layers=[12, 13], ...)
  store = open_store(folder)
  x = store.read('resid_post', 12)  # float32 [n, D]

A store is a folder with

  activations.zarr/   a Zarr 3 group with one array [n, L, W] per site
  rows.jsonl          one object per row: id, text, tokens, position, label, ...
  store.json          what the activations depend on, for `write_store`
  progress.json       how many rows are written

An array's attributes name its site, its layers, and what it holds. bfloat16 is
kept as its 16 bits in a uint16, because zarr-python knows no bfloat16: view
what it reads as `ml_dtypes.bfloat16`. The group's attributes repeat store.json
and say whether the store is complete; rows that are not written read as NaN.

Every part is checked: arrays by the CRC-32C of their chunks, as they are read;
on opening, rows.jsonl by its SHA-256, store.json by its second copy, and that
no chunk's file is missing.

Rows are written, by store_writing.py, in chunks, each one file per site that
appears under its name when it is whole, and counted after that. A killed run
repeats the chunk it was at, in the same batches: bit for bit what an unbroken
one gives, on one kind of device.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import os
import pathlib

import ml_dtypes
import numpy as np
import tensorstore as ts

from gemma_jax.json_files import read_json

DTYPES = ('bfloat16', 'float32')

ARRAYS, ROWS = 'activations.zarr', 'rows.jsonl'
IDENTITY, PROGRESS, GROUP = 'store.json', 'progress.json', 'zarr.json'
# The first one had no checksums; a chunk that was gone read as 0.
FORMAT = 2
_BFLOAT16_NAN = 0x7FC0
_REMEDY = 'Remove the folder, and repeat the command that wrote it.'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Store:
  """A complete store.

  Attributes:
    folder: Folder of the store.
    about: What its activations depend on.
    rows: What rows.jsonl says of each of the n rows.
  """

  folder: pathlib.Path
  about: Mapping
  rows: Sequence[Mapping]

  def read(
    self, site: str, layer: int, start: int = 0, stop: int | None = None
  ) -> np.ndarray:
    """Reads activations of rows `start` up to `stop`: float32 [n, W].

    Raises:
      KeyError: the store has no such site or layer.
      IndexError: it has no such rows.
      ValueError: a chunk is damaged; the error names its file.
    """
    sites, layers = self.about['sites'], self.about['layers']
    if site not in sites or layer not in layers:
      raise KeyError(
        f'{self.folder} has layers {layers} of {", ".join(sites)}, not '
        f'{site} of layer {layer}.'
      )
    stop = len(self.rows) if stop is None else stop
    if not 0 <= start <= stop <= len(self.rows):
      raise IndexError(
        f'{self.folder} has rows 0 to {len(self.rows) - 1}, not {start} up to '
        f'{stop}.'
      )
    try:
      spec = array_spec(self.folder, site, self.about)
      array = ts.open(spec, read=True).result()
      part = array[start:stop, layers.index(layer)].read().result()
    except ValueError as error:
      raise ValueError(
        f'{self.folder}: {site} of layer {layer} is damaged: {error}. {_REMEDY}'
      ) from error
    if self.about['dtype'] == 'bfloat16':
      part = part.view(ml_dtypes.bfloat16)
    return part.astype(np.float32)


def open_store(folder: str | os.PathLike) -> Store:
  """Opens a store.

  Raises:
    FileNotFoundError: there is none, or the file of a chunk is missing.
    ValueError: it is not complete, is damaged, or is of a version without
      checksums.
  """
  folder = pathlib.Path(folder)
  if not (folder / IDENTITY).is_file():
    raise FileNotFoundError(f'{folder} has no store of activations.')
  about = read_json(folder / IDENTITY, remedy=_REMEDY)
  if about.get('format') != FORMAT:
    raise ValueError(
      f'{folder / IDENTITY} has format {about.get("format")!r}, expected '
      f'{FORMAT}: an earlier version wrote this store, without checksums. '
      f'{_REMEDY} Other readers of Zarr still open {ARRAYS}.'
    )
  group = read_json(folder / ARRAYS / GROUP, remedy=_REMEDY)
  if group not in (group_file(about, True), group_file(about, False)):
    raise ValueError(
      f'{folder / ARRAYS / GROUP} and {IDENTITY} must say the same, and do '
      f'not: one of them is damaged. {_REMEDY}'
    )
  done = rows_done(folder)
  if done < about['num_rows']:
    raise ValueError(
      f'{folder} has {done:,} of {about["num_rows"]:,} rows: the run that '
      'writes it was stopped. The same command goes on with it.'
    )
  check_chunks(folder, about, done)
  path = folder / ROWS
  described = path.read_bytes() if path.is_file() else b''
  if hashlib.sha256(described).hexdigest() != about['rows_sha256']:
    raise ValueError(
      f'{path} is missing or not the file that was written with the store: its '
      f'SHA-256 is another. {_REMEDY}'
    )
  rows = [json.loads(line) for line in described.split(b'\n') if line]
  return Store(folder=folder, about=about, rows=rows)


def rows_done(folder: str | os.PathLike) -> int:
  """Counts the rows of a store that are written, which are the first ones.

  Raises:
    ValueError: the file that says so is damaged.
  """
  path = pathlib.Path(folder) / PROGRESS
  if not path.is_file():
    return 0
  rows = read_json(path, remedy=_REMEDY).get('rows')
  if type(rows) is not int or rows < 0:
    raise ValueError(
      f'{path} has rows {rows!r}, expected a number of rows. {_REMEDY}'
    )
  return rows


def check_chunks(folder, about, done):
  """Raises unless the first `done` rows have all their files."""
  n, chunk = about['num_rows'], about['chunk_rows']
  if done > n or (done % chunk and done < n):
    raise ValueError(
      f'{folder / PROGRESS} has {done} rows, expected {n}, or whole chunks of '
      f'{chunk}. {_REMEDY}'
    )
  for site in about['sites'] if done else ():
    # Nesting without end would crash tensorstore, and Python with it.
    read_json(folder / ARRAYS / site / GROUP, remedy=_REMEDY)
    for number in range(-(-done // chunk)):
      path = folder / ARRAYS / site / f'c/{number}/0/0'
      if not path.is_file():
        raise FileNotFoundError(
          f'{path} does not exist, which holds {site} of rows {number * chunk} '
          f'up to {min(done, (number + 1) * chunk)}. {_REMEDY}'
        )


def array_spec(folder, site, about) -> dict:
  """Returns what tensorstore makes, or opens if it is there and just so."""
  path = (folder / ARRAYS / site).resolve()
  L, chunk = len(about['layers']), about['chunk_rows']
  width = about['widths'][site]
  half = about['dtype'] == 'bfloat16'
  checked = [
    {'name': 'bytes', 'configuration': {'endian': 'little'}},
    {'name': 'crc32c'},
  ]
  # One file per chunk of rows, in which every layer can be read alone.
  shards = {
    'chunk_shape': [chunk, 1, width],
    'codecs': checked,
    'index_codecs': checked,
  }
  metadata = {
    'shape': [about['num_rows'], L, width],
    'data_type': 'uint16' if half else 'float32',
    'fill_value': _BFLOAT16_NAN if half else 'NaN',
    'chunk_grid': {
      'name': 'regular',
      'configuration': {'chunk_shape': [chunk, L, width]},
    },
    'codecs': [{'name': 'sharding_indexed', 'configuration': shards}],
    'dimension_names': ['row', 'layer', 'feature'],
    'attributes': {
      'site': site,
      'layers': about['layers'],
      'holds': 'the bits of bfloat16' if half else 'float32',
    },
  }
  return {
    'driver': 'zarr3',
    'kvstore': {'driver': 'file', 'path': os.fspath(path)},
    'metadata': metadata,
    # Else a chunk of nothing but NaN would be taken for one that is missing.
    'store_data_equal_to_fill_value': True,
  }


def group_file(about: Mapping, complete: bool) -> dict:
  """Returns the group's own file, with the provenance."""
  return {
    'zarr_format': 3,
    'node_type': 'group',
    'attributes': {**about, 'complete': complete},
  }
