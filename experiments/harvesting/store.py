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
what it reads as `ml_dtypes.bfloat16`. The group's attributes say whether the
store is complete; rows that are not written yet read as 0.

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

from experiments import outputs
from experiments.harvesting.batches import (
  BATCH_SIZE,
  BUCKETS,
  count_tokens,
  progress,
)
from experiments.harvesting.gathering import run_batches
from experiments.harvesting.reading import check_place, check_tokens
from experiments.harvesting.rows import HarvestRows
import gemma_jax as gj

CHUNK_ROWS = 512
DTYPES = ('bfloat16', 'float32')

_ARRAYS, _ROWS = 'activations.zarr', 'rows.jsonl'
_IDENTITY, _PROGRESS = 'store.json', 'progress.json'


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
    """
    sites, layers = self.about['sites'], self.about['layers']
    if site not in sites or layer not in layers:
      raise KeyError(
        f'{self.folder} has layers {layers} of {", ".join(sites)}, not '
        f'{site} of layer {layer}.'
      )
    array = ts.open(_spec(self.folder, site), read=True).result()
    part = array[start:stop, layers.index(layer)].read().result()
    if self.about['dtype'] == 'bfloat16':
      part = part.view(ml_dtypes.bfloat16)
    return part.astype(np.float32)


def open_store(folder: str | os.PathLike) -> Store:
  """Opens a store.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is not complete.
  """
  folder = pathlib.Path(folder)
  if not (folder / _IDENTITY).is_file():
    raise FileNotFoundError(f'{folder} has no store of activations.')
  about = json.loads((folder / _IDENTITY).read_text(encoding='utf-8'))
  done = rows_done(folder)
  if done < about['num_rows']:
    raise ValueError(
      f'{folder} has {done:,} of {about["num_rows"]:,} rows: the run that '
      'writes it was stopped. The same command goes on with it.'
    )
  text = (folder / _ROWS).read_text(encoding='utf-8')
  rows = [json.loads(line) for line in text.split('\n') if line]
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
    sites: Of `gemma_jax.VECTOR_SITES`.
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
      the folder has a store of another configuration: the error says which.
    OSError: there is no space, or the folder cannot be written.
  """
  folder = pathlib.Path(folder)
  sites, layers = list(sites), [int(layer) for layer in layers]
  dtype = str(model.dtype) if dtype is None else dtype
  if dtype not in DTYPES:
    raise ValueError(f'dtype is {dtype!r}, expected one of {DTYPES}.')
  if not len(rows):
    raise ValueError('There are no rows to store: no prompt could be read.')
  check_tokens(model.config, rows)
  for site in sites:
    for layer in layers:
      check_place(model.config, site, layer)
  described = _describe(rows, labels)
  about = {
    'num_rows': len(rows),
    'sites': sites,
    'layers': layers,
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
  widths = {site: gj.site_width(model.config, site) for site in sites}
  _check_space(folder, about, widths, done, len(described.encode()))
  if not done:  # what a run left that wrote no chunk
    shutil.rmtree(folder / _ARRAYS, ignore_errors=True)
  outputs.write_text(folder / _ROWS, described)
  _write_group(folder, about, complete=done == len(rows))
  if done < len(rows):
    _fill(folder, model, rows, about, widths, done)
    _write_group(folder, about, complete=True)
  return open_store(folder)


def _fill(folder, model, rows, about, widths, done):
  """Runs the model on all rows from `done` on."""
  n, chunk = about['num_rows'], about['chunk_rows']
  sites, layers = about['sites'], about['layers']
  arrays = {
    site: ts.open(
      _spec(folder, site, about, widths[site]), open=True, create=True
    ).result()
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
  """How many rows of a store are written, the first ones."""
  path = pathlib.Path(folder) / _PROGRESS
  if not path.is_file():
    return 0
  return json.loads(path.read_text(encoding='utf-8'))['rows']


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


def _spec(folder, site, about=None, width=None) -> dict:
  """What tensorstore opens, or with `about` makes."""
  path = (folder / _ARRAYS / site).resolve()
  spec = {
    'driver': 'zarr3',
    'kvstore': {'driver': 'file', 'path': os.fspath(path)},
  }
  if about is None:
    return spec
  L, chunk = len(about['layers']), about['chunk_rows']
  half = about['dtype'] == 'bfloat16'
  plain = [{'name': 'bytes', 'configuration': {'endian': 'little'}}]
  # One file per chunk of rows, in which every layer can be read alone.
  shards = {
    'chunk_shape': [chunk, 1, width],
    'codecs': plain,
    'index_codecs': [*plain, {'name': 'crc32c'}],
  }
  spec['metadata'] = {
    'shape': [about['num_rows'], L, width],
    'data_type': 'uint16' if half else 'float32',
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
  return spec


def _write_group(folder: pathlib.Path, about: Mapping, complete: bool):
  """The group's own file, with the provenance."""
  metadata = {
    'zarr_format': 3,
    'node_type': 'group',
    'attributes': {**about, 'complete': complete},
  }
  path = folder / _ARRAYS / 'zarr.json'
  outputs.write_text(path, json.dumps(metadata, indent=2) + '\n')


def _check_space(folder, about, widths, done, more):
  """Raises OSError unless what is left to write fits on the disk."""
  size = 2 if about['dtype'] == 'bfloat16' else 4
  per_row = size * len(about['layers']) * sum(widths.values())
  needed = per_row * (about['num_rows'] - done) + more
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise OSError(
      f'{folder} would take {needed / 2**20:,.1f} MiB more, and '
      f'{free / 2**20:,.1f} MiB are free there. Store fewer layers, sites or '
      'rows, choose bfloat16, or another place.'
    )
