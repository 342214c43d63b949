"""Gemma Scope's file format: one params.npz per SAE.

A collection is a folder of SAEs of one site:

  layer_12/width_16k/average_l0_82/params.npz

holds W_enc [D, F], W_dec [F, D], b_enc [F], b_dec [D] and threshold [F] in
float32, in units of raw activations: what `sae.encode` takes, with nothing left
to fold (arXiv 2408.05147, appendix B). Nothing in the file names its site; of
published SAEs the repository's name does, and what is written here has a
`metadata.json` beside it that does.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
import os
import pathlib
import re

import numpy as np

from sae.folding import normalise_decoder
from sae.formats.fields import check_kind, refuse_misspelt
from sae.formats.folders import inside, new_folder, read_json, write_json
from sae.formats.hooks import check_site
from sae.formats.releases import (
  PARAMS_FILE,
  parse_width_label,
  released_at,
  width_label,
)
from sae.formats.tensor_files import TensorFile, host_weights
from sae.jumprelu import WEIGHTS, JumpReLUSAE, Origin, Weights

METADATA_FILE = 'metadata.json'
_FORMAT = 'gemma_scope'
# Rows of W_dec are of norm 1, within this.
_UNIT = 1e-4


def read_gemma_scope(
  path: str | os.PathLike,
  *,
  place: Callable[[str, np.ndarray], object] = lambda name, array: array,
) -> tuple[Weights, Origin]:
  """Reads a params.npz, compressed or not.

  Args:
    path: The file.
    place: Called with the name and the float32 array of each weight as soon as
      it is read; what it returns is kept, so that the host need not hold all.

  Returns:
    The weights, and what the path and a metadata.json say of their origin; the
    site may be None.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, is no SAE of this format, does not fit the model
      or the width that its path names, holds NaN, infinities or thresholds
      below 0, or is a link out of its folder.
  """
  path = pathlib.Path(path).expanduser()
  path = inside(path.parent, path.name)
  released = released_at(path.parent)
  sizes, said_by = {}, ''
  if released is not None:
    sizes = {'D': released.d_in, 'F': released.width}
    said_by = f'as {released.repo}/{released.path} has'
  elif match := re.fullmatch(r'width_(\d+[km]?)', path.parent.parent.name):
    sizes = {'F': parse_width_label(match[1])}
    said_by = f'as a folder called {match[0]} has'
  file = TensorFile(
    path,
    WEIGHTS | {'scaling_factor': ''},
    optional=['scaling_factor'],
    sizes=sizes,
    said_by=said_by,
  )
  origin = _origin(path, released.origin if released else None)
  if 'scaling_factor' in file.names:
    factors = file.read('scaling_factor')
    if not np.allclose(factors, 1):
      raise ValueError(
        f'{path}: tensor scaling_factor has values from {factors.min():.6g} to '
        f'{factors.max():.6g}, expected all ones. Latents that were rescaled '
        'after training are not what Gemma Scope released; multiply W_dec by '
        'the factors, and save the file without them.'
      )
  weights = {}
  for name in WEIGHTS:
    least = 0 if name == 'threshold' else None
    weights[name] = place(name, file.read(name, minimum=least))
  return Weights(**weights), origin


def save_gemma_scope(
  sae: JumpReLUSAE,
  root: str | os.PathLike,
  *,
  l0: float,
  normalise: bool = False,
  metadata: Mapping | None = None,
) -> pathlib.Path:
  """Writes an SAE into a collection, in the format that Gemma Scope has.

  The SAE's folder appears when it is complete. Weights are written in float32.

  Args:
    sae: Its origin has site and layer.
    root: Folder of the collection, which may exist. A collection is of one
      site: readers that do not know `metadata.json` go by the folder's name.
    l0: Mean number of active latents per token, as measured; the folder is
      named after it, rounded.
    normalise: The format has decoder rows of norm 1. Where a row's norm is not
      1 (within 1e-4, and not 0), True rescales it, and the latent, which then
      is multiplied by the norm; the reconstruction stays. False refuses,
      because thresholds on latents that were chosen before would not fit.
    metadata: How it was trained, for `metadata.json`.

  Returns:
    The path of params.npz.

  Raises:
    FileExistsError: the collection has that SAE already.
    ValueError: site, layer or `l0` are unknown, rows are not of norm 1, a
      weight is not finite, or `metadata` is not JSON.
  """
  origin = sae.origin
  if origin.site is None or origin.layer is None:
    raise ValueError(
      f'{origin} does not say which site and layer it reads. Give it an Origin '
      'with both, or nobody can use the file.'
    )
  check_site(origin.site)
  if not (math.isfinite(l0) and l0 >= 0):
    raise ValueError(
      f'l0 must be a mean number of latents, measured; got {l0}.'
    )
  weights = host_weights(sae)
  norms = np.sqrt(np.einsum('FD,FD->F', weights.W_dec, weights.W_dec))
  off = (np.abs(norms - 1) > _UNIT) & (norms > 0)
  if off.any():
    if not normalise:
      raise ValueError(
        f'{off.sum()} of {sae.width} rows of W_dec are not of norm 1; latent '
        f'{np.flatnonzero(off)[0]} has {norms[off][0]:.6g}. Pass '
        'normalise=True to rescale rows and latents, or keep the latents with '
        'save_sae_lens.'
      )
    weights = normalise_decoder(weights)
  folder = pathlib.Path(root).expanduser() / (
    f'layer_{origin.layer}/width_{width_label(sae.width)}/average_l0_{l0:.0f}'
  )
  with new_folder(folder) as partial:
    write_json(
      partial / METADATA_FILE,
      {
        'format': _FORMAT,
        'origin': dataclasses.asdict(origin) | {'l0': float(l0)},
        'rescaled_to_unit_decoder': bool(off.any()),
        'training': dict(metadata or {}),
      },
    )
    np.savez(partial / PARAMS_FILE, **weights._asdict())
  return folder / PARAMS_FILE


def _origin(path, released) -> Origin:
  """Returns what path and config say; ValueError if they disagree."""
  match = re.search(
    r'layer_(\d+)/width_\w+/average_l0_(\d+)/[^/]+$',
    pathlib.Path(os.path.abspath(path)).as_posix(),
  )
  origin = released or Origin()
  if match and not released:
    sae_id = match[0].rpartition('/')[0]
    origin = Origin(layer=int(match[1]), sae_id=sae_id, l0=float(match[2]))
  sidecar = inside(path.parent, METADATA_FILE)
  if not sidecar.is_file():
    return origin
  told = _read_origin(sidecar)
  for name in ('model', 'site', 'layer'):
    here, there = getattr(origin, name), getattr(told, name)
    if here is not None and there is not None and here != there:
      raise ValueError(
        f'{sidecar} says {name}={there!r}, but the path says {here!r}. One of '
        'them was moved or copied without the other.'
      )
  known = {k: v for k, v in dataclasses.asdict(told).items() if v is not None}
  return dataclasses.replace(origin, **known)


def _read_origin(sidecar) -> Origin:
  content = read_json(sidecar)
  refuse_misspelt(sidecar, content, ['origin'])
  # Another program's file may have the name, and says nothing of the origin.
  ours = content.get('format') == _FORMAT
  fields = content.get('origin', None if ours else {})
  names = [field.name for field in dataclasses.fields(Origin)]
  if not isinstance(fields, dict) or not fields.keys() <= set(names):
    raise ValueError(
      f'{sidecar} has the origin {fields!r:.200}; expected an object with '
      f'{", ".join(names)}.'
    )
  kinds = {'layer': int, 'l0': float}
  for name, value in fields.items():
    kind = kinds.get(name, str)
    check_kind(sidecar, f'origin.{name}', value, kind, type(None))
  if fields.get('site') is not None:
    try:
      check_site(fields['site'])
    except ValueError as error:
      raise ValueError(f'{sidecar}: origin.site: {error}') from error
  return Origin(**fields)
