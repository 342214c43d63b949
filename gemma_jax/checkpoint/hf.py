"""Gemma 2 checkpoints in the format of Hugging Face: safetensors.

A checkpoint is a folder: `config.json`, and either `model.safetensors` or
several such files with an index that says which tensor is where. Tensors are
read as the slices that are needed, straight into stacked arrays, without torch
and without a second copy of the model on the host.
"""

from collections.abc import Callable, Sequence
import contextlib
import functools
import json
import math
import os
import pathlib
import shutil
import warnings

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from gemma_jax import sharding
from gemma_jax.checkpoint import hf_format
from gemma_jax.checkpoint.hf_format import HF_NAMES, LM_HEAD
from gemma_jax.config import ModelConfig
from gemma_jax.weights import WEIGHTS, Decoder, weight_shape

# Files are mapped anew for every piece of this size, because the pages of a
# mapping count as this process's memory until it is closed.
_PIECE_BYTES = 1 << 23


def load_checkpoint(
  path_or_hub_id: str | os.PathLike,
  *,
  dtype=None,
  num_layers: int | None = None,
  mesh: jax.sharding.Mesh | None = None,
  revision: str | None = None,
) -> Decoder:
  """Loads a Gemma 2 from a Hugging Face checkpoint.

  Args:
    path_or_hub_id: A folder, or a hub id such as 'google/gemma-2-2b'.
    dtype: bfloat16, float16 or float32; None keeps that of the files.
    num_layers: Only the first so many layers, whose bytes alone are read;
      None is all.
    mesh: Where to place the weights, by `sharding.WEIGHT_RULES`; each process
      reads its own shards. None is the default device.
    revision: Branch, tag or commit of the hub id.

  Raises:
    FileNotFoundError: there is no such folder, or a file of it is absent.
    ValueError: it is not a whole and consistent Gemma 2 checkpoint. Everything
      that can be told from the headers is checked before weights are read.

  Warns:
    UserWarning: a tensor holds NaN or infinity.
  """
  reader = CheckpointReader(
    path_or_hub_id, dtype=dtype, num_layers=num_layers, revision=revision
  )
  return reader.load(mesh)


