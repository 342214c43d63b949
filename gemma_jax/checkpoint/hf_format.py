"""What a Hugging Face checkpoint of a decoder is: names, shapes, files.

A checkpoint is a folder (or a repository on the hub) with `config.json`, and
either `model.safetensors` or several such files with an index that says which
tensor is in which. Names and layouts of tensors are in the tables of
`families`. Everything here is told from names and headers; weights are read by
`hf.py`.
"""

import functools
import logging
import math
import pathlib
import re
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from gemma_jax.config import ModelConfig
from gemma_jax.families import family_of
from gemma_jax.json_files import REMEDY, read_json
from gemma_jax.path_checks import check_inside, files_inside
from gemma_jax.weights import LETTERS, weight_letters, weight_shape

# Small files that belong to a checkpoint; conversions carry them along.
COMPANIONS = (
  'tokenizer.json',
  'tokenizer.model',
  'vocab.json',
  'merges.txt',
  'added_tokens.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'chat_template.jinja',
  'generation_config.json',
)
SINGLE_FILE = 'model.safetensors'
INDEX_FILE = 'model.safetensors.index.json'
ADAPTER_FILE = 'adapter_config.json'

# As safetensors names them.
DTYPES = {
  'BF16': jnp.dtype(jnp.bfloat16),
  'F16': jnp.dtype(jnp.float16),
  'F32': jnp.dtype(jnp.float32),
}
# The unembedding; some exports write a tied one a second time.
LM_HEAD = 'lm_head.weight'


def read_companions(folder: pathlib.Path) -> dict[str, bytes]:
  """Returns the files in a folder that go along with weights.

  Raises:
    ValueError: one is a link to somewhere outside the folder, or no file.
  """
  found = files_inside(folder, COMPANIONS)
  return {name: path.read_bytes() for name, path in found.items()}


def supported_dtype(dtype) -> np.dtype:
  """Returns NumPy's dtype; ValueError unless weights can have it."""
  try:
    if jnp.dtype(dtype) in DTYPES.values():
      return jnp.dtype(dtype)
  except TypeError:
    pass
  raise ValueError(
    f'dtype must be bfloat16, float16 or float32, got {dtype!r}.'
  )


class Tensor(NamedTuple):
  """One tensor of a checkpoint, and the weights it holds.

  Attributes:
    weights: Names; several stand one after another along the outputs.
    layer: Which layer; None for a weight without layers.
    transposed: True if it is stored [in, out].
    shape: In the file.
  """

  weights: tuple[str, ...]
  layer: int | None
  transposed: bool
  shape: tuple[int, ...]


def tensor_table(
  config: ModelConfig, prefix: str | None = None
) -> dict[str, Tensor]:
  """Returns the tensors of a checkpoint, in the order of computation.

  Args:
    config: The model.
    prefix: What all names but the unembedding's begin with; None is the one
      that is written.
  """
  family = family_of(config)
  prefix = family.prefixes[0] if prefix is None else prefix
  have = weight_letters(config)
  table = {}

  def add(name, stored, layer):
    outputs = [merged_shape(config, weight) for weight in stored.weights]
    shape = (sum(shape[0] for shape in outputs), *outputs[0][1:])
    shape = shape[::-1] if stored.transposed else shape
    table[name] = Tensor(stored.weights, layer, stored.transposed, shape)

  rows = {
    name: stored
    for name, stored in family.tensors.items()
    if stored.weights[0] in have
  }
  for name, stored in rows.items():
    if '{}' not in name:
      add(prefix + name, stored, None)
  if not config.tied:
    shape = weight_shape(config, 'unembed')
    table[LM_HEAD] = Tensor(('unembed',), None, False, shape)
  for layer in range(config.num_layers):
    for name, stored in rows.items():
      if '{}' in name:
        add(prefix + name.format(layer), stored, layer)
  return table


def merged_shape(config: ModelConfig, name: str) -> tuple[int, ...]:
  """Returns a weight's shape without L, heads and head_dim in one: [N*H, D]."""
  letters, shape = LETTERS[name], weight_shape(config, name)
  if letters[0] == 'L':
    letters, shape = letters[1:], shape[1:]
  heads = letters.find('H')
  if heads > 0:
    merged = shape[heads - 1] * shape[heads]
    shape = (*shape[: heads - 1], merged, *shape[heads + 1 :])
  return shape


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
  """Returns the tensors of a checkpoint and their shapes in the files."""
  return {name: tensor.shape for name, tensor in tensor_table(config).items()}


def split_into_files(config: ModelConfig, dtype, max_bytes: int):
  """Returns which tensors each file of a new checkpoint holds.

  What belongs to no layer comes first, then the layers in order, so that a
  model's first layers can be loaded from its first files.

  Returns:
    For each file, the names of its tensors.
  """
  files, room = [], 0
  for name, tensor in tensor_table(config).items():
    size = math.prod(tensor.shape) * dtype.itemsize
    if not files or size > room:
      files.append([])
      room = max_bytes
    files[-1].append(name)
    room -= size
  return files


