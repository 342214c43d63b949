"""Which special tokens a model has, and whether its texts start with BOS."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from tokenizers import AddedToken

from gemma_jax.json_files import parse_json
from gemma_jax.text.vocabulary import Vocabulary, naming

# Names to try where no tokenizer_config.json has any: Gemma's, Llama 2's,
# GPT-2's.
_USUAL = {
  'bos_token': ('<bos>', '<s>'),
  'eos_token': ('<eos>', '</s>', '<|endoftext|>'),
  'pad_token': ('<pad>',),
}
# Those that have a part in HF, among other keys that end in `_token`.
_NAMES = (
  *('bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token'),
  *('cls_token', 'mask_token'),
)
_FLAGS = (
  *('content', 'single_word', 'lstrip', 'rstrip', 'normalized', 'special'),
)
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


def read_settings(files: Mapping[str, str], origin: str) -> dict[str, Any]:
  """Reads tokenizer_config.json, and special_tokens_map.json as HF does.

  What the latter says counts, unless the former has an `added_tokens_decoder`.

  Args:
    files: Name -> content, where there are any.
    origin: Where they come from.

  Raises:
    ValueError: one cannot be read.
  """
  config, older = (
    parse_json(files[name], f'{origin}/{name}') if name in files else {}
    for name in ('tokenizer_config.json', 'special_tokens_map.json')
  )
  if 'added_tokens_decoder' in config:
    return config
  for check in (_named, _extra):  # while it is known where they come from
    check(older, f'{origin}/special_tokens_map.json')
  return config | older


def special_names(config: Mapping[str, Any], source: str) -> dict[str, str]:
  """Returns the special tokens that a tokenizer_config.json names, by its keys.

  Raises:
    ValueError: the content of one is no text.
  """
  return {key: token.content for key, token in _named(config, source).items()}


def add_tokens(vocabulary: Vocabulary, config: Mapping[str, Any]) -> Vocabulary:
  """Returns a vocabulary with what a tokenizer_config.json adds, as HF does.

  These are the tokens of `added_tokens_decoder`, whose flags count more than
  those in tokenizer.json, and the special tokens that are not added yet. One
  that is not in the vocabulary gets the next id, unless it is BOS, EOS or
  padding, which `read_special_tokens` refuses.

  Raises:
    ValueError: a token is malformed, or would get another id than it is given.
  """
  source = f'{vocabulary.origin}/tokenizer_config.json'
  decoder = config.get('added_tokens_decoder', {})
  if not isinstance(decoder, Mapping):
    raise ValueError(
      f'{source}: added_tokens_decoder is a {type(decoder).__name__}, expected '
      'an object of ids and tokens.'
    )
  wanted = {}
  for key, value in decoder.items():
    i = int(key) if str(key).isdecimal() and len(str(key)) < 10 else None
    if i is None or i in wanted or not isinstance(value, Mapping):
      raise ValueError(
        f'{source}: added_tokens_decoder has {key!r}: {value!r}, expected an '
        'id that no other token has, and an object.'
      )
    where = f'{source}, added_tokens_decoder {key}'
    wanted[i] = _token({'special': False, **value}, where)
  wanted = dict(sorted(wanted.items()))
  named = _named(config, source)
  special = {token.content for token in named.values()}
  for token in wanted.values():
    token.special |= token.content in special
  vocabulary = _add_by_id(vocabulary, wanted, source)
  added, others = vocabulary.added(), {}
  for token in (*named.values(), *_extra(config, source)):
    if token.content not in added:
      others.setdefault(token.content, token)
  for key in _USUAL:
    if key in named and named[key].content not in vocabulary:
      others.pop(named[key].content, None)
  return vocabulary.adding([*others.values()])


def add_older_tokens(
  vocabulary: Vocabulary, content: str, config: Mapping[str, Any]
) -> Vocabulary:
  """Returns a vocabulary with the tokens of an added_tokens.json, as HF does.

  Raises:
    ValueError: it cannot be read, or a token would get another id.
  """
  source = f'{vocabulary.origin}/added_tokens.json'
  named = special_names(config, f'{vocabulary.origin}/tokenizer_config.json')
  special = set(named.values())
  wanted = {}
  for token, i in parse_json(content, source).items():
    if not isinstance(i, int) or isinstance(i, bool) or i < 0 or i in wanted:
      raise ValueError(
        f'{source}: the token {token!r} has the id {i!r}, expected a number '
        'that no other token has.'
      )
    wanted[i] = AddedToken(
      token, special=token in special, normalized=token not in special
    )
  return _add_by_id(vocabulary, dict(sorted(wanted.items())), source, True)


def _add_by_id(vocabulary, wanted, source, keep=False):
  """Adds tokens to a vocabulary; with `keep`, those already added stay."""
  have = vocabulary.added() if keep else ()
  vocabulary = vocabulary.adding(
    [token for token in wanted.values() if token.content not in have]
  )
  for i, token in wanted.items():
    if (got := vocabulary.find(token.content)) != i:
      raise ValueError(
        f'{source} gives {token.content!r} the id {i}, but in the vocabulary '
        f'it has {got}. They are not of one model, or one was changed: '
        'download both again.'
      )
  return vocabulary


def _named(config, source) -> dict[str, AddedToken]:
  """Returns the special tokens that have a name."""
  extra = config.get('extra_special_tokens') or {}
  extra = extra if isinstance(extra, Mapping) else {}
  found = {}
  for key, value in {**config, **extra}.items():
    known = key in _NAMES or key in extra
    if value is None or not (known or key.endswith('_token')):
      continue
    if known or isinstance(value, str | Mapping):
      found[key] = _token(value, f'{source}, {key}')
  return found


def _extra(config, source) -> list[AddedToken]:
  """Returns the special tokens without a name."""
  for key in ('extra_special_tokens', 'additional_special_tokens'):
    if (tokens := config.get(key)) is None or isinstance(tokens, Mapping):
      continue
    if not isinstance(tokens, list):
      raise ValueError(f'{source}: {key} is {tokens!r}, expected a list.')
    if tokens:
      return [_token(token, f'{source}, {key}') for token in tokens]
  return []


def _token(value, where) -> AddedToken:
  """Returns a special token, of its text or of an object with its text."""
  flags = {'content': value} if isinstance(value, str) else value
  if isinstance(flags, Mapping):
    flags = {'special': True} | {k: v for k, v in flags.items() if k in _FLAGS}
    content = flags.pop('content', None)
    if isinstance(content, str) and content:
      if all(isinstance(flag, bool) for flag in flags.values()):
        with naming(where):
          return AddedToken(content, **flags)
  raise ValueError(
    f'{where} is {value!r}, expected the text of a token, or an object with '
    'its content and flags that are true or false.'
  )


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
  origin = vocabulary.origin
  source = f'{origin}/tokenizer_config.json'
  names = special_names(config, source)
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

  adds_bos, kind = config.get('add_bos_token'), config.get('tokenizer_class')
  for key, value, wanted in (
    ('add_bos_token', adds_bos, bool),
    ('tokenizer_class', kind, str),
  ):
    if value is not None and not isinstance(value, wanted):
      raise ValueError(
        f'{source}: {key} is {value!r}, expected a {wanted.__name__}.'
      )
  if adds_bos is None and vocabulary.around:
    adds_bos = bool(before)
  if adds_bos is None and kind:
    adds_bos = kind.removesuffix('Fast') in _BOS_CLASSES
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
