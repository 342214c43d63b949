"""The tokenizers of both sides, on texts that tokenizers stumble over."""

import dataclasses

import tokenizers
import transformers

from gemma_jax import CheckpointReader, Tokenizer
from tools.parity.hostile import HOSTILE, compare
from tools.parity.reference import hf_source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenization:
  """Says how the tokens of the two sides differ.

  Attributes:
    texts: How many texts were compared.
    different: Those whose ids differ and should not: text, our ids, HF's.
    merged_bos: Texts that start with a literal BOS, which ours makes the one
      that it adds, while HF adds a second; they are not in `different`.
    mended: What HF's tokenizer had wrong and was given before; '' is nothing.
  """

  texts: int
  different: list[tuple[str, list[int], list[int]]]
  merged_bos: int
  mended: str


def compare_tokenizers(
  reader: CheckpointReader, tokenizer: Tokenizer
) -> Tokenization:
  """Compares a checkpoint's tokenizer with HF's AutoTokenizer of it.

  Raises:
    ImportError: HF needs another package for a .gguf file.
    ValueError: HF cannot read the tokenizer.
  """
  # HF warns of long texts.
  transformers.utils.logging.set_verbosity_error()
  folder, gguf = hf_source(reader)
  try:
    hf = transformers.AutoTokenizer.from_pretrained(
      folder, local_files_only=True, **gguf
    )
  except Exception as error:  # HF raises whatever comes up
    raise ValueError(
      f'transformers cannot read the tokenizer of {folder}: '
      f'{type(error).__name__}: {error}. --notokenizer compares the models '
      'alone.'
    ) from error
  mended = ''
  if gguf and reader.gguf.metadata.get('tokenizer.ggml.pre') == 'smollm':
    mended = 'digits, which HF does not split when it reads a .gguf'
    _split_digits(hf.backend_tokenizer)
  different = compare(tokenizer, hf)
  merged = [
    text
    for text, ours, theirs in different
    if tokenizer.adds_bos
    and ours[:1] == [tokenizer.bos_id]
    and [tokenizer.bos_id, *ours] == theirs
  ]
  return Tokenization(
    texts=len(HOSTILE),
    different=[found for found in different if found[0] not in merged],
    merged_bos=len(merged),
    mended=mended,
  )


def _split_digits(backend: tokenizers.Tokenizer) -> None:
  """Puts SmolLM2's splitting of digits back: each is a word of its own."""
  backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
    [
      tokenizers.pre_tokenizers.Digits(individual_digits=True),
      backend.pre_tokenizer,
    ]
  )
