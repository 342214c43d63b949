"""`config.json` of Hugging Face, both ways, for every family.

A field is honoured or refused, never ignored.
"""

from collections.abc import Mapping
import pathlib
from typing import Any

from gemma_jax.config import KINDS, ModelConfig, check_field
from gemma_jax.families.family import Family
from gemma_jax.families.gemma import GEMMA, GEMMA2, GEMMA3, GEMMA3_TEXT
from gemma_jax.families.gpt2 import GPT2
from gemma_jax.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from gemma_jax.families.opt import OPT
from gemma_jax.families.rope import LAYER_TYPES, read_rope, rope_fields
from gemma_jax.json_files import read_json

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
# What a multimodal config.json has beside its text_config.
_AROUND_TEXT = frozenset(
  (
    'vision_config mm_tokens_per_image boi_token_index eoi_token_index '
    'image_token_index eoi_token_id boi_token_id image_token_id'
  ).split()
)


def family_of(config: ModelConfig) -> Family:
  """Returns the tables of a model's family."""
  return FAMILIES[config.family]


def read_config(source: str | pathlib.Path | Mapping[str, Any]) -> ModelConfig:
  """Reads a Hugging Face `config.json`, strictly.

  Args:
    source: The file, its folder, or its parsed content.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not JSON, of a family that is not supported, lacks a
      size, has a value of a wrong type or range, or asks for something this
      implementation does not do. A field is honoured or refused, never
      ignored.
  """
  if isinstance(source, Mapping):
    return _parse(source, 'config')
  path = pathlib.Path(source)
  path = path / 'config.json' if path.is_dir() else path
  remedy = (
    'A checkpoint folder needs the config.json that was published with its '
    'weights.'
  )
  return _parse(read_json(path, remedy=remedy), str(path))


def config_fields(config: ModelConfig) -> dict[str, Any]:
  """Returns the content of a `config.json` that HF transformers reads."""
  family = family_of(config)
  hf = {'model_type': family.model_type}
  hf['architectures'] = [family.architecture]
  for key, names in family.fields.items():
    name = names.split()[0]
    value = getattr(config, name)
    # transformers is strict about 24 and 24.0.
    if value is not None and KINDS[name].type is float:
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
  kind = hf.get('model_type')
  family = FAMILIES.get(kind) if isinstance(kind, str) else None
  if family is None:
    raise ValueError(
      f'{origin}: model_type is {kind!r} (architectures '
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
  try:
    for key, names in family.fields.items():
      for name in names.split() if key in hf else ():
        # What is None by default is derived, or absent.
        derived = family.defaults.get(name, 0) is None
        kind = KINDS[name]
        kind = kind._replace(or_none=kind.or_none or derived)
        check_field(kind, hf[key], key)
        ours[name] = hf[key]
    if (whole := hf.get('truncated_from')) is not None:
      check_field(KINDS['truncated_from'], whole, 'truncated_from')
      ours['truncated_from'] = whole
  except ValueError as error:
    raise ValueError(f'{origin}: {error}') from error
  if whole is not None and whole <= ours['num_layers']:
    refuse('truncated_from', f'an integer above {ours["num_layers"]}')

  allowed = _ALLOWED | dict(family.allowed)
  for key, values in allowed.items():
    # true is no 1 here, nor false a 0.
    if key in hf and not any(
      hf[key] == value and isinstance(hf[key], bool) == isinstance(value, bool)
      for value in values
    ):
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

  for key in ('eos_token_id', 'bos_token_id', 'pad_token_id'):
    ids = hf.get(key)
    several = key == 'eos_token_id' and isinstance(ids, list)
    ids = ids if several else [] if ids is None else [ids]
    V = ours['vocab_size']
    if not all(type(token) is int and 0 <= token < V for token in ids) or (
      several and not ids
    ):
      some = ', or a list of them' if key == 'eos_token_id' else ''
      refuse(key, f'an integer from 0 to {V - 1}{some}, or null for none')
    if key == 'eos_token_id' and key in hf:
      ours['eos_ids'] = tuple(ids)

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
  """Returns the configuration of the decoder in a multimodal Gemma 3."""
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
