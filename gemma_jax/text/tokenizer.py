"""Text to tokens, padded batches, and back, with a model's own tokenizer file.

Three facts hold for everything that comes out of `Tokenizer`:

* A sequence starts with exactly one BOS, whether the text, the chat template
  or nobody wrote it. `bos=False` adds none, for a piece of a longer sequence.
* Positions are -1 at padding and count a row's own tokens from 0, so the
  padding side is free; lengths are rounded up to a few sizes, so that few
  programs are compiled.
* A span is a pair (start, stop) of token indices in the unpadded sequence, BOS
  included, stop excluded. In a batch add `TokenBatch.starts`.

Special tokens in text: as in HF, '<bos>' or '<end_of_turn>' written out in a
text is the special token; `parse_special=False` spells it in ordinary tokens
instead. (The code of arXiv 2411.14257 deletes '<bos>' from texts.)
"""

from collections.abc import Iterable, Mapping, Sequence
import functools
import itertools
import json
import pathlib
from typing import Any

import tokenizers

from gemma_jax.checkpoint import hf_format
from gemma_jax.text import chat, spans
from gemma_jax.text.padding import BUCKETS, TokenBatch, check_buckets, pad_rows
from gemma_jax.text.spans import Encoding, Span, quote
from gemma_jax.text.vocabulary import Vocabulary

# Gemma's names, for a model without a tokenizer_config.json that says.
_NAMES = {'bos_token': '<bos>', 'eos_token': '<eos>', 'pad_token': '<pad>'}


