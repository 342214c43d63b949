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

Rows are written in chunks, each one file per site that appears under its name
when it is whole, and counted after that. A killed run repeats the chunk it was
at, in the same batches: bit for bit what an unbroken one gives, on one kind of
device.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import tensorstore as ts

from experiments.activations.batches import (
  BATCH_SIZE,
  BUCKETS,
  count_tokens,
  progress,
)
from experiments.activations.gathering import run_batches
from experiments.activations.reading import check_place, check_tokens
from experiments.activations.rows import HarvestRows
from experiments.runs import outputs
import gemma_jax as gj
from gemma_jax.json_files import read_json

CHUNK_ROWS = 512
DTYPES = ('bfloat16', 'float32')

_ARRAYS, _ROWS = 'activations.zarr', 'rows.jsonl'
_IDENTITY, _PROGRESS, _GROUP = 'store.json', 'progress.json', 'zarr.json'
# The first one had no checksums; a chunk that was gone read as 0.
_FORMAT = 2
_BFLOAT16_NAN = 0x7FC0
_REMEDY = 'Remove the folder, and repeat the command that wrote it.'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Store:
  """A complete store.

  Attributes:
    folder: Where it is.
    about: What its activations depend on.
    rows: What rows.jsonl says of each of the n rows.
  """

  folder: pathlib.Path
  about: Mapping
  rows: Sequence[Mapping]

  def read(
    self, site: str, layer: int, start: int = 0, stop: int | None = None
  ) -> np.ndarray:
    """Activations of rows `start` up to `stop`: float32 [n, W].

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
      spec = _spec(self.folder, site, self.about)
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
  if not (folder / _IDENTITY).is_file():
    raise FileNotFoundError(f'{folder} has no store of activations.')
  about = read_json(folder / _IDENTITY, remedy=_REMEDY)
  if about.get('format') != _FORMAT:
    raise ValueError(
      f'{folder / _IDENTITY} has format {about.get("format")!r}, expected '
      f'{_FORMAT}: an earlier version wrote this store, without checksums. '
      f'{_REMEDY} Other readers of Zarr still open {_ARRAYS}.'
    )
  group = read_json(folder / _ARRAYS / _GROUP, remedy=_REMEDY)
  if group not in (_group(about, True), _group(about, False)):
    raise ValueError(
      f'{folder / _ARRAYS / _GROUP} and {_IDENTITY} must say the same, and do '
      f'not: one of them is damaged. {_REMEDY}'
    )
  done = rows_done(folder)
  if done < about['num_rows']:
    raise ValueError(
      f'{folder} has {done:,} of {about["num_rows"]:,} rows: the run that '
      'writes it was stopped. The same command goes on with it.'
    )
  _check_chunks(folder, about, done)
  path = folder / _ROWS
  described = path.read_bytes() if path.is_file() else b''
  if hashlib.sha256(described).hexdigest() != about['rows_sha256']:
    raise ValueError(
      f'{path} is missing or not the file that was written with the store: its '
      f'SHA-256 is another. {_REMEDY}'
    )
  rows = [json.loads(line) for line in described.split(b'\n') if line]
  return Store(folder=folder, about=about, rows=rows)


def write_store(
  folder: str | os.PathLike,
  model: gj.Decoder,
  rows: HarvestRows,
  *,
  sites: Sequence[str],
  layers: Sequence[int],
  provenance: Mapping[str, object],
  labels: Sequence[str] | None = None,
  dtype: str | None = None,
  batch_size: int = BATCH_SIZE,
  chunk_rows: int = CHUNK_ROWS,
  buckets: Sequence[int] = BUCKETS,
) -> Store:
  """Writes what the model has at the rows' positions, or goes on with it.

  Args:
    folder: Of the store.
    model: Whole, or truncated after the last of the layers.
    rows: n of them.
    sites: Distinct ones of `gemma_jax.VECTOR_SITES`.
    layers: L distinct ones.
    provenance: Whatever tells these activations from others, for JSON: the
      fingerprint of the model and of its tokenizer, ids of SAEs.
    labels: [n], written beside the rows.
    dtype: 'bfloat16' or 'float32'; None is the model's.
    batch_size: Rows per run of the model.
    chunk_rows: Rows per file. The run holds two chunks in memory.
    buckets: Lengths to which rows are padded; each is compiled once.

  Raises:
    ValueError: there are no rows; the model lacks a site, layer or token; or
      the folder has a store of another configuration (the error says which), or
      a damaged one.
    OSError: there is no space, or the folder cannot be written.
  """
  folder = pathlib.Path(folder)
  sites, layers = list(sites), [int(layer) for layer in layers]
  dtype = str(model.dtype) if dtype is None else dtype
  if dtype not in DTYPES:
    raise ValueError(f'dtype is {dtype!r}, expected one of {DTYPES}.')
  for name, given in (('sites', sites), ('layers', layers)):
    if len(set(given)) < len(given):
      raise ValueError(f'{name} are {given}, expected each one once.')
  if not len(rows):
    raise ValueError('There are no rows to store: no prompt could be read.')
  check_tokens(model.config, rows)
  for site in sites:
    for layer in layers:
      check_place(model.config, site, layer)
  described = _describe(rows, labels)
  about = {
    'format': _FORMAT,
    'num_rows': len(rows),
    'sites': sites,
    'layers': layers,
    'widths': {site: gj.site_width(model.config, site) for site in sites},
    'dtype': dtype,
    'model_dtype': str(model.dtype),
    'tokens': list(rows.choices),
    'windows': list(rows.windows),
    'rows_sha256': hashlib.sha256(described.encode()).hexdigest(),
    'batch_size': batch_size,
    'chunk_rows': min(chunk_rows, len(rows)),
    'buckets': list(buckets),
    'device': jax.devices()[0].device_kind,
    **provenance,
  }
  done = rows_done(folder)
  outputs.check_same_run(folder / _IDENTITY, about, resumes=done > 0)
  _check_chunks(folder, about, done)
  _check_space(folder, about, done, len(described.encode()))
  if not done:  # what a run left that wrote no chunk
    shutil.rmtree(folder / _ARRAYS, ignore_errors=True)
  outputs.write_text(folder / _ROWS, described)
  group = folder / _ARRAYS / _GROUP
  outputs.write_json(group, _group(about, done == len(rows)))
  if done < len(rows):
    _fill(folder, model, rows, about, done)
    outputs.write_json(group, _group(about, True))
  return open_store(folder)


def _fill(folder, model, rows, about, done):
  """Runs the model on all rows from `done` on."""
  n, chunk = about['num_rows'], about['chunk_rows']
  sites, layers, widths = about['sites'], about['layers'], about['widths']
  arrays = {
    site: ts.open(_spec(folder, site, about), open=True, create=True).result()
    for site in sites
  }
  cast = np.dtype(jnp.dtype(about['dtype']))
  before = None
  with progress(rows, np.arange(n), 'Storing activations') as bar:
    bar.update(rows.num_tokens() - rows.num_tokens(done))
    for start in range(done, n, chunk):
      numbers = np.arange(start, min(start + chunk, n))
      parts = {
        site: np.empty((len(numbers), len(layers), widths[site]), cast)
        for site in sites
      }
      for batch, seen in run_batches(
        model,
        sites,
        layers,
        rows,
        numbers,
        batch_size=about['batch_size'],
        buckets=about['buckets'],
      ):
        for site, x in seen.items():
          parts[site][batch.rows - start] = x.swapaxes(0, 1)
        bar.update(count_tokens(batch))
      # A chunk is written while the next one is computed.
      if before is not None:
        _finish(folder, *before)
      stop = start + len(numbers)
      writing = [
        arrays[site][start:stop].write(_stored(part))
        for site, part in parts.items()
      ]
      before = stop, writing
    _finish(folder, *before)


def _finish(folder, stop, writing):
  """Waits until the chunk that ends with a row is written, and counts it."""
  try:
    for future in writing:
      future.result()
    outputs.write_text(folder / _PROGRESS, json.dumps({'rows': stop}) + '\n')
  except (ValueError, OSError) as error:
    free = shutil.disk_usage(folder).free
    raise OSError(
      f'{folder}: rows up to {stop} could not be written; {free / 2**20:,.1f} '
      'MiB are free there. Make space and repeat the command, which goes on '
      f'with them. What was said: {error}'
    ) from error


def rows_done(folder: str | os.PathLike) -> int:
  """How many rows of a store are written, the first ones.

  Raises:
    ValueError: the file that says so is damaged.
  """
  path = pathlib.Path(folder) / _PROGRESS
  if not path.is_file():
    return 0
  rows = read_json(path, remedy=_REMEDY).get('rows')
  if type(rows) is not int or rows < 0:
    raise ValueError(
      f'{path} has rows {rows!r}, expected a number of rows. {_REMEDY}'
    )
  return rows


def _check_chunks(folder, about, done):
  """Raises unless the first `done` rows have all their files."""
  n, chunk = about['num_rows'], about['chunk_rows']
  if done > n or (done % chunk and done < n):
    raise ValueError(
      f'{folder / _PROGRESS} has {done} rows, expected {n}, or whole chunks of '
      f'{chunk}. {_REMEDY}'
    )
  for site in about['sites'] if done else ():
    # Nesting without end would crash tensorstore, and Python with it.
    read_json(folder / _ARRAYS / site / _GROUP, remedy=_REMEDY)
    for number in range(-(-done // chunk)):
      path = folder / _ARRAYS / site / f'c/{number}/0/0'
      if not path.is_file():
        raise FileNotFoundError(
          f'{path} does not exist, which holds {site} of rows {number * chunk} '
          f'up to {min(done, (number + 1) * chunk)}. {_REMEDY}'
        )


def _stored(part: np.ndarray) -> np.ndarray:
  """Values as an array holds them."""
  return part.view(np.uint16) if part.dtype == ml_dtypes.bfloat16 else part


def _describe(rows: HarvestRows, labels: Sequence[str] | None) -> str:
  """rows.jsonl."""
  if labels is not None and len(labels) != len(rows):
    raise ValueError(f'Got {len(labels)} labels for {len(rows)} rows.')
  lines = []
  for row in range(len(rows)):
    about = {
      'row': row,
      'id': rows.ids[row],
      'text': rows.texts[row],
      'tokens': rows.tokens[row].tolist(),
      'position': int(rows.positions[row]),
    }
    if labels is not None:
      about['label'] = labels[row]
    lines.append(json.dumps(about, ensure_ascii=False) + '\n')
  return ''.join(lines)


def _spec(folder, site, about) -> dict:
  """What tensorstore makes, or opens if it is there and just so."""
  path = (folder / _ARRAYS / site).resolve()
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
    # Or a chunk of nothing but NaN would be taken for one that is missing.
    'store_data_equal_to_fill_value': True,
  }


def _group(about: Mapping, complete: bool) -> dict:
  """The group's own file, with the provenance."""
  return {
    'zarr_format': 3,
    'node_type': 'group',
    'attributes': {**about, 'complete': complete},
  }


def _check_space(folder, about, done, more):
  """Raises OSError unless what is left to write fits on the disk."""
  size = 2 if about['dtype'] == 'bfloat16' else 4
  per_row = size * len(about['layers']) * sum(about['widths'].values())
  needed = per_row * (about['num_rows'] - done) + more
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise OSError(
      f'{folder} would take {needed / 2**20:,.1f} MiB more, and '
      f'{free / 2**20:,.1f} MiB are free there. Store fewer layers, sites or '
      'rows, choose bfloat16, or another place.'
    )
