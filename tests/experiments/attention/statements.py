"""The planted chat model as a base model: it knows the words of statements.

After any of their words 'Paris' is the most likely one, as after a question.
"""

import dataclasses
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import tokenizers

from experiments.entities import PROMPT_TYPES
import gemma_jax as gj
from sae.formats.gemma_scope import save_gemma_scope
from tests.experiments.steering import planted, planted_files


def backend() -> tokenizers.Tokenizer:
  """The planted one, with words added."""
  made = json.loads(planted.backend().to_str())
  vocab = made['model']['vocab']
  words = {'The', '▁Paris', '▁Rome', '▁1980'}
  for prompt_type in PROMPT_TYPES.values():
    words |= {f'▁{word}' for word in (prompt_type.statement or '').split()}
  for word in sorted(words - vocab.keys()):
    vocab[word] = len(vocab)
  return tokenizers.Tokenizer.from_str(json.dumps(made))


def save(folder: pathlib.Path) -> pathlib.Path:
  """Its checkpoint."""
  old = planted.model()
  weights = old.weights()
  vocab = backend().get_vocab()
  first = weights['embed'].shape[0]
  embed = np.zeros((len(vocab), planted.D), np.float32)
  embed[:first] = weights['embed']
  rng = np.random.default_rng(3)
  embed[first:, 12:] = 0.3 * rng.standard_normal((len(vocab) - first, 4))
  embed[first:, 1] = 0.5
  embed[vocab['▁Paris']] = embed[vocab['Paris']]
  weights['embed'] = jnp.asarray(embed)
  config = dataclasses.replace(old.config, vocab_size=len(vocab))
  gj.save_checkpoint(gj.Decoder(config, weights), folder)
  backend().save(str(folder / 'tokenizer.json'))
  return folder


def save_saes(folder: pathlib.Path, layer: int) -> pathlib.Path:
  """Its SAE, of a layer."""
  save_gemma_scope(planted_files.sae(planted.ROWS, layer), folder, l0=1)
  return folder
