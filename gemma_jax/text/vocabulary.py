"""The `tokenizers` library without its silences.

The library skips ids that it does not know, forgets that a text was not text,
and says of a bad file only that it is bad. `Vocabulary` has the few calls that
`Tokenizer` makes, and says what is wrong.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import copy
import functools
import itertools
import re

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from gemma_jax.json_files import parse_json
from gemma_jax.text.spans import Span, quote

# The characters by which byte-level vocabularies write bytes: themselves, or
# from U+0100 on where a byte is a space or a control character in Latin-1
# (GPT-2's `bytes_to_unicode`).
_SHOWN = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_HIDDEN = (byte for byte in range(256) if byte not in _SHOWN)
_BYTES = {chr(b): b for b in _SHOWN} | {
  chr(256 + i): b for i, b in enumerate(_HIDDEN)
}


class Vocabulary:
  """A `tokenizer.json`: pieces of text, their ids, and how text is cut.

  Attributes:
    origin: Where it was read from, for error messages.
    specials: Id -> text of the special tokens.
    byte_level: True if pieces are bytes, written in GPT-2's alphabet; else they
      are text with U+2581 for a space, and '<0xF0>' is a byte.
    around: Ids that the file puts before, and after, a text; None if it has no
      post-processor, which could say so.
  """

  def __init__(self, backend: tokenizers.Tokenizer, origin: str):
    """Takes over a loaded tokenizer and switches off what acts by itself.

    This is padding, truncation and the post-processor, which adds tokens and
    cuts the spaces off a byte-level tokenizer's offsets.
    """
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = False
    self.around = None
    if backend.post_processor is not None:
      with naming(origin):
        sample = backend.encode('a')
      tokens = [*zip(sample.ids, sample.special_tokens_mask, strict=True)]
      before = [*itertools.takewhile(lambda token: token[1], tokens)]
      after = [token for token in tokens[len(before) :] if token[1]]
      self.around = [i for i, _ in before], [i for i, _ in after]
      backend.post_processor = None
    self._backend = backend
    self.origin = origin
    self._read_added()
    self.byte_level = any(
      part is not None and b'"type":"ByteLevel"' in part.__getstate__()
      for part in (backend.decoder, backend.pre_tokenizer)
    )
    self._space = backend.token_to_id('Ġ' if self.byte_level else '▁')
    self._without_row = frozenset()

  def _read_added(self):
    added = self._backend.get_added_tokens_decoder()
    self._added = {i: t.content for i, t in added.items()}
    self.specials = {i: t.content for i, t in added.items() if t.special}

  @classmethod
  def from_json(cls, content: str, origin: str) -> 'Vocabulary':
    """Reads the content of a `tokenizer.json`.

    Raises:
      ValueError: it cannot be read, or its tokens do not have the ids 0, 1, ...
        or not those that the file gives them.
    """
    source = f'{origin}/tokenizer.json'
    written = parse_json(content, source)
    with naming(source):
      backend = tokenizers.Tokenizer.from_str(content)
    _check_ids(backend, written, source)
    _check_bytes(backend, written, source)
    return cls(backend, origin)

  @classmethod
  def from_gpt2(
    cls,
    vocab: str,
    merges: str,
    add_prefix_space: bool,
    origin: str,
  ) -> 'Vocabulary':
    """Reads the contents of GPT-2's vocab.json and merges.txt, as OPT has them.

    Args:
      vocab: JSON, piece -> id.
      merges: Two pieces a line, after a comment.
      add_prefix_space: True if a text is cut as if a space came before it.
      origin: Where they were read from.

    Raises:
      ValueError: they cannot be read.
    """
    source = f'{origin}/vocab.json'
    pieces = parse_json(vocab, source)
    pairs = [
      tuple(line.split(' '))
      for line in merges.splitlines()
      if line and not line.startswith('#version')
    ]
    with naming(f'{origin}: vocab.json and merges.txt'):
      backend = tokenizers.Tokenizer(models.BPE(pieces, pairs))
    _check_ids(backend, {}, source)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    return cls(backend, origin)

  def adding(self, tokens: Sequence[tokenizers.AddedToken]) -> 'Vocabulary':
    """Returns a vocabulary that has tokens as they are described.

    Those it lacks come after all others; those it has are added tokens from
    then on, with the new flags. It is this one if nothing changes.
    """
    added = self._backend.get_added_tokens_decoder().values()
    added = {token.content: repr(token) for token in added}
    new = [token for token in tokens if added.get(token.content) != repr(token)]
    if not new:
      return self
    made = copy.copy(self)
    made.__dict__.pop('_plain_backend', None)
    made._backend = copy.deepcopy(self._backend)
    made._backend.add_tokens(new)
    made._read_added()
    return made

  def added(self) -> list[str]:
    """Returns the added tokens, which are found before text is cut."""
    return [*self._added.values()]

  def find(self, piece: str) -> int | None:
    """Returns the id of a token, or None."""
    return self._backend.token_to_id(piece)

  @property
  def size(self) -> int:
    """Number of tokens."""
    return self._backend.get_vocab_size()

  def __contains__(self, piece: str) -> bool:
    return self._backend.token_to_id(piece) is not None

  def special_id(self, piece: str) -> int:
    """Id of a token that must exist and be recognised in text.

    Raises:
      ValueError: it does not, or is not.
    """
    token_id = self._backend.token_to_id(piece)
    if token_id is None:
      raise ValueError(
        f'The vocabulary of {self.origin} has no token {piece!r}. Is this the '
        'tokenizer of another model, or of one without chats?'
      )
    if self._backend.encode(piece, add_special_tokens=False).ids != [token_id]:
      raise ValueError(
        f'{piece!r} is in the vocabulary of {self.origin} but not among the '
        'added_tokens of its tokenizer.json, so it is not recognised in text.'
      )
    return token_id

  def check_fits(self, rows: int, origin: str):
    """Raises ValueError unless each token has a row of an embedding.

    Special tokens may lack one, such as <image_soft_token> in Gemma 3's
    models of text alone. From here on, they are refused in texts.
    """
    ids = self._backend.get_vocab().values()
    outside = {i for i in ids if i >= rows}
    if ordinary := outside - self.specials.keys():
      first = min(ordinary)
      raise ValueError(
        f'The tokenizer of {self.origin} does not fit {origin}: it has tokens '
        f'up to id {max(ids)}, and the embedding has {rows} rows, so that '
        f'{len(ordinary)} tokens have none (the first is {first}, '
        f'{self._backend.id_to_token(first)!r}). Use the tokenizer that '
        'belongs to the model.'
      )
    self._without_row |= outside

  def encode(
    self, texts: Sequence[str], parse_special: bool
  ) -> list[tokenizers.Encoding]:
    """Returns what the library makes of texts, in parallel; no BOS is added.

    Args:
      texts: What to encode.
      parse_special: True if special tokens in a text are recognised, or spelled
        in ordinary tokens.

    Raises:
      ValueError: something is not a text, a special token cannot be spelled in
        ordinary tokens, or the model has no embedding of a token.
    """
    for text in texts:
      if not isinstance(text, str):
        raise ValueError(f'Expected a text, got {text!r}.')
      try:
        text.encode()
      except UnicodeEncodeError as error:
        raise ValueError(
          f'{quote(text)} is not Unicode text: {error}.'
        ) from error
    backend = self._backend if parse_special else self._plain_backend
    with naming(f'{self.origin}: a text'):
      encodings = backend.encode_batch(list(texts), add_special_tokens=False)
    if not parse_special:
      for text, encoding in zip(texts, encodings, strict=True):
        if found := self.specials.keys() & set(encoding.ids):
          raise ValueError(
            f'{self.origin} cannot spell {self.specials[min(found)]!r} in '
            f'ordinary tokens, in {quote(text)}: its merges lead back to it.'
          )
    elif self._without_row:
      for text, encoding in zip(texts, encodings, strict=True):
        if found := self._without_row & set(encoding.ids):
          raise ValueError(
            f'{quote(text)} holds the special token '
            f'{self.specials[min(found)]!r}, for which the model has no '
            'embedding. Take it out, or pass parse_special=False.'
          )
    return encodings

  def offsets(self, text: str, encoding: tokenizers.Encoding) -> list[Span]:
    """Returns the characters of `text` that each token of its encoding spells.

    They are the library's, except that a space that the tokenizer puts before
    a text (as Llama 2's does) spells none, where it is a token of its own.
    """
    spans = encoding.offsets
    following = [*spans[1:], (-1, -1)]
    return [
      (a, a)
      if i == self._space
      and a == then  # the library gives it the character after it
      and not text[a:b].replace('▁', ' ').isspace()
      else (a, b)
      for i, (a, b), (then, _) in zip(
        encoding.ids, spans, following, strict=False
      )
    ]

  @functools.cached_property
  def _plain_backend(self) -> tokenizers.Tokenizer:
    """Returns the tokenizer that reads special tokens as ordinary text."""
    backend = copy.deepcopy(self._backend)
    backend.encode_special_tokens = True
    return backend

  def check(self, ids: Sequence[int]) -> list[int]:
    """Integer [T] ids as a list; NumPy and JAX arrays are taken too.

    Raises:
      ValueError: they have another shape, or one is not in the vocabulary.
    """
    array = np.asarray(ids)
    if array.ndim != 1 or (array.size and array.dtype.kind not in 'iu'):
      raise ValueError(
        f'Token ids must be integers [T], got {array.dtype} {array.shape}.'
      )
    ids = array.tolist()
    for i in ids:
      if i < 0 or self._backend.id_to_token(i) is None:
        raise ValueError(
          f'{i} is not a token id of {self.origin}, which has {self.size} '
          'tokens. Leave out places without a token.'
        )
    return ids

  def pieces(self, ids: Sequence[int]) -> list[str]:
    """Returns the vocabulary's entries for ids [T], as the file has them."""
    return [self._backend.id_to_token(i) for i in self.check(ids)]

  def spelled(self, ids: Sequence[int]) -> list[bytes]:
    """Returns the UTF-8 bytes that each of integer [T] ids spells."""
    ids = self.check(ids)
    return [self._spell(i, self._backend.id_to_token(i)) for i in ids]

  def _spell(self, token_id: int, piece: str) -> bytes:
    if not self.byte_level:
      if re.fullmatch('<0x[0-9A-F]{2}>', piece):
        return bytes.fromhex(piece[3:5])
      return piece.replace('▁', ' ').encode()
    if token_id in self._added or not _BYTES.keys() >= set(piece):
      return piece.encode()
    return bytes(_BYTES[char] for char in piece)

  def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
    """Returns the text of ids [T]; bytes that are not UTF-8 give U+FFFD."""
    return self._backend.decode(
      self.check(ids), skip_special_tokens=skip_special
    )


@contextlib.contextmanager
def naming(source: str) -> Iterator[None]:
  """Has what the library raises name a file, as a ValueError."""
  try:
    yield
  except (KeyboardInterrupt, SystemExit):
    raise
  except BaseException as error:  # its panics are no Exceptions
    raise ValueError(
      f'{source} cannot be read by tokenizers {tokenizers.__version__}: '
      f'{error}. Download it again.'
    ) from error


def _check_ids(
  backend: tokenizers.Tokenizer, written: Mapping[str, object], source: str
):
  """Raises ValueError unless tokens have the ids 0, 1, ... as they are written.

  The library itself gives an added token another id than the file says, and
  takes a vocabulary with holes, without a word.
  """
  for token in written.get('added_tokens') or []:
    if (got := backend.token_to_id(token['content'])) != token['id']:
      raise ValueError(
        f'{source}: the added token {token["content"]!r} has the id '
        f'{token["id"]}, but the rest of the file makes it {got}. A token is '
        'missing or changed: download it again.'
      )
  vocab = backend.get_vocab()
  pieces = {i: piece for piece, i in vocab.items()}
  if len(pieces) < len(vocab):
    one = next(piece for piece, i in vocab.items() if pieces[i] != piece)
    raise ValueError(
      f'{source}: the tokens {one!r} and {pieces[vocab[one]]!r} both have the '
      f'id {vocab[one]}. Download it again.'
    )
  missing = next((i for i in range(len(vocab)) if i not in pieces), None)
  if missing is not None:
    raise ValueError(
      f'{source} has no token with id {missing}, but others up to '
      f'{max(pieces)}. One is missing: download it again.'
    )


def _check_bytes(backend, written, source):
  """Raises ValueError if the file does not say what its byte tokens are for."""
  model = written.get('model')
  bytes_ = (f'<0x{byte:02X}>' for byte in range(256))
  if (
    isinstance(model, dict)
    and model.get('type') in ('BPE', 'Unigram')
    and 'byte_fallback' not in model
    and all(backend.token_to_id(piece) is not None for piece in bytes_)
  ):
    raise ValueError(
      f'{source} has a token for each of the 256 bytes, and its "model" lacks '
      '"byte_fallback", which says whether they spell text that has no other '
      'token. Add "byte_fallback": true, as Gemma and Llama have it, or false.'
    )
