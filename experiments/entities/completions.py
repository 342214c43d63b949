"""Completions of prompts as texts: several per prompt, which is run once.

Batches have one number of rows and go from the longest prompts to the
shortest, so that few programs are compiled and what needs most memory comes
first. A completion ends at the end of a document or of a turn, or where it is
told to; nothing after that is part of its text.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from experiments.entities.sampling import PROMPT_BUCKETS, fast
import gemma_jax as gj

_BUCKETS = PROMPT_BUCKETS


def complete(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  prompts: Sequence[Sequence[int]],
  seeds: Sequence[Sequence[int]],
  *,
  temperatures: Sequence[float],
  max_new_tokens: int,
  stop_at_line_break: bool = False,
  rows_per_batch: int = 512,
) -> Iterator[dict[int, list[str]]]:
  """Texts of all prompts, batch by batch.

  Args:
    model: The model.
    tokenizer: The model's.
    prompts: Token ids of P prompts, BOS included.
    seeds: [P][R], below 2^32; a completion depends on its prompt, its seed and
      its temperature alone.
    temperatures: [R], of the completions of every prompt; 0 is greedy.
    max_new_tokens: Most tokens per completion.
    stop_at_line_break: True if a line break, too, ends a completion.
    rows_per_batch: Completions at once, at least R.

  Yields:
    Number of a prompt -> its R texts; every prompt once.

  Raises:
    ValueError: from `generate`; prompts must leave room for new tokens.
  """
  if not prompts:
    return
  model = fast(model)
  ends = {*model.config.eos_ids, *tokenizer.stop_ids}
  stops = ends | (line_break_ids(tokenizer) if stop_at_line_break else set())
  R = len(temperatures)
  size = min(len(prompts), max(1, rows_per_batch // R))
  order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
  for start in range(0, len(order), size):
    batch = order[start : start + size]
    rows = batch + batch[-1:] * (size - len(batch))  # filled up
    padded = tokenizer.pad([prompts[i] for i in rows], buckets=_BUCKETS)
    made = gj.generate(
      model,
      *padded,
      max_new_tokens=max_new_tokens,
      samples=R,
      sampling=gj.Sampling(
        temperature=np.tile(np.asarray(temperatures, np.float32), size)
      ),
      seeds=np.asarray([seeds[i] for i in rows]).ravel(),
      stop_ids=sorted(stops),
    )
    tokens, lengths = np.asarray(made.tokens), np.asarray(made.lengths)
    texts = [
      _text(tokenizer, row[:length].tolist(), ends, stop_at_line_break)
      for row, length in zip(tokens, lengths, strict=True)
    ]
    yield {i: texts[k * R : (k + 1) * R] for k, i in enumerate(batch)}


def line_break_ids(tokenizer: gj.Tokenizer) -> set[int]:
  """Returns the tokens that hold a line break."""
  pieces = tokenizer.token_strings(range(tokenizer.vocab_size))
  return {i for i, p in enumerate(pieces) if '\n' in p or p == '<0x0A>'}


def _text(tokenizer, ids, ends, stop_at_line_break) -> str:
  """Returns what ids, a stop token perhaps the last of them, say.

  Rows of an embedding that are no token of the vocabulary say nothing.
  """
  if ids[-1] in ends:
    ids = ids[:-1]
  known = [i for i in ids if i < tokenizer.vocab_size]
  text = tokenizer.decode(known, skip_special=True)
  return text.split('\n')[0] if stop_at_line_break else text
