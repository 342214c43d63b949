"""Weights and tokenizer in one: what a notebook works with.

  lm = load_model('google/gemma-2-2b')
  out = lm.run(['The city Paris is in'], capture=capture('resid_post'))
  lm.generate(['The city Paris is in'], max_new_tokens=5).texts

A thin layer over the pure functions: `lm.model` holds the weights,
`lm.tokenize` makes the batches, and `run` and `generate` of this package do
the work.
"""

from collections.abc import Sequence
import dataclasses
import os

import jax
import numpy as np

from gemma_jax import running
from gemma_jax.checkpoint.hf import CheckpointReader
from gemma_jax.config import ModelConfig
from gemma_jax.generate import generate
from gemma_jax.model import Output
from gemma_jax.path_checks import files_inside
from gemma_jax.text.padding import BUCKETS, TokenBatch, pad_rows
from gemma_jax.text.tokenizer import Tokenizer
from gemma_jax.weights import Decoder

Prompts = str | Sequence[str] | TokenBatch | np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Continuation:
  """Holds what `LanguageModel.generate` returns; B counts every sample.

  Attributes:
    texts: B of them, without the prompt and without special tokens.
    tokens: int32 [B, G], as in `Generation`.
    logprobs: float32 [B, G].
    lengths: int32 [B].
  """

  texts: list[str]
  tokens: jax.Array
  logprobs: jax.Array
  lengths: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LanguageModel:
  """A model that reads and writes text.

  Attributes:
    name: Where it was loaded from.
    model: The weights, for the pure functions.
    tokenizer: None where the checkpoint has none: then prompts are tokens.
  """

  name: str
  model: Decoder
  tokenizer: Tokenizer | None

  @property
  def config(self) -> ModelConfig:
    """Returns the architecture."""
    return self.model.config

  def tokenize(
    self, prompts: Prompts, *, buckets: int | Sequence[int] = BUCKETS
  ) -> TokenBatch:
    """Prompts as tokens int32 [B, T] and positions, padded on the left.

    Args:
      prompts: Texts, or one; or a TokenBatch, or int [B, T] without padding,
        which are returned as they are.
      buckets: Lengths to pad to: few of them make few programs.

    Raises:
      ValueError: there is no tokenizer, or a text is too long.
    """
    if isinstance(prompts, TokenBatch):
      return prompts
    if isinstance(prompts, np.ndarray | jax.Array):
      tokens = np.asarray(prompts)
      rows = np.broadcast_to(np.arange(tokens.shape[-1]), tokens.shape)
      return TokenBatch(tokens, rows)
    if self.tokenizer is None:
      raise ValueError(
        f'{self.name} has no tokenizer.json, so it cannot read text. Put the '
        "tokenizer's files beside the weights, or pass tokens int [B, T]."
      )
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    rows = [self.tokenizer.encode(text) for text in texts]
    return pad_rows(rows, self.config.fill_id, side='left', buckets=buckets)

  def run(self, prompts: Prompts, **options) -> Output:
    """Runs the model on prompts; options are those of `gemma_jax.run`.

    Args:
      prompts: As `tokenize` takes them.
      **options: interventions, capture, logits_at and the like.
    """
    return running.run(self.model, *self.tokenize(prompts), **options)

  def generate(
    self, prompts: Prompts, *, max_new_tokens: int, **options
  ) -> Continuation:
    """Continues prompts; options are those of `gemma_jax.generate`.

    A row ends with a token that ends a text or a turn of a chat.

    Args:
      prompts: As `tokenize` takes them.
      max_new_tokens: At most so many tokens per row.
      **options: interventions, sampling, samples, seeds, stop_ids.
    """
    if self.tokenizer is not None:
      ends = {*self.config.eos_ids, *self.tokenizer.stop_ids}
      options.setdefault('stop_ids', sorted(ends))
    made = generate(
      self.model,
      *self.tokenize(prompts),
      max_new_tokens=max_new_tokens,
      **options,
    )
    tokens, lengths = np.asarray(made.tokens), np.asarray(made.lengths)
    texts = []
    if self.tokenizer is not None:
      texts = [
        self.tokenizer.decode(row[:length], skip_special=True)
        for row, length in zip(tokens, lengths, strict=True)
      ]
    return Continuation(
      texts=texts,
      tokens=made.tokens,
      logprobs=made.logprobs,
      lengths=made.lengths,
    )


def load_model(
  source: str | os.PathLike,
  *,
  dtype=None,
  num_layers: int | None = None,
  mesh: jax.sharding.Mesh | None = None,
  revision: str | None = None,
) -> LanguageModel:
  """Loads weights and tokenizer.

  Args:
    source: A folder, a .gguf file, or a hub id such as 'google/gemma-2-2b'.
    dtype: bfloat16, float16 or float32; None keeps that of the files, and is
      float32 for a .gguf.
    num_layers: Only the first so many layers, whose bytes alone are read: such
      a model has streams, but no logits.
    mesh: Where to place the weights; None is the default device.
    revision: Branch, tag or commit of a hub id.

  Raises:
    FileNotFoundError: there is no such folder or file.
    ValueError: it is not a whole checkpoint of a supported family, or its
      tokenizer is of another model. No weight is read before that is known.
  """
  reader = CheckpointReader(
    source, dtype=dtype, num_layers=num_layers, revision=revision
  )
  tokenizer = read_tokenizer(reader)
  return LanguageModel(
    name=str(source), model=reader.load(mesh), tokenizer=tokenizer
  )


def read_tokenizer(reader: CheckpointReader) -> Tokenizer | None:
  """Returns the tokenizer of a checkpoint; None if a folder has none.

  Raises:
    ValueError: a .gguf has none, it has ids beyond the embedding, or see
      `Tokenizer.from_pretrained`.
  """
  if reader.gguf is not None:
    origin = str(reader.gguf.path)
    tokenizer = Tokenizer.from_files(reader.gguf.tokenizer_files(), origin)
  elif files_inside(reader.folder, ('tokenizer.json', 'vocab.json')):
    origin = str(reader.folder)
    tokenizer = Tokenizer.from_pretrained(reader.folder)
  else:
    return None
  tokenizer.check_fits(reader.config.vocab_size, origin)
  return tokenizer
