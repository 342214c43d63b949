"""LoRA adapters as files that PEFT reads and writes.

A folder has `adapter_config.json` and `adapter_model.safetensors`. A tensor
there belongs to a module of HF's model, which may hold several weights of ours
(GPT-2's c_attn holds wq, wk and wv): their adapters are then one of the sum of
their ranks, B being 0 where a weight's outputs meet the rows of another.
"""

from collections.abc import Mapping
import json
import os
import pathlib
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from gemma_jax.checkpoint.hf import new_folder
from gemma_jax.checkpoint.hf_format import ADAPTER_FILE, merged_shape
from gemma_jax.config import FLAG, POSITIVE, SIZE, ModelConfig, check_field
from gemma_jax.families import family_of
from gemma_jax.json_files import read_json
from gemma_jax.training.fingerprint import fingerprint
from gemma_jax.training.lora import LORA_TARGETS, A, Adapters, B, LoraConfig
from gemma_jax.weights import Decoder, weight_letters
from gemma_jax.whole_files import save_tensors

TENSOR_FILE = 'adapter_model.safetensors'
_PREFIX = 'base_model.model.'
# Entry of the tensors' metadata: which base weights the adapter was made for.
_BASE = 'base_fingerprint'
# Fields that change nothing of what an adapter computes, or are checked by
# the names of the tensors; and values of others that mean the plain LoRA.
_INERT = frozenset(
  (
    'task_type inference_mode base_model_name_or_path revision lora_dropout '
    'fan_in_fan_out auto_mapping layers_to_transform layers_pattern '
    'target_modules exclude_modules peft_version megatron_core eva_config '
    'qalora_group_size r lora_alpha rank_pattern alpha_pattern use_rslora'
  ).split()
)
_ALLOWED = {
  'peft_type': ('LORA',),
  'bias': ('none',),
  'init_lora_weights': (True, False, None, 'gaussian', 'orthogonal', 'eva'),
}


class Module(NamedTuple):
  """A matrix of HF's model.

  Attributes:
    name: Within a layer, such as 'self_attn.q_proj'.
    path: From the model's root, `{}` being the layer.
    rows: Weight of ours -> its outputs among those of the module.
    inputs: How many inputs it has.
    transposed: True if HF keeps it [in, out].
  """

  name: str
  path: str
  rows: dict[str, slice]
  inputs: int
  transposed: bool

  @property
  def outputs(self) -> int:
    """Returns how many outputs it has."""
    return max(rows.stop for rows in self.rows.values())


def save_peft(
  folder: str | os.PathLike,
  adapters: Mapping[str, jax.Array],
  config: LoraConfig,
  model: Decoder,
  base: str,
):
  """Writes adapters as PEFT reads them.

  Args:
    folder: A new or empty folder.
    adapters: As `init_lora` has them.
    config: Their configuration.
    model: The base that they were trained on, stacked, without them.
    base: Its folder or hub id, which PEFT loads it by.

  Raises:
    FileExistsError: the folder exists and is not empty.
  """
  modules = [
    m for m in _modules(model.config) if m.rows.keys() & config.targets
  ]
  arrays = {name: np.asarray(x, np.float32) for name, x in adapters.items()}
  tensors, ranks, alphas = {}, {}, {}
  for module in modules:
    parts = [name for name in module.rows if name in config.targets]
    a = np.concatenate([arrays[A.format(name)] for name in parts], axis=1)
    L, rank, _ = a.shape
    b = np.zeros((L, module.outputs, rank), np.float32)
    start = 0
    for name in parts:
      part = arrays[B.format(name)]
      b[:, module.rows[name], start : start + part.shape[2]] = part
      start += part.shape[2]
    if rank != config.rank:
      ranks[module.name] = rank
      alphas[module.name] = config.scaling * rank
    for layer in range(L):
      path = _PREFIX + module.path.format(layer)
      tensors[A.format(path) + '.weight'] = np.ascontiguousarray(a[layer])
      tensors[B.format(path) + '.weight'] = np.ascontiguousarray(b[layer])
  fields = {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': str(base),
    'r': config.rank,
    'lora_alpha': config.alpha,
    'lora_dropout': 0.0,
    'target_modules': [module.name for module in modules],
    'rank_pattern': ranks,
    'alpha_pattern': alphas,
    'bias': 'none',
    'fan_in_fan_out': any(module.transposed for module in modules),
    'inference_mode': True,
  }
  metadata = {'format': 'pt', _BASE: _fingerprint(model)}
  with new_folder(folder) as partial:
    text = json.dumps(fields, indent=2) + '\n'
    (partial / ADAPTER_FILE).write_text(text, encoding='utf-8')
    save_tensors(partial / TENSOR_FILE, tensors, metadata)


