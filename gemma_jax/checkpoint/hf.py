"""Checkpoints: folders of Hugging Face with safetensors, and GGUF files.

A checkpoint is a folder: `config.json`, and either `model.safetensors` or
several such files with an index that says which tensor is where. Tensors are
read as the slices that are needed, straight into stacked arrays, without torch
and without a second copy of the model on the host. A .gguf file is read
through `gguf.py`, which presents it as such a folder.
"""

from collections.abc import Callable, Sequence
import contextlib
import functools
import json
import math
import os
import pathlib
import warnings

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
from safetensors import safe_open

from gemma_jax import sharding
from gemma_jax.checkpoint import hf_format
from gemma_jax.checkpoint.gguf import GgufFile
from gemma_jax.checkpoint.hf_format import LM_HEAD, Tensor
from gemma_jax.families import config_fields, read_config
from gemma_jax.weights import LETTERS, Decoder, weight_letters, weight_shape
from gemma_jax.whole_files import replaced_folder, save_tensors

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
  """Loads a model's weights. `load_model` loads its tokenizer too.

  Args:
    path_or_hub_id: A folder, a .gguf file, or a hub id such as
      'google/gemma-2-2b'.
    dtype: bfloat16, float16 or float32; None keeps that of the files, and is
      float32 for a .gguf.
    num_layers: Only the first so many layers, whose bytes alone are read;
      None is all.
    mesh: Where to place the weights, by `sharding.WEIGHT_RULES`; each process
      reads its own shards. None is the default device.
    revision: Branch, tag or commit of the hub id.

  Raises:
    FileNotFoundError: there is no such folder, or a file of it is absent.
    ValueError: it is not a whole and consistent checkpoint of a family that is
      supported. Everything that can be told from the headers is checked before
      weights are read.

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
    gguf: The .gguf file, or None for a folder.
    config: ModelConfig of the first `num_layers` layers.
    dtype: The dtype of what is read, unless `read` is told another.
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
    self.gguf = None
    if str(path_or_hub_id).endswith('.gguf'):
      if revision is not None:
        raise ValueError(f'revision={revision!r} is of no use for a file.')
      self.gguf = GgufFile(path_or_hub_id)
      self.folder = self.gguf.path.parent
      hf_format.refuse_adapters(self.folder)
      whole = read_config(self.gguf.config_fields())
    else:
      self.folder, fetch = hf_format.locate(path_or_hub_id, revision)
      hf_format.refuse_adapters(self.folder)
      whole = read_config(self.folder)
    layers = whole.num_layers if num_layers is None else num_layers
    self.config = whole.truncated(layers)

    if self.gguf is not None:
      self._table = hf_format.tensor_table(self.config)
      headers = self.gguf.headers()
      found = {key: (self.gguf.path, 'F32') for key in headers}
    else:
      self._table, found = hf_format.check_tensors(
        self.folder, fetch, whole, self.config
      )
    kinds = {found[key][1]: key for key in self._table}
    if len(kinds) > 1 and dtype is None:
      raise ValueError(
        f'{self.folder} mixes dtypes: '
        f'{", ".join(f"{key} is {kind}" for kind, key in kinds.items())}. Say '
        'which one to load, such as dtype=jnp.float32.'
      )
    self.dtype = hf_format.DTYPES[min(kinds)] if dtype is None else dtype
    self._paths = {key: path for key, (path, _) in found.items()}
    self.num_bytes = sum(
      math.prod(tensor.shape) * hf_format.DTYPES[found[key][1]].itemsize
      for key, tensor in self._table.items()
    )
    # Weight and layer -> its tensor, and the output at which it begins there.
    self._places = {}
    for key, tensor in self._table.items():
      start = 0
      for name in tensor.weights:
        self._places[name, tensor.layer] = key, start
        start += hf_format.merged_shape(self.config, name)[0]

  @property
  def files(self) -> dict[str, pathlib.Path]:
    """Returns the tensors that are needed, and the file of each."""
    return {key: self._paths[key] for key in self._table}

  def tensor(self, name: str, layer: int | None = None) -> str:
    """Returns the tensor that holds a weight, of one layer if it has layers."""
    return self._places[name, layer][0]

  def path(self, name: str, layer: int | None = None) -> pathlib.Path:
    """Returns the file that holds a weight."""
    return self._paths[self.tensor(name, layer)]

  def read(
    self,
    name: str,
    index: Sequence[slice] = (),
    dtype=None,
    on_bytes: Callable[[int], object] = lambda n: None,
  ) -> np.ndarray:
    """Reads part of a weight, and no other bytes (of a .gguf, its tensors).

    Args:
      name: One of `weight_letters(config)`.
      index: Slices of step 1 into its (stacked) shape; dimensions left out
        are whole. `read('wq', [slice(3, 4)])` is layer 3, [1, N, H, D].
      dtype: As in `load_checkpoint`; None is `self.dtype`.
      on_bytes: Called with the number of bytes read since the last call.

    Returns:
      A new array, aligned such that a CPU device takes it without a copy.
    """
    letters = LETTERS[name]
    shape = weight_shape(self.config, name)
    index = tuple(index) + (slice(None),) * (len(shape) - len(index))
    spans = [range(n)[part] for n, part in zip(shape, index, strict=True)]
    if any(span.step != 1 for span in spans):
      raise ValueError(f'Slices must have step 1, got {index} of {name}.')
    dtype = self.dtype if dtype is None else hf_format.supported_dtype(dtype)
    out = _aligned(tuple(map(len, spans)), dtype)
    if letters[0] != 'L':
      self._read_tensor(name, None, letters, spans, out, on_bytes)
      return out
    for layer, target in zip(spans[0], out, strict=True):
      self._read_tensor(name, layer, letters[1:], spans[1:], target, on_bytes)
    return out

  def _read_tensor(self, name, layer, letters, spans, out, on_bytes):
    """Fills `out` with the part of one layer's weight that `spans` name."""
    key, offset = self._places[name, layer]
    tensor: Tensor = self._table[key]
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
    unit = H if heads == 1 else 1  # outputs of the file per row of `out`
    rest = [slice(*bound) for bound in bounds[1:]]
    inputs = math.prod(hf_format.merged_shape(self.config, name)[1:])
    rows = max(1, _PIECE_BYTES // (unit * inputs * 4))
    for at in range(0, len(out), rows):
      count = min(rows, len(out) - at)
      first = offset + bounds[0][0] + at * unit
      part = (slice(first, first + count * unit), *rest)
      values = self._slice(key, part[::-1] if tensor.transposed else part)
      on_bytes(values.nbytes)
      values = values.T if tensor.transposed else values
      # Casting to float16 may overflow; `load` warns of that by name.
      with np.errstate(over='ignore'):
        out[at : at + count] = values.reshape(count, *full[1:])[tuple(take)]

  def _slice(self, key: str, part: tuple[slice, ...]) -> np.ndarray:
    """Part of a tensor, as the file has it."""
    if self.gguf is not None:
      return self._dequantised(key)[part]
    with safe_open(self._paths[key], 'numpy') as file:
      return file.get_slice(key)[part]

  @functools.lru_cache(maxsize=1)  # noqa: B019 - one tensor, while it is read
  def _dequantised(self, key: str) -> np.ndarray:
    return self.gguf.read(key)

  def companions(self) -> dict[str, bytes]:
    """Returns the files that go along with the weights: name -> content.

    They are the tokenizer's and the generation's; those of a .gguf are made
    from what is in it.
    """
    if self.gguf is not None:
      files = self.gguf.tokenizer_files()
      return {name: text.encode() for name, text in files.items()}
    return hf_format.read_companions(self.folder)

  def load(
    self,
    mesh: jax.sharding.Mesh | None = None,
    on_bytes: Callable[[int], object] = lambda n: None,
  ) -> Decoder:
    """Reads all weights onto devices; see `load_checkpoint` and `read`."""
    self._check_head()
    weights = {}
    for name, letters in weight_letters(self.config).items():
      shape = weight_shape(self.config, name)
      placed = sharding.weight_sharding(letters, shape, mesh)
      if placed is None:
        weights[name] = jax.device_put(self.read(name, on_bytes=on_bytes))
      else:
        weights[name] = self._read_shards(name, shape, placed, on_bytes)
      finite = np.asarray(_finite(weights[name], letters[0] == 'L', mesh))
      for layer in np.flatnonzero(~finite):
        layer = int(layer) if letters[0] == 'L' else None
        warnings.warn(
          f'{self.path(name, layer)}: tensor {self.tensor(name, layer)} '
          f'holds NaN or infinity (as {self.dtype}), and so will what the '
          'model computes. If the file is as published, load it with '
          'dtype=jnp.float32.',
          stacklevel=3,
        )
    return Decoder(self.config, weights)

  def _read_shards(self, name, shape, placed, on_bytes):
    """Returns one weight on a mesh; what several devices hold is read once."""
    parts = {}

    def read(index):
      key = str(index)
      if key not in parts:
        parts[key] = self.read(name, index, on_bytes=on_bytes)
      return parts[key]

    return jax.make_array_from_callback(shape, placed, read)

  def _check_head(self):
    """Refuses a second copy of a tied unembedding that is no copy."""
    heads = [k for k in self._paths if k.endswith(LM_HEAD)]
    if self.gguf is not None or not self.config.tied or not heads:
      return
    (head,), key = heads, self.tensor('embed')
    rows = max(1, _PIECE_BYTES // (4 * self.config.d_model))
    V = self.config.vocab_size
    for at in range(0, V, rows):
      piece = slice(at, min(at + rows, V))
      second = self._slice(head, (piece,))
      embed = self._slice(key, (piece,)).astype(second.dtype)
      if second.tobytes() != embed.tobytes():
        raise ValueError(
          f'{self._paths[head]}: tensor {head} differs from {key}; expected a '
          'copy of it, because config.json has tie_word_embeddings=true. Set '
          'it to false if the model has an unembedding of its own.'
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
  table = hf_format.tensor_table(model.config)
  files = hf_format.split_into_files(model.config, dtype, max_shard_bytes)
  with new_folder(path) as folder:
    write_config(folder, model)
    weight_map = {}
    for i, file in enumerate(files):
      one = f'model-{i + 1:05d}-of-{len(files):05d}.safetensors'
      one = one if len(files) > 1 else hf_format.SINGLE_FILE
      tensors = {}
      for key in file:
        tensors[key] = _stored(weights, table[key])
        weight_map[key] = one
      save_tensors(folder / one, tensors, {'format': 'pt'})
      on_bytes(sum(array.nbytes for array in tensors.values()))
    total = sum(math.prod(tensor.shape) for tensor in table.values())
    total *= dtype.itemsize
    if len(files) > 1:
      index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
      _write_json(folder / hf_format.INDEX_FILE, index)


def _stored(weights, tensor: Tensor) -> np.ndarray:
  """Returns a tensor as a file has it, from the weights that it holds."""
  parts = []
  for name in tensor.weights:
    array = weights[name]
    array = array if tensor.layer is None else array[tensor.layer]
    array = np.asarray(array)
    inputs = tensor.shape[0] if tensor.transposed else tensor.shape[-1]
    flat = len(tensor.shape) == 1
    parts.append(array.reshape(-1) if flat else array.reshape(-1, inputs))
  joined = np.concatenate(parts)
  return np.ascontiguousarray(joined.T if tensor.transposed else joined)


def write_config(folder: pathlib.Path, model: Decoder):
  """Writes the `config.json` of a model, with its dtype."""
  fields = config_fields(model.config) | {'dtype': str(model.dtype)}
  _write_json(folder / 'config.json', fields)


def _write_json(path: pathlib.Path, content):
  path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


@contextlib.contextmanager
def new_folder(path: str | os.PathLike):
  """Yields a folder to fill, which appears as `path` once the block has ended
  well.

  Raises:
    FileExistsError: `path` exists and is not an empty folder.
  """
  path = pathlib.Path(path).resolve()
  check_new_folder(path)
  with replaced_folder(path) as partial:
    yield partial


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
