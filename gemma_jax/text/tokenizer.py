"""Text to tokens, padded batches, and back, with a model's own tokenizer files.

Three facts hold for everything that comes out of `Tokenizer`:

* A sequence starts as the model expects: with exactly one BOS where it was
  trained with one (Gemma, Llama, Mistral, OPT), whether the text, the chat
  template or nobody wrote it; elsewhere (GPT-2, Qwen, SmolLM2) with nothing
  added. `adds_bos` says which. `bos=False` adds none, for a piece of a longer
  sequence.
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
import copy
import functools
import itertools
import logging
import pathlib
from typing import Any

import tokenizers

from gemma_jax.checkpoint import hf_format
from gemma_jax.path_checks import files_inside
from gemma_jax.text import chat, spans
from gemma_jax.text.padding import BUCKETS, TokenBatch, check_buckets, pad_rows
from gemma_jax.text.spans import Encoding, Span, quote
from gemma_jax.text.special_tokens import (
  add_older_tokens,
  add_tokens,
  read_settings,
  read_special_tokens,
  special_names,
)
from gemma_jax.text.vocabulary import Vocabulary

# Files of a tokenizer; vocab.json and merges.txt stand in for tokenizer.json.
FILES = (
  'tokenizer.json',
  'vocab.json',
  'merges.txt',
  'added_tokens.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  *chat.TEMPLATE_FILES.values(),
)


class Tokenizer:
  """A model's tokenizer: `tokenizer.json`, read by the `tokenizers` library.

  Attributes:
    adds_bos: True if the model's sequences start with BOS, by its own files
      (see `read_special_tokens`).
    bos_id: Begins a sequence where `adds_bos`. Elsewhere the token that the
      files name so, which is not put anywhere, or None.
    eos_id: Ends a document. None if the model has no such token.
    pad_id: Fills empty places: the padding token, else EOS, else 0. Masks come
      from positions alone, so any id with an embedding will do.
    vocabulary: The tokens themselves.
  """

  def __init__(
    self,
    vocabulary: Vocabulary | tokenizers.Tokenizer,
    *,
    config: Mapping[str, Any] | None = None,
    chat_template: str | Mapping[str, str] | None = None,
  ):
    """Makes a tokenizer of loaded parts. Most callers want `from_pretrained`.

    Args:
      vocabulary: The tokens. An object of the library is copied.
      config: Content of a tokenizer_config.json: names of the special tokens,
        further tokens, the rule about BOS, and a chat template.
      chat_template: Jinja source that replaces the one in `config`, or several
        by name: 'default', and 'tool_use' for chats with tools. Without any,
        chats are written in Gemma 2's format, if the vocabulary has its tokens.

    Raises:
      ValueError: a special token is missing, the template is not Jinja, or the
        tokenizer puts anything else than one BOS around a text.
    """
    if not isinstance(vocabulary, Vocabulary):
      vocabulary = Vocabulary(copy.deepcopy(vocabulary), 'this tokenizer')
    config = config or {}
    self.vocabulary = vocabulary = add_tokens(vocabulary, config)
    special = read_special_tokens(vocabulary, config)
    self.adds_bos = special.adds_bos
    self.bos_id, self.eos_id = special.bos_id, special.eos_id
    self.pad_id = special.pad_id
    if isinstance(chat_template, str):
      chat_template = {'default': chat_template}
    self._chats = chat.ChatFormat(
      chat.read_templates(config, chat_template or {}, vocabulary.origin),
      special.names,
      vocabulary.specials.values(),
      vocabulary.origin,
    )

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
      ValueError: a file cannot be read or is a link to somewhere outside the
        folder, or a special token is missing; also if a revision is given with
        a folder.
    """
    folder, _ = hf_format.locate(path, revision)
    files = {}
    for name, file in files_inside(folder, FILES).items():
      try:
        files[name] = file.read_text(encoding='utf-8')
      except ValueError as error:
        raise ValueError(f'{file} cannot be read: {error}.') from error
    if found := hf_format.find_adapters(folder):
      logging.getLogger('gemma_jax').warning(
        '%s: this folder has an adapter; only its tokenizer is read.', found[0]
      )
    return cls.from_files(files, str(path))

  @classmethod
  def from_files(cls, files: Mapping[str, str], origin: str) -> 'Tokenizer':
    """Makes a tokenizer from the contents of its files.

    Args:
      files: Name -> content of `tokenizer.json` and, where there are any,
        `tokenizer_config.json` and `chat_template.jinja`. For a GPT2Tokenizer
        (OPT has no other) `vocab.json` and `merges.txt` will do.
      origin: Where they come from, for error messages.

    Raises:
      FileNotFoundError: there is no tokenizer.json.
      ValueError: a file cannot be read, or a special token is missing.
    """
    config = read_settings(files, origin)
    kind = str(config.get('tokenizer_class')).removesuffix('Fast')
    if 'tokenizer.json' in files:
      vocabulary = Vocabulary.from_json(files['tokenizer.json'], origin)
    elif {'vocab.json', 'merges.txt'} <= set(files) and kind == 'GPT2Tokenizer':
      if not special_names(config, f'{origin}/tokenizer_config.json'):
        config['eos_token'] = '<|endoftext|>'
      vocabulary = Vocabulary.from_gpt2(
        files['vocab.json'],
        files['merges.txt'],
        bool(config.get('add_prefix_space', False)),
        origin,
      )
    else:
      raise FileNotFoundError(
        f'{origin} has no tokenizer.json. From a tokenizer.model, or from '
        'vocab.json and merges.txt, transformers makes it: '
        'AutoTokenizer.from_pretrained(folder).save_pretrained(folder).'
      )
    older = files.get('added_tokens.json')
    if older is not None and 'added_tokens_decoder' not in config:
      vocabulary = add_older_tokens(vocabulary, older, config)
    templates = {
      name: files[file]
      for name, file in chat.TEMPLATE_FILES.items()
      if file in files
    }
    return cls(vocabulary, config=config, chat_template=templates)

  def check_fits(self, vocab_size: int, origin: str):
    """Raises ValueError unless a model has an embedding of every token.

    A special token may lack one, such as <image_soft_token> in Gemma 3's
    models of text alone: texts that hold it are refused from here on.

    Args:
      vocab_size: Rows of the model's embedding. There may be more rows than
        tokens.
      origin: The model's name for the error message.
    """
    self.vocabulary.check_fits(vocab_size, origin)

  @property
  def vocab_size(self) -> int:
    """Number of tokens; a model's embedding may have more rows."""
    return self.vocabulary.size

  @property
  def end_of_turn_id(self) -> int:
    """Ends a turn of a chat. Raises ValueError where the model has none."""
    if self._end_of_turn is None:
      raise ValueError(
        f'{self.vocabulary.origin} has no token that ends a turn: its chat '
        f'template writes none, and there is no token {chat.END_OF_TURN!r}.'
      )
    return self._end_of_turn

  @property
  def stop_ids(self) -> tuple[int, ...]:
    """Returns what ends an answer: EOS and, where there is one, the end of
    turn.

    Raises ValueError where the model has neither.
    """
    ids = [self.eos_id, self._end_of_turn]
    ids = tuple(dict.fromkeys(i for i in ids if i is not None))
    if not ids:
      raise ValueError(
        f'{self.vocabulary.origin} has no token that ends a text: neither its '
        'tokenizer_config.json nor its chat template names any. Say which ids '
        'end an answer.'
      )
    return ids

  @functools.cached_property
  def _end_of_turn(self) -> int | None:
    token = self._chats.end_of_turn()
    return token and self.vocabulary.special_id(token)

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
      bos: Start as the model expects, with one BOS if `adds_bos`. BOS tokens
        that the text itself starts with are merged into it, and its offsets
        then cover them.
      parse_special: True if a special token written out in the text is that
        token, or ordinary text.
      max_length: Most tokens allowed, BOS included.
      truncate: Cut a longer text at the end instead of raising.

    Raises:
      ValueError: the text is too long, or cannot be encoded.
    """
    (raw,) = self.vocabulary.encode([text], parse_special)
    offsets = self.vocabulary.offsets(text, raw)
    return self._finish(text, raw.ids, offsets, bos, max_length, truncate)

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
      self._finish(
        text,
        raw.ids,
        self.vocabulary.offsets(text, raw),
        bos,
        max_length,
        truncate,
      )
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
    self,
    messages: chat.Messages,
    *,
    generation_prompt: bool = True,
    variables: Mapping[str, Any] | None = None,
  ) -> str:
    """Returns a chat as the model was trained on it, with the BOS that it
    starts with.

    The model's own template is used where it has one, else Gemma 2's format.
    Text put after the result is the beginning of the model's answer.

    Args:
      messages: Turns {'role': 'user' | 'assistant', 'content': text}, the user
        first; or the text of one user turn. Templates may know more roles.
      generation_prompt: Open the model's turn at the end.
      variables: What else the template reads, such as `tools` (JSON schemas),
        `documents`, `date_string` or `enable_thinking`.

    Raises:
      ValueError: a message is malformed, the template refuses the chat (Gemma
        2's a system role, and turns that do not alternate) or never reads one
        of the variables, or the model has no chats: no template, and not the
        tokens of Gemma 2's format.
    """
    return self._chats.text(messages, generation_prompt, variables)

  def tokenize_chat(
    self,
    messages: chat.Messages,
    *,
    generation_prompt: bool = True,
    variables: Mapping[str, Any] | None = None,
    parse_special: bool = True,
    max_length: int | None = None,
    truncate: bool = False,
  ) -> Encoding:
    """Tokens of `chat_text`, with exactly one BOS at the start if `adds_bos`.

    `parse_special` is about the messages' contents: the template's own special
    tokens are always special. The other arguments, and what is raised, are
    those of `chat_text` and `tokenize`.
    """
    messages = chat.parse_messages(messages)
    if not parse_special:
      messages = chat.mark(messages, self.vocabulary.specials.values())
    text = self.chat_text(
      messages, generation_prompt=generation_prompt, variables=variables
    )
    pieces = [text] if parse_special else chat.split_at_marks(text)
    ids, offsets, shift = [], [], 0
    # The literal special tokens, if any, have the odd indices.
    for piece, parse in zip(pieces, itertools.cycle((True, False))):
      found, places = self._encode_piece(piece, parse, first=not shift)
      ids += found
      offsets += [(a + shift, b + shift) for a, b in places]
      shift += len(piece)
    text = ''.join(pieces)
    return self._finish(text, ids, offsets, True, max_length, truncate)

  def _encode_piece(self, piece, parse_special, first):
    """Ids and offsets of a piece of a text.

    A piece inside the text is encoded after a line break, which is then taken
    off again, if its tokens can be: Llama 2's tokenizer puts a space at the
    start of what it gets.
    """
    led = '\n' + piece
    raw, *others = self.vocabulary.encode(
      [piece] if first else [piece, '\n', led], parse_special
    )
    if others:
      head, tail = others
      size = len(head.ids)
      if tail.ids[:size] == head.ids:
        places = self.vocabulary.offsets(led, tail)[size:]
        return tail.ids[size:], [(a - 1, b - 1) for a, b in places]
    return raw.ids, self.vocabulary.offsets(piece, raw)

  def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
    """Returns the text of int [T] ids. Bytes that are not UTF-8 give U+FFFD."""
    return self.vocabulary.decode(ids, skip_special)

  def token_strings(self, ids: Sequence[int]) -> list[str]:
    """Returns what each of int [T] ids spells, for labels: ' Paris', '<0xF0>'.

    Bytes that are no whole character are written as '<0xF0>'. Without those,
    the strings of a byte-level tokenizer make up the text (as it was after its
    normalization, such as Qwen's NFC). Llama 2's also have the space that it
    puts before a text.
    """
    if self.vocabulary.byte_level:
      return [spans.spell_out(piece) for piece in self.vocabulary.spelled(ids)]
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
    """Returns the tokens [start, stop) that spell a substring.

    rule='offsets' finds the substring in the text and returns every token that
    spells a part of it (`span_by_offsets`, also for the last two arguments).
    rule='paper' bisects over what tokens decode to (`span_by_bisection`). It
    knows the first occurrence only, and returns the same tokens except that

    * it sees added tokens too: 'bos' is in the first token of every text;
    * where occurrences overlap, it may miss the beginning of the first;
    * it sees U+FFFD instead of an unfinished character's bytes and, but for
      byte-level tokenizers, of the complete characters right before it if they
      are bytes as well. There, stop may lie too far right, and a far occurrence
      be found for a near one;
    * Llama 2's decoder drops the space at the start of what it decodes.

    Args:
      source: A text, which is tokenized with BOS; the `Encoding` of, for
        instance, a truncated text or a chat; or ids.
      substring: What to look for, exactly as written.
      rule: 'offsets' or 'paper'.
      occurrence: 0 is the first, -1 the last.
      whole_word: True if 'art' in 'party' does not count.

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
        self.vocabulary.spelled(source), self.vocabulary.check(source)
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
    if bos and self.adds_bos:
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
