"""`config.json` of Hugging Face, both ways, for every family.

A field is honoured or refused, never ignored.
"""

from collections.abc import Mapping
import json
import pathlib
import types
import typing
from typing import Any

from gemma_jax.config import ModelConfig
from gemma_jax.families.family import Family
from gemma_jax.families.gemma import GEMMA, GEMMA2, GEMMA3, GEMMA3_TEXT
from gemma_jax.families.gpt2 import GPT2
from gemma_jax.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from gemma_jax.families.opt import OPT
from gemma_jax.families.rope import LAYER_TYPES, read_rope, rope_fields

FAMILIES: dict[str, Family] = {
  family.model_type: family
  for family in (
    *(GEMMA, GEMMA2, GEMMA3, LLAMA, MISTRAL, QWEN2, QWEN3, GPT2, OPT),
  )
}
# Say nothing of what any model computes.
_INERT = frozenset(
  (
    'architectures torch_dtype dtype transformers_version use_cache '
    'initializer_range cache_implementation _name_or_path _commit_hash '
    '_model_name_or_path id2label label2id problem_type return_dict '
    'output_attentions output_hidden_states chunk_size_feed_forward '
    '_attn_implementation unsloth_version unsloth_fixed finetuning_task '
    'task_specific_params transformers.js_config'
  ).split()
)
# The only values that this implementation does, whatever the family.
_ALLOWED = {
  'tie_encoder_decoder': (False,),
  'is_encoder_decoder': (False,),
  'is_decoder': (False, True),
  'pruned_heads': ({}, None),
}
# Of a multimodal config.json, beside its text_config.
_AROUND_TEXT = frozenset(
  (
    'vision_config mm_tokens_per_image boi_token_index eoi_token_index '
    'image_token_index eoi_token_id boi_token_id image_token_id'
  ).split()
)


def family_of(config: ModelConfig) -> Family:
  """The tables of a model's family."""
  return FAMILIES[config.family]


def read_config(source: str | pathlib.Path | Mapping[str, Any]) -> ModelConfig:
  """Reads a Hugging Face `config.json`, strictly.

  Args:
    source: The file, its folder, or its parsed content.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not JSON, of a family that is not supported, lacks a
      size, or asks for something this implementation does not do. A field is
      honoured or refused, never ignored.
  """
  if isinstance(source, Mapping):
    return _parse(source, 'config')
  path = pathlib.Path(source)
  path = path / 'config.json' if path.is_dir() else path
  if not path.is_file():
    raise FileNotFoundError(
      f'{path} does not exist. A checkpoint folder needs the config.json '
      'that was published with its weights.'
    )
  try:
    fields = json.loads(path.read_text(encoding='utf-8'))
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f'{path} is not valid JSON: {error}.') from error
  if not isinstance(fields, dict):
    raise ValueError(f'{path} must hold a JSON object.')
  return _parse(fields, str(path))


def config_fields(config: ModelConfig) -> dict[str, Any]:
  """The content of a `config.json` that HF transformers reads."""
  family = family_of(config)
  hf = {'model_type': family.model_type}
  hf['architectures'] = [family.architecture]
  kinds = _field_types()
  for key, names in family.fields.items():
    value = getattr(config, names.split()[0])
    # transformers is strict about 24 and 24.0.
    if value is not None and float in kinds[names.split()[0]]:
      whole = key == 'query_pre_attn_scalar' and value % 1 == 0
      value = int(value) if whole else float(value)
    hf[key] = value
  hf |= {
    key: values[0]
    for key, values in family.allowed.items()
    if key not in family.unwritten
  }
  if family.rotary:
    hf |= rope_fields(config, family)
  if family.layer_types:
    hf['layer_types'] = [
      LAYER_TYPES[not local] for local in config.local_layers
    ]
  eos = list(config.eos_ids)
  hf['eos_token_id'] = eos[0] if len(eos) == 1 else eos or None
  hf |= family.extra(config)
  if config.truncated_from is not None:
    hf['truncated_from'] = config.truncated_from
  return hf


