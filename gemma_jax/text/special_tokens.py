"""Which special tokens a model has, and whether its texts start with BOS."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from gemma_jax.text.vocabulary import Vocabulary

# Names to try where no tokenizer_config.json has any: Gemma's, Llama 2's,
# GPT-2's.
_USUAL = {
  'bos_token': ('<bos>', '<s>'),
  'eos_token': ('<eos>', '</s>', '<|endoftext|>'),
  'pad_token': ('<pad>',),
}
# Classes of transformers that add BOS although no file says so.
_BOS_CLASSES = ('GemmaTokenizer', 'LlamaTokenizer', 'CodeLlamaTokenizer')


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
  """The special tokens that have a part to play. See `Tokenizer` for each."""

  names: Mapping[str, str]
  bos_id: int | None
  eos_id: int | None
  pad_id: int
  adds_bos: bool


def special_names(config: Mapping[str, Any]) -> dict[str, str]:
  """Returns the special tokens that a tokenizer_config.json names, by its keys.

  It has their texts bare, or inside an object.
  """
  found = {
    key: value.get('content') if isinstance(value, Mapping) else value
    for key, value in config.items()
    if key.endswith('_token')
  }
  return {key: text for key, text in found.items() if isinstance(text, str)}


def read_special_tokens(
  vocabulary: Vocabulary, config: Mapping[str, Any]
) -> SpecialTokens:
  """Reads a model's special tokens and its rule about BOS from its files.

  The rule is `add_bos_token` in tokenizer_config.json; where that is silent,
  what the post-processor of tokenizer.json does; where there is none, what the
  class of transformers does; and where no class is named, whether there is
  Gemma's <bos>.

  Raises:
    ValueError: a named token is missing; BOS is to be added, but there is
      none; or the files want anything else than one BOS around a text.
  """
  origin, names = vocabulary.origin, special_names(config)
  before, after = vocabulary.around or ([], [])
  if len(before) > 1 or after:
    raise ValueError(
      f'{origin} puts the tokens {vocabulary.pieces(before)} before and '
      f'{vocabulary.pieces(after)} after a text. Only one BOS at the start is '
      'supported: change the post_processor in its tokenizer.json.'
    )
  if before:
    names.setdefault('bos_token', vocabulary.pieces(before)[0])
  for key, usual in _USUAL.items():
    if key not in names and (found := [t for t in usual if t in vocabulary]):
      names[key] = found[0]
  bos_id, eos_id, pad_id = (
    vocabulary.special_id(names[key]) if key in names else None
    for key in _USUAL
  )
  if pad_id is None:
    pad_id = 0 if eos_id is None else eos_id

  adds_bos = config.get('add_bos_token')
  if adds_bos is None and vocabulary.around:
    adds_bos = bool(before)
  if adds_bos is None and (name := config.get('tokenizer_class')):
    adds_bos = name.removesuffix('Fast') in _BOS_CLASSES
  if adds_bos is None:
    adds_bos = '<bos>' in vocabulary
  if adds_bos and bos_id is None:
    raise ValueError(
      f'{origin} is to start texts with BOS, but its tokenizer_config.json '
      'names no bos_token.'
    )
  if adds_bos and before not in ([], [bos_id]):
    raise ValueError(
      f'{origin} starts texts with {vocabulary.pieces(before)[0]!r} by its '
      f'tokenizer.json, and with {names["bos_token"]!r} by its '
      'tokenizer_config.json. Make them agree.'
    )
  return SpecialTokens(names, bos_id, eos_id, pad_id, bool(adds_bos))
