"""Writes a store of activations, or goes on with one; see store.py."""

from collections.abc import Mapping, Sequence
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

from experiments.activations.gathering import run_batches
from experiments.activations.harvest_rows import HarvestRows
from experiments.activations.reading import check_place, check_tokens
from experiments.activations.row_batches import (
  BATCH_SIZE,
  BUCKETS,
  count_tokens,
  progress,
)
from experiments.harvest.store import (
  ARRAYS,
  DTYPES,
  FORMAT,
  GROUP,
  IDENTITY,
  PROGRESS,
  ROWS,
  Store,
  array_spec,
  check_chunks,
  group_file,
  open_store,
  rows_done,
)
from experiments.runs import outputs
import gemma_jax as gj

CHUNK_ROWS = 512


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
    folder: Folder of the store.
    model: The model, whole or truncated after the last of the layers.
    rows: n rows.
    sites: Distinct sites of `gemma_jax.VECTOR_SITES`.
    layers: L distinct layers.
    provenance: Whatever tells these activations from others, for JSON: the
      fingerprint of the model and of its tokenizer, ids of SAEs.
    labels: [n], written beside the rows.
    dtype: 'bfloat16' or 'float32'; None for the model's.
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
    'format': FORMAT,
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
  outputs.check_same_run(folder / IDENTITY, about, resumes=done > 0)
  check_chunks(folder, about, done)
  _check_space(folder, about, done, len(described.encode()))
  if not done:  # what a run left that wrote no chunk
    shutil.rmtree(folder / ARRAYS, ignore_errors=True)
  outputs.write_text(folder / ROWS, described)
  group = folder / ARRAYS / GROUP
  outputs.write_json(group, group_file(about, done == len(rows)))
  if done < len(rows):
    _fill(folder, model, rows, about, done)
    outputs.write_json(group, group_file(about, True))
  return open_store(folder)


def _fill(folder, model, rows, about, done):
  """Runs the model on all rows from `done` on."""
  n, chunk = about['num_rows'], about['chunk_rows']
  sites, layers, widths = about['sites'], about['layers'], about['widths']
  arrays = {
    site: ts.open(
      array_spec(folder, site, about), open=True, create=True
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
    outputs.write_text(folder / PROGRESS, json.dumps({'rows': stop}) + '\n')
  except (ValueError, OSError) as error:
    free = shutil.disk_usage(folder).free
    raise OSError(
      f'{folder}: rows up to {stop} could not be written; {free / 2**20:,.1f} '
      'MiB are free there. Make space and repeat the command, which goes on '
      f'with them. What was said: {error}'
    ) from error


def _stored(part: np.ndarray) -> np.ndarray:
  """Returns values as an array holds them."""
  return part.view(np.uint16) if part.dtype == ml_dtypes.bfloat16 else part


def _describe(rows: HarvestRows, labels: Sequence[str] | None) -> str:
  """Returns the text of rows.jsonl."""
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