def load_peft(
  folder: str | os.PathLike, model: Decoder, base: str | None = None
) -> tuple[Adapters, LoraConfig]:
  """Reads adapters that `save_peft` or PEFT wrote.

  Args:
    folder: Their folder.
    model: The base to put them on, stacked.
    base: Its folder or hub id, to compare with the one that the adapter names;
      None compares no names. An adapter that `save_peft` wrote knows its base
      by the weights.

  Returns:
    Adapters, as `init_lora` has them, and their configuration. Layers that the
    file leaves out have adapters of 0, as have weights that share a module
    with others and were no target.

  Raises:
    FileNotFoundError: a file is absent.
    ValueError: it is an adapter of another base or of another kind, or its
      tensors are not those of the model's modules.
  """
  folder = pathlib.Path(folder).expanduser()
  for name in (ADAPTER_FILE, TENSOR_FILE):
    if not (folder / name).is_file():
      raise FileNotFoundError(
        f'{folder} has no {name}. Expected the folder of a LoRA adapter as '
        'PEFT writes it; pickled weights (.bin) are never read.'
      )
  fields = _read_fields(folder / ADAPTER_FILE)
  tensors, metadata = _read_tensors(folder / TENSOR_FILE)
  named = fields.get('base_model_name_or_path')
  _check_base(folder, named, metadata.get(_BASE), model, base)

  places = {}
  for module in _modules(model.config):
    for layer in range(model.config.num_layers):
      path = _PREFIX + module.path.format(layer)
      for kind in (A, B):
        places[kind.format(path) + '.weight'] = module, layer, kind
  by_module = {}
  for key, array in tensors.items():
    if key not in places:
      raise ValueError(
        f'{folder / TENSOR_FILE}: tensor {key} belongs to no matrix of a '
        f'{family_of(model.config).title} with {model.config.num_layers} '
        f'layers; expected names such as {next(iter(places))}. The adapter is '
        f'of {named!r}.'
      )
    module, layer, kind = places[key]
    by_module.setdefault(module.name, (module, {}))[1][layer, kind] = array
  _check_targets(folder, fields.get('target_modules'), by_module)

  rank = fields['r']
  scaling = _scaling(fields, rank, fields['lora_alpha'])
  adapters = {}
  for module, found in by_module.values():
    adapters |= _adapters(folder, fields, scaling, module, found, model.config)
  targets = tuple(n for n in LORA_TARGETS if A.format(n) in adapters)
  config = LoraConfig(rank=rank, alpha=scaling * rank, targets=targets)
  return adapters, config


def _modules(config: ModelConfig) -> list[Module]:
  """Returns the modules that may have an adapter."""
  family, have = family_of(config), weight_letters(config)
  modules = []
  for name, stored in family.tensors.items():
    if not set(stored.weights) <= LORA_TARGETS.keys() & have.keys():
      continue
    rows, start = {}, 0
    for weight in stored.weights:
      outputs, inputs = merged_shape(config, weight)
      rows[weight] = slice(start, start + outputs)
      start += outputs
    path = family.prefixes[0] + name.removesuffix('.weight')
    short = path.split('{}.')[1]
    modules.append(Module(short, path, rows, inputs, stored.transposed))
  return modules


def _adapters(folder, fields, scaling, module, found, config) -> Adapters:
  """Stacked adapters of the weights of one module, with the common scaling."""
  L = config.num_layers
  layers = {layer for layer, _ in found}
  ranks = {_rank(fields, module.path.format(layer)) for layer in layers}
  if len(ranks) > 1:
    raise ValueError(
      f'{folder / ADAPTER_FILE}: rank_pattern gives {module.name} the ranks '
      f'{sorted(ranks)} in different layers; expected one rank in all layers.'
    )
  (rank,) = ranks
  stacked = {
    A: np.zeros((L, rank, module.inputs), np.float32),
    B: np.zeros((L, module.outputs, rank), np.float32),
  }
  for layer in layers:
    path = module.path.format(layer)
    for kind, target in stacked.items():
      key = _PREFIX + kind.format(path) + '.weight'
      array = found.get((layer, kind))
      if array is None:
        raise ValueError(f'{folder / TENSOR_FILE}: tensor {key} is missing.')
      if array.shape != target[layer].shape:
        raise ValueError(
          f'{folder / TENSOR_FILE}: tensor {key} has shape '
          f'{list(array.shape)}, expected {list(target[layer].shape)}. The '
          f'adapter is of {fields.get("base_model_name_or_path")!r}.'
        )
      target[layer] = array
    alpha = _pattern(fields, 'alpha_pattern', path, fields['lora_alpha'])
    own = _scaling(fields, rank, alpha)
    if own != scaling:
      stacked[B][layer] *= own / scaling
  adapters = {}
  for name, rows in module.rows.items():
    adapters[A.format(name)] = jnp.asarray(stacked[A])
    adapters[B.format(name)] = jnp.asarray(stacked[B][:, rows])
  return adapters