def find_prefix(config: ModelConfig, names, origin) -> str:
  """Returns what names of a checkpoint's tensors begin with.

  Raises:
    ValueError: the embedding has none of the family's names.
  """
  family = family_of(config)
  embed = next(n for n, s in family.tensors.items() if s.weights == ('embed',))
  for prefix in family.prefixes:
    if prefix + embed in names:
      return prefix
  raise ValueError(
    f'{origin}: tensor {family.prefixes[0]}{embed} is missing; there are '
    f'{len(names)} tensors, such as {sorted(names)[:3]}. Is this a whole '
    f'{family.title} checkpoint, and its own config.json?'
  )


def locate(source, revision):
  """Returns the folder, and a function that fetches files into it."""
  folder = pathlib.Path(source).expanduser()
  if folder.is_dir():
    if revision is not None:
      raise ValueError(
        f'{folder} is a folder; revision={revision!r} has no use.'
      )
    return folder, lambda names: None
  if folder.exists():
    raise NotADirectoryError(f'{folder} is a file; pass its folder.')
  is_id = isinstance(source, str) and re.fullmatch(r'\w[\w.-]*/[\w.-]+', source)
  if not is_id or folder.parent.is_dir():
    raise FileNotFoundError(
      f'{folder} does not exist. Expected a checkpoint folder, or a hub id '
      'such as google/gemma-2-2b.'
    )
  try:
    import huggingface_hub
  except ImportError as error:
    raise ImportError(
      f'{source} is not a folder here; to download it from the hub, run '
      "`pip install 'knowledge-awareness-jax[hub]'`."
    ) from error

  def fetch(names, revision=revision):
    return huggingface_hub.snapshot_download(
      source, revision=revision, allow_patterns=list(names)
    )

  folder = pathlib.Path(
    fetch(
      [
        *('config.json', ADAPTER_FILE, INDEX_FILE, *COMPANIONS),
        'additional_chat_templates/*.jinja',
      ]
    )
  )
  # The folder is named after the commit: the rest comes from the same one.
  return folder, functools.partial(fetch, revision=folder.name)


def check_tensors(folder, fetch, whole, config):
  """Checks names, files, shapes and dtypes before any weight is read.

  Args:
    folder: The checkpoint, as `locate` gives it.
    fetch: As `locate` gives it.
    whole: ModelConfig of the checkpoint.
    config: ModelConfig of the layers that are wanted; only files that hold one
      of their tensors are needed.

  Returns:
    The tensors that are needed, as `tensor_table` has them, and each tensor of
    the files that were looked at -> its file, its dtype as in DTYPES.

  Raises:
    FileNotFoundError, ValueError: as `load_checkpoint` describes.
  """
  weight_map, origin = _weight_map(folder, fetch)
  prefix = find_prefix(whole, weight_map, origin)
  table = tensor_table(whole, prefix)
  shapes = {name: tensor.shape for name, tensor in table.items()}
  needed = tensor_table(config, prefix)
  if missing := [key for key in shapes if key not in weight_map]:
    raise ValueError(
      f'{origin}: tensor {missing[0]} is missing'
      f'{f", and {len(missing) - 1} more" if missing[1:] else ""}. A '
      f'{family_of(whole).title} of {whole.num_layers} layers has '
      f'{len(shapes)} tensors; there are {len(weight_map)}. Is this the whole '
      'checkpoint, and its own config.json?'
    )
  if whole.tied:
    shapes[LM_HEAD] = weight_shape(whole, 'embed')
  shapes |= {  # multimodal folders put it beside the text model
    f'language_model.{LM_HEAD}': weight_shape(whole, 'embed')
  }
  left_out = check_names(weight_map, shapes, whole, origin)
  if left_out:
    logging.getLogger('gemma_jax').warning(
      '%s: %d tensors of other parts (%s, ...) are left out; the text model is '
      'loaded.',
      folder,
      len(left_out),
      min(left_out),
    )

  names = sorted({weight_map[key] for key in needed})
  fetch(names)
  found = {}
  for path in [_member(folder, name, origin) for name in names]:
    headers = _headers(path)
    for key, file in weight_map.items():
      if file == path.name and key not in headers:
        raise ValueError(
          f'{path}: tensor {key} is missing, though {origin} places it there. '
          'Download the checkpoint again.'
        )
    check_names(headers, shapes, whole, path)
    for key, (kind, shape) in headers.items():
      if key not in shapes:
        continue
      if shape != shapes[key]:
        raise ValueError(
          f'{path}: tensor {key} has shape {list(shape)}, expected '
          f'{list(shapes[key])}. Does config.json belong to these weights?'
        )
      if kind not in DTYPES:
        raise ValueError(
          f'{path}: tensor {key} has dtype {kind}, expected one of '
          f'{", ".join(DTYPES)}. Quantized weights cannot be loaded; use the '
          'checkpoint they were made from.'
        )
      if weight_map.get(key) == path.name:
        found[key] = path, kind
  return needed, found


