"""MiniWorld's tokenizer: a word is a token, as its `tokenizer.json` says.

Built and saved by the `tokenizers` library in the format and with the special
tokens of Gemma. Unlike Gemma's, a quotation mark before a word is followed by a
space for the tokenizer, so that a name has the same two tokens in quotes and
without. Letters outside the vocabulary are spelled in bytes.
"""

from collections.abc import Iterable
import re

import tokenizers
from tokenizers import (
  AddedToken,
  Regex,
  decoders,
  models,
  normalizers,
  processors,
)

PAD, EOS, BOS = '<pad>', '<eos>', '<bos>'
_SPECIALS = (PAD, EOS, BOS, '<unk>', '<start_of_turn>', '<end_of_turn>')
_SPACE = '▁'
_PIECE = re.compile(r' ?[^\W_]+| ?[^\w\s]')
# Log-probability of a piece: the fewer pieces the better.
_SCORE = -10.0


def make_tokenizer(texts: Iterable[str]) -> tokenizers.Tokenizer:
  """Returns a tokenizer whose pieces are the words, numbers and marks of
  `texts`.

  A word at the start of a text or after a line break is another token than
  after a space, as in Gemma.
  """
  pieces = {_SPACE, '\n'}
  for text in texts:
    pieces.update(_PIECE.findall(re.sub(r"'(?=\w)", "' ", text)))
  specials = [(piece, 0.0) for piece in _SPECIALS]
  letters = [(f'<0x{byte:02X}>', 0.0) for byte in range(256)]
  pieces = [(p.replace(' ', _SPACE), _SCORE) for p in sorted(pieces)]
  tokenizer = tokenizers.Tokenizer(
    models.Unigram(
      specials + letters + pieces,
      unk_id=_SPECIALS.index('<unk>'),
      byte_fallback=True,
    )
  )
  tokenizer.normalizer = normalizers.Sequence(
    [
      normalizers.Replace(Regex(r"'(?=\w)"), "' "),
      normalizers.Replace(' ', _SPACE),
    ]
  )
  tokenizer.decoder = decoders.Sequence(
    [
      decoders.Replace(_SPACE, ' '),
      decoders.ByteFallback(),
      decoders.Fuse(),
    ]
  )
  tokenizer.post_processor = processors.TemplateProcessing(
    single=f'{BOS} $A',
    pair=f'{BOS} $A {BOS} $B',
    special_tokens=[(BOS, _SPECIALS.index(BOS))],
  )
  tokenizer.add_special_tokens(
    [AddedToken(s, special=True, normalized=False) for s in _SPECIALS]
  )
  return tokenizer
