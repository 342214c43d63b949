"""What a Hugging Face checkpoint of Gemma 2 is: names, shapes, files.

A checkpoint is a folder (or a repository on the hub) with `config.json`, and
either `model.safetensors` or several such files with an index that says which
tensor is in which. Everything here is told from names and headers; weights are
read by `checkpoint.py`.
"""

import functools
import json
import math
import pathlib
import re

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from gemma_jax.config import ModelConfig
from gemma_jax.weights import WEIGHTS, weight_shape

# Name in WEIGHTS -> tensor of the checkpoint; `{}` is the layer. A file's shape
# is that of the weight with head and head_dim merged: [N*H, D].
HF_NAMES = {
  'embed': 'model.embed_tokens.weight',
  'final_norm': 'model.norm.weight',
  'pre_attn_norm': 'model.layers.{}.input_layernorm.weight',
  'wq': 'model.layers.{}.self_attn.q_proj.weight',
  'wk': 'model.layers.{}.self_attn.k_proj.weight',
  'wv': 'model.layers.{}.self_attn.v_proj.weight',
  'wo': 'model.layers.{}.self_attn.o_proj.weight',
  'post_attn_norm': 'model.layers.{}.post_attention_layernorm.weight',
  'pre_mlp_norm': 'model.layers.{}.pre_feedforward_layernorm.weight',
  'gate': 'model.layers.{}.mlp.gate_proj.weight',
  'up': 'model.layers.{}.mlp.up_proj.weight',
  'down': 'model.layers.{}.mlp.down_proj.weight',
  'post_mlp_norm': 'model.layers.{}.post_feedforward_layernorm.weight',
}
# Small files that belong to a checkpoint; conversions carry them along.
COMPANIONS = (
  'tokenizer.json',
  'tokenizer.model',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'chat_template.jinja',
  'generation_config.json',
)
SINGLE_FILE = 'model.safetensors'
INDEX_FILE = 'model.safetensors.index.json'

# As safetensors names them.
DTYPES = {
  'BF16': jnp.dtype(jnp.bfloat16),
  'F16': jnp.dtype(jnp.float16),
  'F32': jnp.dtype(jnp.float32),
}
# Some exports write the tied unembedding a second time.
LM_HEAD = 'lm_head.weight'


def supported_dtype(dtype) -> np.dtype:
  """The dtype as NumPy has it; ValueError unless weights can have it."""
  try:
    if jnp.dtype(dtype) in DTYPES.values():
      return jnp.dtype(dtype)
  except TypeError:
    pass
  raise ValueError(
    f'dtype must be bfloat16, float16 or float32, got {dtype!r}.'
  )


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
  """The tensors of a checkpoint and their shapes in the files."""
  tensors = {}
  for name, hf_name in HF_NAMES.items():
    letters, shape = WEIGHTS[name], weight_shape(config, name)
    heads = letters.find('H')
    if heads > 0:
      merged = shape[heads - 1] * shape[heads]
      shape = (*shape[: heads - 1], merged, *shape[heads + 1 :])
    if letters[0] != 'L':
      tensors[hf_name] = shape
      continue
    for layer in range(config.num_layers):
      tensors[hf_name.format(layer)] = shape[1:]
  return tensors


def split_into_files(config: ModelConfig, dtype, max_bytes: int):
  """Which tensors each file of a new checkpoint holds.

  Layers are kept in order, and the final norm with the embedding, so that a
  model's first layers can be loaded from its first files.

  Returns:
    For each file, (tensor, name in WEIGHTS, layer or None) of its tensors.
  """
  places = [(HF_NAMES[name], name, None) for name in ('embed', 'final_norm')]
  places += [
    (hf_name.format(layer), name, layer)
    for layer in range(config.num_layers)
    for name, hf_name in HF_NAMES.items()
    if '{}' in hf_name
  ]
  shapes = tensor_shapes(config)
  files, room = [], 0
  for place in places:
    size = math.prod(shapes[place[0]]) * dtype.itemsize
    if not files or size > room:
      files.append([])
      room = max_bytes
    files[-1].append(place)
    room -= size
  return files


def locate(source, revision):
  """The folder, and a function that makes sure it has the files it is told."""
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

  folder = pathlib.Path(fetch(['config.json', INDEX_FILE, *COMPANIONS]))
  # The folder is named after the commit: the rest comes from the same one.
  return folder, functools.partial(fetch, revision=folder.name)


def check_tensors(folder, fetch, whole, config):
  """Checks names, files, shapes and dtypes before any weight is read.

  Args:
    folder: The checkpoint, as `locate` gives it.
    fetch: As `locate` gives it.
    whole: ModelConfig of the checkpoint.
    config: Of the layers that are wanted; only files that hold one of their
      tensors are needed.

  Returns:
    Each tensor of those files -> its file, its dtype as in DTYPES.

  Raises:
    FileNotFoundError, ValueError: as `load_checkpoint` describes.
  """
  shapes = tensor_shapes(whole)
  needed = tensor_shapes(config)
  weight_map, origin = _weight_map(folder, fetch)
  if missing := [key for key in shapes if key not in weight_map]:
    raise ValueError(
      f'{origin}: tensor {missing[0]} is missing'
      f'{f", and {len(missing) - 1} more" if missing[1:] else ""}. A Gemma 2 '
      f'of num_hidden_layers={whole.num_layers} has {len(shapes)} tensors; '
      f'there are {len(weight_map)}. Is this the whole checkpoint, and its own '
      'config.json?'
    )
  shapes[LM_HEAD] = shapes[HF_NAMES['embed']]
  for key in weight_map:
    if key not in shapes:
      raise _unknown(origin, key, whole)

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
    for key, (kind, shape) in headers.items():
      if key not in shapes:
        raise _unknown(path, key, whole)
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
  return found


def _unknown(origin, key, config):
  return ValueError(
    f'{origin}: tensor {key} is unknown; expected the names of a Gemma 2 with '
    f'{config.num_layers} layers, such as {HF_NAMES["wq"].format(0)}. It is '
    'not ignored: does config.json belong to these weights?'
  )


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
  try:
    weight_map = json.loads(index.read_text(encoding='utf-8'))['weight_map']
    names = {str(name): str(file) for name, file in weight_map.items()}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f'{index} must be a JSON object with a "weight_map" of tensor to file; '
      f'got {type(error).__name__}: {error}.'
    ) from error
  for file in sorted(set(names.values())):
    if pathlib.PurePath(file).name != file or '\\' in file or file == '..':
      raise ValueError(
        f'{index} names the file {file!r}. Expected the bare name of a file '
        f'beside it; nothing outside {folder} is read.'
      )
  return names, index


def _member(folder: pathlib.Path, name: str, origin) -> pathlib.Path:
  """A file of the folder that is there, and is in truth in the folder."""
  path = folder / name
  if not path.is_file():
    raise FileNotFoundError(
      f'{path} does not exist, though {origin} names it. Download the '
      'checkpoint again.'
    )
  root, real = folder.resolve(), path.resolve()
  allowed = [root]
  # The hub's cache: models--org--name/snapshots/<revision>/ links to blobs/
  # beside snapshots/, or to those that all its models share.
  repo = root.parent.parent
  if root.parent.name == 'snapshots' and repo.name.startswith('models--'):
    allowed += [repo / 'blobs', repo.parent / 'blobs']
  if not any(real.is_relative_to(place) for place in allowed):
    raise ValueError(
      f'{path} is a link to {real}, which is outside {root}. Pass the folder '
      'that holds the files, or copy them.'
    )
  return path