def check_names(names, known, config: ModelConfig, origin) -> list[str]:
  """Returns the names of tensors of other models beside the decoder.

  Raises:
    ValueError: a tensor is neither known, nor a buffer, nor of another model.
  """
  family = family_of(config)
  left_out = []
  for name in names:
    if name in known or re.fullmatch(family.buffers, name):
      continue
    if not re.fullmatch(family.other_towers, name):
      example = next(n for n in tensor_table(config) if '.0.' in n)
      raise ValueError(
        f'{origin}: tensor {name} is unknown; expected the names of a '
        f'{family.title} with {config.num_layers} layers, such as {example}. '
        'It is not ignored: does config.json belong to these weights?'
      )
    left_out.append(name)
  return left_out


def refuse_adapters(folder: pathlib.Path):
  """Raises ValueError for a folder that holds an adapter (PEFT).

  Adapters in folders below are no part of the model: a warning names them.
  """
  if found := find_adapters(folder):
    raise ValueError(
      f'{found[0]}: {folder} has an adapter, which would be left out silently. '
      'Merge it into the weights first (peft: model.merge_and_unload()), pass '
      'the folder of the base model, or move the adapter to a folder of its '
      'own.'
    )
  if below := find_adapters(folder, '*/'):
    logging.getLogger('gemma_jax').warning(
      '%s: the adapter %s is left out; the model without it is loaded.',
      folder,
      below[0],
    )


def find_adapters(folder: pathlib.Path, where: str = '') -> list[pathlib.Path]:
  """Returns the files of adapters (PEFT) in a folder.

  Args:
    folder: The folder.
    where: A pattern of folders below it to look in instead, such as '*/'.
  """
  return [
    path
    for name in (
      ADAPTER_FILE,
      'adapter_model*.safetensors',
      'adapter_model*.bin',
    )
    for path in sorted(folder.glob(where + name))
  ]


def _headers(path: pathlib.Path) -> dict[str, tuple[str, tuple[int, ...]]]:
  """Tensor -> its dtype and shape, out of one file's header."""
  try:
    with safe_open(path, 'numpy') as file:
      slices = {key: file.get_slice(key) for key in file.keys()}
      return {
        key: (s.get_dtype(), tuple(s.get_shape())) for key, s in slices.items()
      }
  except SafetensorError as error:
    raise ValueError(
      f'{path} ({path.stat().st_size} bytes) is truncated or not a '
      f'safetensors file: {error}. Download it again.'
    ) from error


def _weight_map(folder, fetch) -> tuple[dict[str, str], pathlib.Path]:
  """Tensor -> file name, and the file that says so."""
  index = folder / INDEX_FILE
  if (folder / SINGLE_FILE).is_file() or not index.is_file():
    fetch([SINGLE_FILE])
    path = folder / SINGLE_FILE
    if not path.is_file():
      raise FileNotFoundError(
        f'{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}; it has '
        f'{sorted(p.name for p in folder.iterdir())[:20]}. Only safetensors '
        'are read; pickled weights (.bin, .pt) never are.'
      )
    path = _member(folder, SINGLE_FILE, folder)
    return dict.fromkeys(_headers(path), SINGLE_FILE), path
  check_inside(index, folder)
  names = read_json(index).get('weight_map')
  if not isinstance(names, dict) or not names:
    raise ValueError(
      f'{index} must have a "weight_map" of tensor to file; got '
      f'{str(names)[:80]}. {REMEDY}'
    )
  for name, file in names.items():
    if not isinstance(file, str):
      raise ValueError(
        f'{index}: weight_map gives {str(file)[:80]} as the file of {name}; '
        f'expected a name. {REMEDY}'
      )
  for file in sorted(set(names.values())):
    bare = pathlib.PurePath(file).name == file and file not in ('', '..')
    if not bare or '\\' in file or '\0' in file:
      raise ValueError(
        f'{index} names the file {file!r}. Expected the bare name of a file '
        f'beside it; nothing outside {folder} is read.'
      )
  return names, index


def _member(folder: pathlib.Path, name: str, origin) -> pathlib.Path:
  """Returns a file that is there, and really in the folder."""
  path = folder / name
  if not path.is_file():
    raise FileNotFoundError(
      f'{path} does not exist, though {origin} names it. Download the '
      'checkpoint again.'
    )
  check_inside(path, folder)
  return path