class CheckpointReader:
  """A checkpoint whose headers were checked, and whose weights can be read.

  Attributes:
    folder: Where it is; tokenizer files are here too.
    config: Of the first `num_layers` layers.
    dtype: Of what is read, unless `read` is told another.
    num_bytes: Size of the needed tensors in the files.
  """

  def __init__(
    self,
    path_or_hub_id: str | os.PathLike,
    *,
    dtype=None,
    num_layers: int | None = None,
    revision: str | None = None,
  ):
    """Opens and checks; arguments and errors are those of `load_checkpoint`."""
    dtype = None if dtype is None else hf_format.supported_dtype(dtype)
    self.folder, fetch = hf_format.locate(path_or_hub_id, revision)
    whole = ModelConfig.from_hf(self.folder)
    layers = whole.num_layers if num_layers is None else num_layers
    self.config = whole.truncated(layers)

    found = hf_format.check_tensors(self.folder, fetch, whole, self.config)
    self._shapes = shapes = hf_format.tensor_shapes(self.config)
    kinds = {found[key][1]: key for key in shapes}
    if len(kinds) > 1 and dtype is None:
      raise ValueError(
        f'{self.folder} mixes dtypes: '
        f'{", ".join(f"{key} is {kind}" for kind, key in kinds.items())}. Say '
        'which one to load, such as dtype=jnp.float32.'
      )
    self.dtype = hf_format.DTYPES[min(kinds)] if dtype is None else dtype
    self._paths = {key: path for key, (path, _) in found.items()}
    self.num_bytes = sum(
      math.prod(shape) * hf_format.DTYPES[found[key][1]].itemsize
      for key, shape in shapes.items()
    )

  def path(self, name: str, layer: int = 0) -> pathlib.Path:
    """The file that holds a weight of one layer."""
    return self._paths[HF_NAMES[name].format(layer)]

  def read(
    self,
    name: str,
    index: Sequence[slice] = (),
    dtype=None,
    on_bytes: Callable[[int], object] = lambda n: None,
  ) -> np.ndarray:
    """Reads part of a weight, and no other bytes.

    Args:
      name: One of WEIGHTS.
      index: Slices of step 1 into its (stacked) shape; dimensions left out
        are whole. `read('wq', [slice(3, 4)])` is layer 3, [1, N, H, D].
      dtype: As in `load_checkpoint`; None is `self.dtype`.
      on_bytes: Called with the number of bytes read since the last call.

    Returns:
      A new array, aligned such that a CPU device takes it without a copy.
    """
    letters = WEIGHTS[name]
    shape = weight_shape(self.config, name)
    index = tuple(index) + (slice(None),) * (len(shape) - len(index))
    spans = [range(n)[part] for n, part in zip(shape, index, strict=True)]
    if any(span.step != 1 for span in spans):
      raise ValueError(f'Slices must have step 1, got {index} of {name}.')
    dtype = self.dtype if dtype is None else hf_format.supported_dtype(dtype)
    out = _aligned(tuple(map(len, spans)), dtype)
    if letters[0] != 'L':
      self._read_tensor(HF_NAMES[name], letters, spans, out, on_bytes)
      return out
    for layer, target in zip(spans[0], out, strict=True):
      key = HF_NAMES[name].format(layer)
      self._read_tensor(key, letters[1:], spans[1:], target, on_bytes)
    return out

  def _read_tensor(self, key, letters, spans, out, on_bytes):
    """Fills `out` with the part of one tensor that `spans` name."""
    H = self.config.head_dim
    heads = letters.find('H')  # merged with the dimension before it
    bounds = [(span.start, span.stop) for span in spans]
    full = [stop - start for start, stop in bounds]
    take = [slice(None)] * len(spans)
    if heads > 0:
      take[heads] = slice(*bounds[heads])
      full[heads] = H
      start, stop = bounds[heads - 1]
      bounds[heads - 1 : heads + 1] = [(start * H, stop * H)]
    if not out.size:
      return
    unit = H if heads == 1 else 1  # rows of the file per row of `out`
    rest = [slice(*bound) for bound in bounds[1:]]
    row_bytes = unit * math.prod(self._shapes[key][1:]) * 4
    rows = max(1, _PIECE_BYTES // row_bytes)
    for at in range(0, len(out), rows):
      count = min(rows, len(out) - at)
      first = bounds[0][0] + at * unit
      with safe_open(self._paths[key], 'numpy') as file:
        part = file.get_slice(key)[(slice(first, first + count * unit), *rest)]
      # Casting to float16 may overflow; `load` warns of that by name.
      with np.errstate(over='ignore'):
        out[at : at + count] = part.reshape(count, *full[1:])[tuple(take)]
      on_bytes(part.nbytes)

  def load(
    self,
    mesh: jax.sharding.Mesh | None = None,
    on_bytes: Callable[[int], object] = lambda n: None,
  ) -> Decoder:
    """Reads all weights onto devices; see `load_checkpoint` and `read`."""
    self._check_head()
    weights = {}
    for name, letters in WEIGHTS.items():
      shape = weight_shape(self.config, name)
      placed = sharding.weight_sharding(letters, shape, mesh)
      if placed is None:
        weights[name] = jax.device_put(self.read(name, on_bytes=on_bytes))
      else:
        weights[name] = self._read_shards(name, shape, placed, on_bytes)
      finite = np.asarray(_finite(weights[name], letters[0] == 'L', mesh))
      for layer in np.flatnonzero(~finite):
        warnings.warn(
          f'{self.path(name, layer)}: tensor {HF_NAMES[name].format(layer)} '
          f'holds NaN or infinity (as {self.dtype}), and so will what the '
          'model computes. If the file is as published, load it with '
          'dtype=jnp.float32.',
          stacklevel=3,
        )
    return Decoder(self.config, weights)

  def _read_shards(self, name, shape, placed, on_bytes):
    """One weight on a mesh; what several devices hold is read once."""
    parts = {}

    def read(index):
      key = str(index)
      if key not in parts:
        parts[key] = self.read(name, index, on_bytes=on_bytes)
      return parts[key]

    return jax.make_array_from_callback(shape, placed, read)

  def _check_head(self):
    """Refuses an unembedding that is not the embedding's copy."""
    if LM_HEAD not in self._paths:
      return
    key = HF_NAMES['embed']
    rows = max(1, _PIECE_BYTES // (4 * self.config.d_model))
    V = self.config.vocab_size
    for at in range(0, V, rows):
      piece = slice(at, min(at + rows, V))
      with safe_open(self._paths[LM_HEAD], 'numpy') as file:
        head = file.get_slice(LM_HEAD)[piece]
      with safe_open(self._paths[key], 'numpy') as file:
        embed = file.get_slice(key)[piece].astype(head.dtype)
      if head.tobytes() != embed.tobytes():
        raise ValueError(
          f'{self._paths[LM_HEAD]}: tensor {LM_HEAD} differs from {key}; '
          'expected a copy of it. Gemma 2 ties the two; a model with an '
          'unembedding of its own cannot be loaded.'
        )


def save_checkpoint(
  model: Decoder,
  path: str | os.PathLike,
  *,
  max_shard_bytes: int = 4 * 10**9,
  on_bytes: Callable[[int], object] = lambda n: None,
):
  """Writes a checkpoint that Hugging Face transformers reads.

  The folder appears under its name when it is complete. The host holds one
  file's tensors at a time.

  Args:
    model: The model, in any placement that this process sees all of.
    path: A new or empty folder.
    max_shard_bytes: Where a file would grow beyond this, another begins; with
      more than one there is an index.
    on_bytes: Called with the number of bytes written since the last call.

  Raises:
    FileExistsError: the folder exists and is not empty.
    ValueError: the dtype has no place in the format, the layers are unstacked,
      or other processes hold part of the model.
  """
  weights = model.weights()
  dtype = hf_format.supported_dtype(model.dtype)
  if not all(array.is_fully_addressable for array in weights.values()):
    raise ValueError(
      'Other processes hold part of this model. Save it with save_orbax, and '
      'convert that with tools/convert_checkpoint.py.'
    )
  shapes = hf_format.tensor_shapes(model.config)
  files = hf_format.split_into_files(model.config, dtype, max_shard_bytes)
  with new_folder(path) as folder:
    write_config(folder, model)
    weight_map = {}
    for i, file in enumerate(files):
      one = f'model-{i + 1:05d}-of-{len(files):05d}.safetensors'
      one = one if len(files) > 1 else hf_format.SINGLE_FILE
      tensors = {}
      for key, name, layer in file:
        array = weights[name] if layer is None else weights[name][layer]
        tensors[key] = np.ascontiguousarray(array).reshape(shapes[key])
        weight_map[key] = one
      save_file(tensors, folder / one, metadata={'format': 'pt'})
      # The library keeps its files from everybody else.
      shutil.copymode(folder / 'config.json', folder / one)
      on_bytes(sum(array.nbytes for array in tensors.values()))
    total = sum(map(math.prod, shapes.values())) * dtype.itemsize
    if len(files) > 1:
      index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
      _write_json(folder / hf_format.INDEX_FILE, index)


def write_config(folder: pathlib.Path, model: Decoder):
  """Writes the `config.json` of a model, with its dtype."""
  fields = model.config.to_hf() | {'dtype': str(model.dtype)}
  _write_json(folder / 'config.json', fields)


def _write_json(path: pathlib.Path, content):
  path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


@contextlib.contextmanager
def new_folder(path: str | os.PathLike):
  """A folder to fill, which appears as `path` once the block has ended well.

  Raises:
    FileExistsError: `path` exists and is not an empty folder.
  """
  path = pathlib.Path(path).resolve()
  check_new_folder(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'.{path.name}.partial-{os.getpid()}')
  shutil.rmtree(partial, ignore_errors=True)  # of a killed run
  partial.mkdir()
  try:
    yield partial
    os.rename(partial, path)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def check_new_folder(path: str | os.PathLike):
  """Raises FileExistsError unless `path` is absent or an empty folder."""
  path = pathlib.Path(path)
  if path.exists() and not (path.is_dir() and not any(path.iterdir())):
    raise FileExistsError(
      f'{path} exists and is not an empty folder. Nothing is overwritten: '
      'remove it or choose another place.'
    )


def _aligned(shape, dtype) -> np.ndarray:
  """Uninitialised, on a 64-byte boundary."""
  size = math.prod(shape) * dtype.itemsize
  raw = np.empty(size + 64, np.uint8)
  start = -raw.ctypes.data % 64
  return raw[start : start + size].view(dtype).reshape(shape)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _finite(array, stacked, mesh):
  """bool [L], or [1] of a weight without layers: all values are finite."""
  array = array if stacked else array[None]
  finite = jnp.isfinite(array).all(axis=tuple(range(1, array.ndim)))
  if mesh is None:
    return finite
  everywhere = NamedSharding(mesh, PartitionSpec())
  return jax.lax.with_sharding_constraint(finite, everywhere)