def _parse(hf: Mapping[str, Any], origin: str) -> ModelConfig:
  """`read_config` of parsed content; `origin` names it in errors."""
  if hf.get('model_type') == 'gemma3' and isinstance(
    hf.get('text_config'), Mapping
  ):
    hf = _text_part(hf, origin)
  family = FAMILIES.get(hf.get('model_type'))
  if family is None:
    raise ValueError(
      f'{origin}: model_type is {hf.get("model_type")!r} (architectures '
      f'{hf.get("architectures")}), which is not supported. Supported are '
      f'{", ".join(FAMILIES)}.'
    )
  if hf.get('quantization_config') is not None:
    raise ValueError(
      f'{origin}: quantization_config={hf["quantization_config"]!r} is not '
      'supported. Use the checkpoint that the weights were quantised from, or '
      'a .gguf file of it.'
    )

  def refuse(key, expected):
    raise ValueError(
      f'{origin}: {key}={hf.get(key)!r} is not supported; expected {expected}.'
    )

  ours = {'family': family.model_type} | dict(family.defaults)
  missing = [
    key
    for key, names in family.fields.items()
    if key not in hf and names.split()[0] not in ours
  ]
  if missing:
    raise ValueError(f'{origin} lacks {", ".join(sorted(missing))}.')
  kinds = _field_types()
  for key, names in family.fields.items():
    if key not in hf:
      continue
    for name in names.split():
      wanted, value = kinds[name], hf[key]
      empty = types.NoneType in wanted or family.defaults.get(name, 0) is None
      if value is None and empty:
        ours[name] = value
        continue
      if bool in wanted:
        if not isinstance(value, bool):
          refuse(key, 'true or false')
      elif isinstance(value, bool) or not isinstance(
        value, int | float if float in wanted else int
      ):
        refuse(key, 'a number' if float in wanted else 'an integer')
      ours[name] = value

  allowed = _ALLOWED | dict(family.allowed)
  for key, values in allowed.items():
    if key in hf and hf[key] not in values:
      refuse(key, ' or '.join(map(repr, values)))
  if family.layer_types and (said := hf.get('layer_types')) is not None:
    L = ours['num_layers']
    good = isinstance(said, list) and all(kind in LAYER_TYPES for kind in said)
    if not good or len(said) != L:
      refuse('layer_types', f'{L} values out of {LAYER_TYPES}')
    ours['local_layers'] = tuple(kind == LAYER_TYPES[0] for kind in said)
  try:
    if family.rotary:
      ours |= read_rope(hf, family)
    family.derive(ours, hf)
  except ValueError as error:
    raise ValueError(f'{origin}: {error}') from error

  if (eos := hf.get('eos_token_id')) is not None:
    ours['eos_ids'] = tuple(eos) if isinstance(eos, list) else (eos,)
    if not all(type(token) is int for token in ours['eos_ids']):
      refuse('eos_token_id', 'an integer or several')
  elif 'eos_token_id' in hf:
    ours['eos_ids'] = ()
  if (whole := hf.get('truncated_from')) is not None:
    if type(whole) is not int or whole <= ours['num_layers']:
      refuse('truncated_from', f'an integer above {ours["num_layers"]}')
    ours['truncated_from'] = whole

  known = _INERT | family.inert | allowed.keys() | family.fields.keys()
  known |= {'model_type', 'quantization_config', 'eos_token_id'}
  known |= {'truncated_from'}
  if family.rotary:
    known |= {'rope_parameters', 'rope_theta', 'rope_scaling'}
    if 'rope_local_theta' in family.defaults:
      known |= {'rope_local_base_freq'}
  if family.layer_types:
    known |= {'layer_types'}
  if unknown := sorted(hf.keys() - known):
    raise ValueError(
      f'{origin}: unknown field {unknown[0]}={hf[unknown[0]]!r}'
      f'{f" (and {unknown[1:]})" if unknown[1:] else ""}. A field that might '
      'change what the model computes is not ignored; remove it if it does not.'
    )
  try:
    return ModelConfig(**ours)
  except ValueError as error:
    raise ValueError(f'{origin}: {error}') from error


def _text_part(hf: Mapping, origin: str) -> dict[str, Any]:
  """The configuration of the decoder in a multimodal Gemma 3."""
  text = dict(hf['text_config'])
  around = set(hf) - {'text_config', 'model_type'} - _AROUND_TEXT - _INERT
  shared = {'eos_token_id', 'tie_word_embeddings', 'quantization_config'}
  shared |= {'pad_token_id', 'bos_token_id'} | _ALLOWED.keys()
  if unknown := sorted(around - shared):
    raise ValueError(
      f'{origin}: unknown field {unknown[0]}={hf[unknown[0]]!r} beside '
      'text_config. A field that might change what the model computes is not '
      'ignored; remove it if it does not.'
    )
  beside = {key: hf[key] for key in shared & around}
  text.setdefault('model_type', 'gemma3_text')
  return GEMMA3_TEXT | text | beside


def _field_types() -> dict[str, tuple]:
  """Field of ModelConfig -> the types it may have."""
  hints = typing.get_type_hints(ModelConfig)
  return {
    name: typing.get_args(hint)
    if isinstance(hint, types.UnionType)
    else (hint,)
    for name, hint in hints.items()
  }