class Tokenizer:
  """A Gemma tokenizer: `tokenizer.json`, read by the `tokenizers` library.

  Attributes:
    bos_id: Every sequence starts with it.
    eos_id: Ends a document.
    pad_id: Fills empty places.
    vocabulary: The tokens themselves.
  """

  def __init__(
    self,
    vocabulary: Vocabulary | tokenizers.Tokenizer,
    *,
    config: Mapping[str, Any] | None = None,
    chat_template: str | None = None,
  ):
    """Takes over a loaded tokenizer. Most callers want `from_pretrained`.

    Args:
      vocabulary: The tokens; of the library's object, truncation and padding
        are switched off.
      config: Content of a tokenizer_config.json: names of the special tokens,
        and a chat template.
      chat_template: Jinja source that replaces the one in `config`. Without
        either, chats are written in Gemma 2's format.

    Raises:
      ValueError: a special token is missing, or the template is not Jinja.
    """
    if not isinstance(vocabulary, Vocabulary):
      vocabulary = Vocabulary(vocabulary, 'this tokenizer')
    self.vocabulary = vocabulary
    config = config or {}
    self._names = {
      key: _text_of(config.get(key)) or _NAMES[key] for key in _NAMES
    }
    self.bos_id = vocabulary.special_id(self._names['bos_token'])
    self.eos_id = vocabulary.special_id(self._names['eos_token'])
    self.pad_id = vocabulary.special_id(self._names['pad_token'])
    origin = vocabulary.origin
    template = chat_template or chat.select_template(config, origin)
    self._render = template and chat.compile_template(template, origin)

  @classmethod
  def from_pretrained(
    cls, path: str | pathlib.Path, *, revision: str | None = None
  ) -> 'Tokenizer':
    """Reads a model's tokenizer.

    Args:
      path: A folder with `tokenizer.json` and, where the model has them,
        `tokenizer_config.json` and `chat_template.jinja`; or a model id on the
        Hugging Face hub, such as 'google/gemma-2-2b-it'.
      revision: Branch, tag or commit on the hub.

    Raises:
      FileNotFoundError: there is no such folder, or no tokenizer.json in it.
      ImportError: a hub id was given and huggingface_hub is not installed.
      ValueError: a file cannot be read, or a special token is missing; also if
        a revision is given with a folder.
    """
    folder, _ = hf_format.locate(path, revision)
    vocabulary = Vocabulary.from_file(folder / 'tokenizer.json', str(path))
    config, template = {}, None
    try:
      if (file := folder / 'tokenizer_config.json').is_file():
        config = json.loads(file.read_text(encoding='utf-8'))
        if not isinstance(config, dict):
          raise ValueError('it does not hold a JSON object')
      if (file := folder / 'chat_template.jinja').is_file():
        template = file.read_text(encoding='utf-8')
    except ValueError as error:
      raise ValueError(f'{file} cannot be read: {error}.') from error
    return cls(vocabulary, config=config, chat_template=template)

  @property
  def vocab_size(self) -> int:
    """Number of tokens; a model's embedding may have more rows."""
    return self.vocabulary.size

  @functools.cached_property
  def end_of_turn_id(self) -> int:
    """Ends a turn of a chat. Raises ValueError where the model has none."""
    return self.vocabulary.special_id(chat.END_OF_TURN)

  @property
  def stop_ids(self) -> tuple[int, ...]:
    """What ends an answer: EOS and, where there is one, the end of turn."""
    if chat.END_OF_TURN not in self.vocabulary:
      return (self.eos_id,)
    return self.eos_id, self.end_of_turn_id

  def encode(self, text: str, **options) -> list[int]:
    """Token ids of a text; options and errors as for `tokenize`."""
    return self.tokenize(text, **options).ids

  def tokenize(
    self,
    text: str,
    *,
    bos: bool = True,
    parse_special: bool = True,
    max_length: int | None = None,
    truncate: bool = False,
  ) -> Encoding:
    """Tokens of a text, and the characters that each of them spells.

    Args:
      text: Any text without lone surrogates.
      bos: Start with BOS. BOS tokens that the text itself starts with are
        merged into it, and its offsets then cover them.
      parse_special: Whether a special token written out in the text is that
        token, or ordinary text.
      max_length: Most tokens allowed, BOS included.
      truncate: Cut a longer text at the end instead of raising.

    Raises:
      ValueError: the text is too long, or cannot be encoded.
    """
    (raw,) = self.vocabulary.encode([text], parse_special)
    return self._finish(text, raw.ids, raw.offsets, bos, max_length, truncate)

  def encode_batch(
    self,
    texts: Sequence[str],
    *,
    bos: bool = True,
    parse_special: bool = True,
    max_length: int | None = None,
    truncate: bool = False,
    side: str = 'left',
    buckets: int | Sequence[int] = BUCKETS,
  ) -> TokenBatch:
    """Tokenizes texts and pads them: see `tokenize` and `pad`.

    `max_length` defaults to the largest bucket. T, the smallest bucket that
    holds the longest row, can exceed it.
    """
    if isinstance(texts, str):
      raise ValueError(f'Expected a list of texts, got the text {texts!r}.')
    if max_length is None:
      max_length = check_buckets(buckets)[-1]
    texts = list(texts)
    raws = self.vocabulary.encode(texts, parse_special)
    rows = [
      self._finish(text, raw.ids, raw.offsets, bos, max_length, truncate)
      for text, raw in zip(texts, raws, strict=True)
    ]
    return self.pad(rows, side=side, buckets=buckets)

  def pad(
    self,
    rows: Iterable[Encoding | Sequence[int]],
    *,
    side: str = 'left',
    buckets: int | Sequence[int] = BUCKETS,
  ) -> TokenBatch:
    """Pads encodings, or sequences of ids, to one of a few lengths.

    Args, what is returned and what is raised: see `pad_rows`.
    """
    rows = [
      row.ids if isinstance(row, Encoding) else self.vocabulary.check(row)
      for row in rows
    ]
    return pad_rows(rows, self.pad_id, side=side, buckets=buckets)

  def chat_text(
    self, messages: chat.Messages, *, generation_prompt: bool = True
  ) -> str:
    """A chat as the model was trained on it, BOS written out.

    The model's own template is used where it has one, else Gemma 2's. Text
    put after the result is the beginning of the model's answer.

    Args:
      messages: Turns {'role': 'user' | 'assistant', 'content': text}, the user
        first; or the text of one user turn.
      generation_prompt: Open the model's turn at the end.

    Raises:
      ValueError: a message is malformed, the template refuses the chat (Gemma
        2's a system role, and turns that do not alternate), or the vocabulary
        has no <end_of_turn>.
    """
    messages = chat.parse_messages(messages)
    if self._render:
      return self._render(
        messages=messages,
        add_generation_prompt=generation_prompt,
        **self._names,
      )
    self.vocabulary.special_id(chat.END_OF_TURN)
    return chat.gemma2_chat(
      messages, generation_prompt, self._names['bos_token']
    )

  def tokenize_chat(
    self,
    messages: chat.Messages,
    *,
    generation_prompt: bool = True,
    parse_special: bool = True,
    max_length: int | None = None,
    truncate: bool = False,
  ) -> Encoding:
    """Tokens of `chat_text`, with exactly one BOS at the start.

    `parse_special` is about the messages' contents: the template's own special
    tokens are always special. The other arguments, and what is raised, are
    those of `chat_text` and `tokenize`.
    """
    messages = chat.parse_messages(messages)
    if not parse_special:
      messages = chat.mark(messages, self.vocabulary.specials.values())
    text = self.chat_text(messages, generation_prompt=generation_prompt)
    pieces = [text] if parse_special else chat.split_at_marks(text)
    ids, offsets, shift = [], [], 0
    # The literal special tokens, if any, have the odd indices.
    for piece, parse in zip(pieces, itertools.cycle((True, False))):
      (raw,) = self.vocabulary.encode([piece], parse)
      ids += raw.ids
      offsets += [(a + shift, b + shift) for a, b in raw.offsets]
      shift += len(piece)
    text = ''.join(pieces)
    return self._finish(text, ids, offsets, True, max_length, truncate)

  def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
    """The text of int [T] ids. Bytes that are not UTF-8 give U+FFFD."""
    return self.vocabulary.decode(ids, skip_special)

  def token_strings(self, ids: Sequence[int]) -> list[str]:
    """What each of int [T] ids spells, for labels: ' Paris', '<0xF0>'."""
    pieces = self.vocabulary.pieces(ids)
    return [piece.replace('\u2581', ' ') for piece in pieces]

  def find_span(
    self,
    source: str | Encoding | Sequence[int],
    substring: str,
    *,
    rule: str = 'offsets',
    occurrence: int = 0,
    whole_word: bool = False,
  ) -> Span:
    """The tokens [start, stop) that spell a substring.

    rule='offsets' finds the substring in the text and returns every token that
    spells a part of it (`span_by_offsets`, also for the last two arguments).
    rule='paper' bisects over what tokens decode to (`span_by_bisection`). It
    knows the first occurrence only, and returns the same tokens except that

    * it sees added tokens too: 'bos' is in the first token of every text;
    * where occurrences overlap, it may miss the beginning of the first;
    * it sees U+FFFD instead of an unfinished character's bytes, and of the
      complete characters right before it if they are bytes as well. There,
      stop may lie too far right, and a far occurrence be found for a near one.

    Args:
      source: A text, which is tokenized with BOS; the `Encoding` of, for
        instance, a truncated text or a chat; or ids.
      substring: What to look for, exactly as written.
      rule: 'offsets' or 'paper'.
      occurrence: 0 is the first, -1 the last.
      whole_word: Whether 'art' in 'party' does not count.

    Raises:
      ValueError: the substring does not occur (so often).
      TruncationError: it occurs, but truncation cut it.
    """
    if not substring:
      raise ValueError('Cannot find an empty substring.')
    if isinstance(source, str):
      source = self.tokenize(source)
    elif not isinstance(source, Encoding):
      source = spans.encoding_of_pieces(
        self.token_strings(source), self.vocabulary.check(source)
      )
    if rule == 'offsets':
      return spans.span_by_offsets(source, substring, occurrence, whole_word)
    if rule != 'paper':
      raise ValueError(f"rule must be 'offsets' or 'paper', got {rule!r}.")
    if occurrence or whole_word:
      raise ValueError(
        "rule='paper' finds the first occurrence only, got "
        f"occurrence={occurrence}, whole_word={whole_word}; use 'offsets'."
      )
    return spans.span_by_bisection(source, substring, self.decode)

  def _finish(self, text, ids, offsets, bos, max_length, truncate) -> Encoding:
    """Adds BOS and enforces the length."""
    if bos:
      written = 0
      while ids[written : written + 1] == [self.bos_id]:
        written += 1
      end = offsets[written - 1][1] if written else 0
      ids = [self.bos_id, *ids[written:]]
      offsets = [(0, end), *offsets[written:]]
    if max_length is None or len(ids) <= max_length:
      return Encoding(text, ids, offsets, len(text))
    if not truncate or max_length < 1:
      raise ValueError(
        f'{quote(text)} has {len(ids)} tokens, more than max_length='
        f'{max_length}. Raise it, or pass truncate=True to cut the text.'
      )
    kept = offsets[max_length][0]
    return Encoding(text, ids[:max_length], offsets[:max_length], kept)


def _text_of(token: str | Mapping[str, Any] | None) -> str | None:
  """A token's text; HF files have it bare, or inside an object."""
  return token.get('content') if isinstance(token, Mapping) else token
