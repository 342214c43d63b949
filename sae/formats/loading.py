"""SAEs by name or path, in whichever format they are."""

from collections.abc import Callable
import dataclasses
import os
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from sae.formats import llama_scope, releases, sae_lens
from sae.formats.folders import inside
from sae.formats.gemma_scope import METADATA_FILE, read_gemma_scope
from sae.formats.hooks import read_site
from sae.formats.llama_scope import read_llama_scope
from sae.formats.sae_lens import read_sae_lens
from sae.jumprelu import WEIGHTS, JumpReLUSAE, Origin
from sae.training import sharding

_DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
# What marks a folder as one SAE, and of which format.
_MARKS = (releases.PARAMS_FILE, sae_lens.CONFIG_FILE, llama_scope.CONFIG_FILE)
# All that may be needed of an SAE whose format is not known before.
_FILES = (
  *_MARKS,
  METADATA_FILE,
  sae_lens.WEIGHTS_FILE,
  sae_lens.SCALER_FILE,
  llama_scope.WEIGHTS_FILE,
)


def load_sae(
  release_or_path: str | os.PathLike,
  sae_id: str | None = None,
  *,
  dtype=None,
  revision: str | None = None,
  site: str | None = None,
  layer: int | None = None,
  mesh: jax.sharding.Mesh | None = None,
) -> JumpReLUSAE:
  """Loads an SAE of Gemma Scope, SAELens or Llama Scope.

    load_sae('gemma-scope-2b-pt-res', 'layer_12/width_16k/average_l0_82')
    load_sae('gemma-scope-2b-pt-res-canonical', 'layer_12/width_16k/canonical')
    load_sae('gemma-2-2b/12-gemmascope-res-16k')
    load_sae('/data/gemma-scope-2b-pt-res', 'layer_12/width_16k/canonical')
    load_sae('my_sae/params.npz', site='resid_post', layer=12)
    load_sae('my_sae_lens_folder')

  Args:
    release_or_path: A file or folder here, which is taken if it exists; else a
      name that `releases.resolve` knows, or a hub id, which are downloaded into
      the hub's cache (offline, HF_HUB_OFFLINE=1, they are taken from there).
    sae_id: Which SAE of the release, repository or folder of several.
    dtype: float32 (None), bfloat16 or float16, of all weights but the
      threshold, which is float32.
    revision: Branch, tag or commit on the hub.
    site: What it reads, a name of `gemma_jax.SITES`, or that of a hook
      ('blocks.12.hook_resid_post', which says the layer too); needed if the
      files and their folder do not say.
    layer: As `site`.
    mesh: Latents are split over its axis 'model', where that divides them; None
      is the default device.

  Returns:
    The SAE, on raw activations; `origin` has its site and layer.

  Raises:
    FileNotFoundError: a path or file is absent; the error lists what is there.
    UnknownSAE: a name is unknown; the error suggests the nearest.
    ValueError: files are damaged or not understood (see the readers), site and
      layer are unknown, or are not those that were given.
    ImportError: it must be downloaded, and huggingface_hub is not installed.
  """
  if site is not None:
    site, layer = read_site(site, layer)
  place = _placing(dtype, mesh)
  path = pathlib.Path(release_or_path).expanduser()
  if path.exists():
    if revision is not None:
      raise ValueError(f'{path} is here; revision={revision!r} has no use.')
    path = _inside(path, sae_id) if sae_id is not None else path
  else:
    path = _download(release_or_path, sae_id, revision)
  read, path = _reader(path)
  if read is read_sae_lens:
    weights, origin = read(path, site=site, layer=layer, place=place)
  else:
    weights, origin = read(path, place=place)
  return JumpReLUSAE(weights, _settle(path, origin, site, layer))


def _settle(path, origin: Origin, site, layer) -> Origin:
  """Returns the origin with its site and layer, whoever named them."""
  for name, told in (('site', site), ('layer', layer)):
    known = getattr(origin, name)
    if known is None and told is None:
      raise ValueError(
        f'{path}: neither the files nor their folder say which {name} this SAE '
        f'reads. Pass {name}=, or keep the folder of the release '
        '(gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82).'
      )
    if None not in (known, told) and known != told:
      raise ValueError(
        f'{path} is an SAE of {name} {known!r}, but {name}={told!r} was given.'
      )
    settled = told if known is None else known
    origin = dataclasses.replace(origin, **{name: settled})
  return origin


def _placing(dtype, mesh) -> Callable[[str, np.ndarray], jax.Array]:
  """Casts weights and puts them where they belong, one at a time."""
  try:
    dtype = jnp.dtype(jnp.float32 if dtype is None else dtype)
  except TypeError:
    dtype = np.dtype(object)
  if dtype not in map(jnp.dtype, _DTYPES):
    raise ValueError(
      f'dtype must be float32, bfloat16 or float16, got {dtype}.'
    )

  def place(name, array):
    if name != 'threshold':
      with np.errstate(over='ignore'):
        array = array.astype(dtype, copy=False)
      if dtype == jnp.float16 and not np.isfinite(array).all():
        raise ValueError(
          f'{name} has values that float16 cannot hold. Use bfloat16.'
        )
    placed = sharding.placement(WEIGHTS[name], array.shape, mesh)
    if placed is None:
      return jax.device_put(array)
    return jax.make_array_from_callback(array.shape, placed, array.__getitem__)

  return place