def _scaling(fields, rank: int, alpha: float) -> float:
  """Returns what PEFT multiplies B A with."""
  return alpha / (rank**0.5 if fields.get('use_rslora') else rank)


def _rank(fields, path: str) -> int:
  return _pattern(fields, 'rank_pattern', path, fields['r'])


def _pattern(fields, name: str, path: str, default):
  """Returns a module's value; keys are ends of paths, or regexes."""
  for key, value in (fields.get(name) or {}).items():
    if re.fullmatch(rf'(.*\.)?({key})', path):
      return value
  return default


def _read_fields(path: pathlib.Path) -> dict:
  """Returns the configuration; ValueError for what is not done here."""
  fields = read_json(path)
  try:
    _check_types(fields)
  except (ValueError, re.error) as error:
    raise ValueError(f'{path}: {error}') from error
  for name, value in fields.items():
    if name in _INERT or value in (None, False, '') or value in ([], {}):
      continue
    allowed = _ALLOWED.get(name, ())
    if not any(value is x or value == x for x in allowed):
      expected = f'expected {allowed[0]!r}' if allowed else 'it must be off'
      raise ValueError(
        f'{path}: {name}={value!r} is not supported; {expected}. Merge the '
        'adapter with PEFT (merge_and_unload) and load the whole model.'
      )
  return fields


def _check_types(fields: Mapping):
  """Raises ValueError or re.error for a field that is used, of another type."""
  for name, pattern, kind in (
    ('r', 'rank_pattern', SIZE),
    ('lora_alpha', 'alpha_pattern', POSITIVE),
  ):
    check_field(kind, fields.get(name), name)
    values = fields.get(pattern) or {}
    if not isinstance(values, Mapping):
      raise ValueError(f'{pattern}={values!r}; expected an object or null.')
    for key, value in values.items():
      re.compile(key)
      check_field(kind, value, f'{pattern}: {key}')
  check_field(FLAG, fields.get('use_rslora') or False, 'use_rslora')
  for name in ('target_modules', 'base_model_name_or_path'):
    value = fields.get(name)
    several = name == 'target_modules' and isinstance(value, list)
    for each in value if several else [value]:
      if not isinstance(each, str | None):
        raise ValueError(f'{name}={value!r}; expected names.')


def _read_tensors(path: pathlib.Path):
  """Tensors as float32, and the metadata."""
  try:
    with safe_open(path, 'numpy') as file:
      metadata = file.metadata() or {}
      tensors = {
        key: file.get_tensor(key).astype(np.float32) for key in file.keys()
      }
  except SafetensorError as error:
    raise ValueError(
      f'{path} is truncated or not a safetensors file: {error}.'
    ) from error
  if not tensors:
    raise ValueError(f'{path} has no tensors.')
  for key, array in tensors.items():
    if not np.isfinite(array).all():
      raise ValueError(f'{path}: tensor {key} holds NaN or infinity.')
  return tensors, metadata


def _check_base(folder, named, theirs, model, base):
  """Raises ValueError for an adapter of another base."""
  if theirs is not None:
    if theirs != (ours := _fingerprint(model)):
      raise ValueError(
        f'{folder} is an adapter of another base: it was trained on {named!r}, '
        f'whose weights have the fingerprint {theirs}; those of '
        f'{base or "this model"} have {ours}. Load that base, or train anew.'
      )
    return
  last = lambda name: pathlib.PurePath(str(name)).name
  if base is not None and named and last(named) != last(base):
    raise ValueError(
      f'{folder} is an adapter of another base: it names {named!r}, and this '
      f'model is {str(base)!r}. If both are the same model, pass base=None.'
    )


def _check_targets(folder, targets, by_module):
  """Raises ValueError unless every module that is listed has tensors."""
  if isinstance(targets, str):  # a regular expression
    return
  for target in targets or ():
    if not any(
      name == target or name.endswith(f'.{target}') for name in by_module
    ):
      raise ValueError(
        f'{folder / ADAPTER_FILE}: target_modules has {target!r}, which '
        f'{TENSOR_FILE} has no tensors of; it has those of '
        f'{", ".join(by_module)}.'
      )


def _fingerprint(model: Decoder) -> str:
  """Returns the same for a model loaded as float32 and as bfloat16."""
  return fingerprint(model.weights(), dtype=jnp.bfloat16)
