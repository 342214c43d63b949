"""The `tokenizers` library without its silences.

The library skips ids that it does not know, forgets that a text was not text,
and says of a bad file only that it is bad. `Vocabulary` has the few calls that
`Tokenizer` makes, and says what is wrong.
"""

from collections.abc import Sequence
import copy
import functools
import pathlib

import numpy as np
import tokenizers

from gemma_jax.text.spans import quote


class Vocabulary:
  """A `tokenizer.json`: pieces of text, their ids, and how text is cut.

  Attributes:
    origin: Where it was read from, for error messages.
    specials: Id -> text of the special tokens.
  """

  def __init__(self, backend: tokenizers.Tokenizer, origin: str):
    """Takes over a loaded tokenizer and switches off its own padding."""
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = False
    self._backend = backend
    self.origin = origin
    added = backend.get_added_tokens_decoder()
    self.specials = {i: t.content for i, t in added.items() if t.special}

  @classmethod
  def from_file(cls, file: pathlib.Path, origin: str) -> 'Vocabulary':
    """Reads a `tokenizer.json`.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it cannot be read.
    """
    if not file.is_file():
      raise FileNotFoundError(
        f'{file} does not exist. From a sentencepiece tokenizer.model, '
        'transformers makes it: AutoTokenizer.from_pretrained(folder)'
        '.save_pretrained(folder).'
      )
    try:
      backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more specific
      raise ValueError(
        f'{file} cannot be read by tokenizers {tokenizers.__version__}: '
        f'{error}.'
      ) from error
    return cls(backend, origin)

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

  def encode(
    self, texts: Sequence[str], parse_special: bool
  ) -> list[tokenizers.Encoding]:
    """What the library makes of texts, in parallel; no BOS is added.

    Args:
      texts: What to encode.
      parse_special: Whether special tokens in a text are recognised, or
        spelled in ordinary tokens.

    Raises:
      ValueError: something is not a text, or a special token cannot be spelled
        in ordinary tokens.
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
    encodings = backend.encode_batch(list(texts), add_special_tokens=False)
    if not parse_special:
      for text, encoding in zip(texts, encodings, strict=True):
        if found := self.specials.keys() & set(encoding.ids):
          raise ValueError(
            f'{self.origin} cannot spell {self.specials[min(found)]!r} in '
            f'ordinary tokens, in {quote(text)}: its merges lead back to it.'
          )
    return encodings

  @functools.cached_property
  def _plain_backend(self) -> tokenizers.Tokenizer:
    """The tokenizer to which special tokens in a text are ordinary text."""
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
    """The vocabulary's entries for integer [T] ids, spaces as U+2581."""
    return [self._backend.id_to_token(i) for i in self.check(ids)]

  def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
    """The text of integer [T] ids. Bytes that are not UTF-8 give U+FFFD."""
    return self._backend.decode(
      self.check(ids), skip_special_tokens=skip_special
    )