def _reader(path: pathlib.Path):
  """Returns the function that reads what is there, and the path it takes."""
  if path.is_file():
    if path.suffix == '.npz':
      return read_gemma_scope, path
    # A file of a folder stands for the folder.
    for folder in (path.parent, path.parent.parent):
      if (folder / sae_lens.CONFIG_FILE).is_file():
        return read_sae_lens, folder
      if (folder / llama_scope.CONFIG_FILE).is_file():
        return read_llama_scope, folder
    raise ValueError(
      f'{path} is not an SAE in a known format. Expected an .npz file of Gemma '
      'Scope, or a file of a folder that has '
      f'{" or ".join(_MARKS[1:])}. Pickled weights (.pt) are never read.'
    )
  found = [name for name in _MARKS if (path / name).is_file()]
  if len(found) > 1:
    raise ValueError(
      f'{path} has {" and ".join(found)}; expected one of them. Pass the file '
      'that is meant.'
    )
  if not found:
    inner = sorted(path.glob(f'*/**/{releases.PARAMS_FILE}'))[:20]
    ids = [str(x.parent.relative_to(path)) for x in inner]
    raise FileNotFoundError(
      f'{path} is a folder without {", ".join(_MARKS)}, so it is not one SAE. '
      + (
        f'It holds several; pass one as sae_id: {", ".join(ids)}.'
        if ids
        else f'It has {_entries(path)}.'
      )
    )
  readers = (read_gemma_scope, read_sae_lens, read_llama_scope)
  read = dict(zip(_MARKS, readers, strict=True))[found[0]]
  return read, path / found[0] if read is read_gemma_scope else path


def _inside(root: pathlib.Path, sae_id: str) -> pathlib.Path:
  """Returns the folder of one SAE in a folder of several."""
  if not root.is_dir():
    raise ValueError(
      f'{root} is a file, so it is one SAE; sae_id={sae_id!r} has no use.'
    )
  parts = pathlib.PurePosixPath(sae_id).parts
  if '..' in parts or sae_id.startswith('/'):
    raise ValueError(f'sae_id={sae_id!r} leaves {root}. Pass the path itself.')
  if parts and parts[-1] == 'canonical' and not (root / sae_id).exists():
    names = [x.rpartition('--')[2] for x in root.absolute().parts]
    name = next((x for x in reversed(names) if x in releases.RELEASES), '')
    try:
      parts = pathlib.PurePosixPath(
        releases.resolve(name or names[-1], sae_id).path
      ).parts
    except releases.UnknownSAE as error:
      raise releases.UnknownSAE(
        f'{root} has no folder {sae_id}, and its name says no more: '
        f'{error.args[0]}'
      ) from error
  there = root
  for i, part in enumerate(parts):
    if not (there / part).exists():
      raise FileNotFoundError(
        f'{root} has no {"/".join(parts)}: {there} has no {part}. It has '
        f'{_entries(there, prefix="/".join(parts[:i]))}.'
      )
    there = there / part
  return inside(root, '/'.join(parts))


def _entries(folder, prefix='') -> str:
  """Returns what is in a folder, numbers in their order."""
  names = [x.name for x in folder.iterdir() if not x.name.startswith('.')]
  names.sort(
    key=lambda x: [
      int(p) if p.isdecimal() else p for p in re.split(r'(\d+)', x)
    ]
  )
  more = f' and {len(names) - 30} more' if len(names) > 30 else ''
  prefix = f'{prefix}/' if prefix else ''
  return ', '.join(prefix + name for name in names[:30]) + more or 'nothing'


def _download(name, sae_id, revision) -> pathlib.Path:
  """Fetches what one SAE needs; the path is its file or folder."""
  path = pathlib.Path(name)
  hub_id = re.fullmatch(r'\w[\w.-]*/[\w.-]+', str(name))
  gemma_scope = re.match(
    r'(google/)?gemma-scope-|gemma-2-\w+(-it)?/.*gemmascope', f'{name}/{sae_id}'
  )
  named = (
    '/' not in str(name) or hub_id and (gemma_scope or not path.parent.is_dir())
  )
  if not isinstance(name, str) or not named:
    raise FileNotFoundError(
      f'{path} does not exist. Expected a file or folder, a name such as '
      'gemma-scope-2b-pt-res, or a hub id.'
    )
  if gemma_scope or not hub_id:
    try:
      found = releases.resolve(name, sae_id)
    except releases.UnknownSAE as error:
      raise releases.UnknownSAE(
        f'{name!r} is not a file or folder here. {error.args[0]}'
      ) from error
  try:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError
  except ImportError as error:
    raise ImportError(
      f'{name} is not here; to download it from the hub, run '
      "`pip install 'knowledge-awareness-jax[hub]'`."
    ) from error
  if hub_id and not gemma_scope:
    start = f'{sae_id}/' if sae_id else ''
    snapshot = huggingface_hub.snapshot_download(
      name, revision=revision, allow_patterns=[start + file for file in _FILES]
    )
    return _inside(pathlib.Path(snapshot), sae_id or '')
  file = f'{found.path}/{releases.PARAMS_FILE}'
  try:
    path = huggingface_hub.hf_hub_download(found.repo, file, revision=revision)
  except EntryNotFoundError as error:
    raise FileNotFoundError(
      f'{found.repo} has no {file}, or the hub cannot be reached and it is not '
      f'in the cache: {error}'
    ) from error
  return pathlib.Path(path)
