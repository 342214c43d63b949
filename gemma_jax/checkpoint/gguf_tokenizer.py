"""The tokenizer that a GGUF file describes, as files of Hugging Face.

The file lists tokens with their types, and merges or scores. How text is cut
before tokens are merged is said by a name only (`tokenizer.ggml.pre`), whose
meaning is llama.cpp's (src/llama-vocab.cpp).
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

from tokenizers import (
  AddedToken,
  Regex,
  Tokenizer,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from gemma_jax.text.vocabulary import naming

_SPACE = '\u2581'
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)

# How Llama 3 and Qwen 2 cut text; {} is how long a run of digits may be.
_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{}"
  r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
# And GPT-2.
_GPT2 = (
  r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
  r'|\s+(?!\S)|\s+'
)
_LLAMA3 = _WORDS.replace('{}', '{1,3}')
_QWEN2 = _WORDS.replace('{}', '')
# tokenizer.ggml.pre -> regular expressions that cut text, one after the other.
_PRE = {
  'smollm': (r'\p{N}', _GPT2),
  'gpt-2': (_GPT2,),
  'default': (
    *(r'[\p{P}\$\+<=>\^~\|]+', _GPT2),
    *(r'\p{N}+', r'[0-9][0-9][0-9]'),
  ),
  'llama-bpe': (_LLAMA3,),
  'qwen2': (_QWEN2,),
}

_NAMED = {
  'bos_token': 'bos_token_id',
  'eos_token': 'eos_token_id',
  'pad_token': 'padding_token_id',
  'unk_token': 'unknown_token_id',
}


def tokenizer_files(
  path: pathlib.Path, architecture: str, metadata: Mapping[str, Any]
) -> dict[str, str]:
  """Returns the name and content of each file of the tokenizer.

  * `tokenizer.json`, for the `tokenizers` library and HF. Control tokens, and
    those that are the model's BOS, EOS and the like, are special there;
    user-defined ones are recognised in text, but not special.
  * `tokenizer_config.json`: their names, and `add_bos_token` as the file says;
    if it does not say, as llama.cpp has it: a BOS for sentencepiece and Llama
    3, none for others.
  * `chat_template.jinja`, where the file has a template.

  Args:
    path: The GGUF file, for error messages.
    architecture: As the file names it; 'gemma3' merges in the order of tokens.
    metadata: Keys and values of the file.

  Raises:
    ValueError: there is no tokenizer, or one that is not understood.
  """
  return _Source(path, architecture, metadata).files()


class _Source:
  """The tokenizer's part of the metadata, checked."""

  def __init__(self, path, architecture, metadata):
    self._path, self._metadata = path, metadata
    self._model = metadata.get('tokenizer.ggml.model')
    self._tokens = metadata.get('tokenizer.ggml.tokens')
    is_list = isinstance(self._tokens, list) and self._tokens
    if self._model in (None, 'none', 'no_vocab') or not is_list:
      raise self._error(
        'it has no tokenizer (tokenizer.ggml.model and tokens). Take '
        'tokenizer.json and tokenizer_config.json from the folder of the model '
        'that it was made from'
      )
    if self._model not in ('gpt2', 'llama'):
      raise self._error(
        f"tokenizer.ggml.model is {self._model!r}, expected 'gpt2' (byte-level "
        "BPE) or 'llama' (sentencepiece). Take tokenizer.json from the folder "
        'of the model that it was made from'
      )
    self._check(self._tokens, 'tokens', str)
    self._gemma = architecture == 'gemma3' and self._model == 'llama'
    types = self._list('token_type', int)
    if self._gemma:
      # The converter writes Gemma's runs of spaces as such. They are pieces
      # like others to HF, merged from shorter runs.
      self._tokens, types = list(self._tokens), list(types)
      for i, token in enumerate(self._tokens):
        if types[i] == _USER_DEFINED and token and not token.strip(' '):
          self._tokens[i], types[i] = _SPACE * len(token), _NORMAL
    self._vocab = {token: i for i, token in enumerate(self._tokens)}
    if len(self._vocab) < len(self._tokens):
      twice = next(t for i, t in enumerate(self._tokens) if self._vocab[t] != i)
      raise self._error(f'token {twice!r} is in tokenizer.ggml.tokens twice')
    self._types = types
    self._names = {name: self._named(key) for name, key in _NAMED.items()}
    self._add_bos = self._flag(
      'add_bos_token', self._model == 'llama' or self._pre() == 'llama-bpe'
    )
    self._add_eos = self._flag('add_eos_token', False)

  def files(self) -> dict[str, str]:
    """See `tokenizer_files`."""
    pieces = self._byte_level if self._model == 'gpt2' else self._pieces
    with naming(str(self._path)):
      backend = pieces()
    special, added = set(self._names.values()), []
    for token, kind in zip(self._tokens, self._types, strict=True):
      if kind in (_CONTROL, _UNKNOWN) or token in special:
        added.append(AddedToken(token, normalized=False, special=True))
      elif kind == _USER_DEFINED:
        added.append(AddedToken(token, normalized=False, special=False))
    backend.add_tokens(added)
    self._add_ends(backend)
    config = {
      'tokenizer_class': 'PreTrainedTokenizerFast',
      **self._names,
      'add_bos_token': self._add_bos,
      'add_eos_token': self._add_eos,
      'clean_up_tokenization_spaces': False,
    }
    files = {
      'tokenizer.json': backend.to_str(),
      'tokenizer_config.json': json.dumps(config, indent=2) + '\n',
    }
    template = self._metadata.get('tokenizer.chat_template')
    if template is not None:
      self._check([template], 'chat_template', str)
      files['chat_template.jinja'] = template
    return files

  def _error(self, problem: str) -> ValueError:
    return ValueError(f'{self._path}: {problem}.')

  def _check(self, values, name, kind):
    """Raises ValueError unless metadata is of a type."""
    for value in values:
      if not isinstance(value, kind):
        raise self._error(
          f'tokenizer.ggml.{name} has {value!r}, expected a {kind.__name__}. '
          'Convert the model again with a present llama.cpp'
        )

  def _list(self, name: str, kind: type) -> list:
    """Returns a list with an item for each token."""
    values = self._metadata.get(f'tokenizer.ggml.{name}')
    if not isinstance(values, list) or len(values) != len(self._tokens):
      got = len(values) if isinstance(values, list) else values
      raise self._error(
        f'tokenizer.ggml.{name} is {got}, expected a list of '
        f'{len(self._tokens)}, as many as there are tokens. Convert the model '
        'again with a present llama.cpp'
      )
    self._check(values, name, kind)
    return values

  def _named(self, key: str) -> str | None:
    """Returns the text of a token that has a part of its own."""
    i = self._metadata.get(f'tokenizer.ggml.{key}')
    if i is None:
      return None
    if type(i) is not int or not 0 <= i < len(self._tokens):
      raise self._error(
        f'tokenizer.ggml.{key} is {i!r}, expected the id of one of '
        f'{len(self._tokens)} tokens'
      )
    return self._tokens[i]

  def _flag(self, name: str, default: bool) -> bool:
    value = self._metadata.get(f'tokenizer.ggml.{name}', default)
    self._check([value], name, bool)
    return value

  def _pre(self) -> str:
    return str(self._metadata.get('tokenizer.ggml.pre', ''))

  def _byte_level(self) -> Tokenizer:
    """BPE over bytes, each spelled by one printable character, as in GPT-2."""
    if self._pre() not in _PRE:
      raise self._error(
        f'tokenizer.ggml.pre is {self._pre()!r}, expected one of '
        f'{", ".join(_PRE)}. Text is not cut by a rule that may be wrong: take '
        'tokenizer.json from the folder of the model that it was made from'
      )
    if self._flag('add_space_prefix', False):
      raise self._error(
        'tokenizer.ggml.add_space_prefix is True, which no byte-level '
        'tokenizer is known to need. Take tokenizer.json from the folder of '
        'the model that it was made from'
      )
    merges = self._metadata.get('tokenizer.ggml.merges')
    if not isinstance(merges, list):
      raise self._error('metadata key tokenizer.ggml.merges is missing')
    self._check(merges, 'merges', str)
    pairs = [tuple(merge.split(' ')) for merge in merges]
    for pair in pairs:
      if len(pair) != 2 or not {*pair, ''.join(pair)} <= self._vocab.keys():
        raise self._error(
          f'the merge {" ".join(pair)!r} is not of two tokens into a third'
        )
    backend = Tokenizer(
      # To Llama 3, a word that is a token need not be built of merges.
      models.BPE(
        vocab=self._vocab,
        merges=pairs,
        ignore_merges=self._pre() == 'llama-bpe',
      )
    )
    cuts = [
      pre_tokenizers.Split(Regex(one), 'isolated') for one in _PRE[self._pre()]
    ]
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, spell])
    backend.decoder = decoders.ByteLevel()
    return backend

  def _pieces(self) -> Tokenizer:
    """Sentencepiece's BPE: spaces are U+2581, what is unknown is bytes."""
    backend = Tokenizer(
      models.BPE(
        vocab=self._vocab,
        merges=self._merges(),
        unk_token=self._names['unk_token'],
        fuse_unk=True,
        byte_fallback=True,
      )
    )
    prefix = self._flag('add_space_prefix', not self._gemma)
    spell = normalizers.Replace(' ', _SPACE)
    start = [normalizers.Prepend(_SPACE)] * prefix
    backend.normalizer = normalizers.Sequence([*start, spell])
    steps = [decoders.Replace(_SPACE, ' ')]
    steps += [decoders.ByteFallback(), decoders.Fuse()]
    steps += [decoders.Strip(' ', 1, 0)] * prefix
    backend.decoder = decoders.Sequence(steps)
    return backend

  def _merges(self) -> list[tuple[str, str]]:
    """Returns every way to put a token together from two, the best tokens
    first.

    Llama's tokens are ranked by score. Gemma's are by id, to which the scores
    agree except for runs of spaces, whose score is that of added tokens. Among
    the ways to one token, the longer first part wins, as in HF's conversion.

    Added tokens never meet in what is merged, because they are cut out before;
    nor may their text, where it is meant literally, merge into them.
    """
    scores = self._list('scores', float)
    ids = [i for i, kind in enumerate(self._types) if kind == _NORMAL]
    if not self._gemma:
      ids.sort(key=lambda i: -scores[i])
    pieces = {self._tokens[i] for i in ids}
    merges = []
    for i in ids:
      token = self._tokens[i]
      for cut in range(len(token) - 1, 0, -1):
        if token[:cut] in pieces and token[cut:] in pieces:
          merges.append((token[:cut], token[cut:]))
    return merges

  def _add_ends(self, backend):
    """BOS and EOS where the library is asked for special tokens."""
    ends = []
    for wanted, name in (
      (self._add_bos, 'bos_token'),
      (self._add_eos, 'eos_token'),
    ):
      token = self._names[name]
      if wanted and token is None:
        raise self._error(
          f'tokenizer.ggml.add_{name} asks for a token that '
          f'tokenizer.ggml.{name}_id does not name'
        )
      ends.append(f'{token}:0' if wanted else None)
    if not any(ends):
      return
    one = [part for part in (ends[0], '$A:0', ends[1]) if part]
    names = {part[:-2] for part in ends if part}
    backend.post_processor = processors.TemplateProcessing(
      single=one,
      pair=[*one, *(p.replace('$A', '$B')[:-1] + '1' for p in one)],
      special_tokens=[(name, self._vocab[name]) for name in sorted(names)],
    )
