"""A model without a direction, as a checkpoint that says so.

One matrix writes a tied model's stream at its beginning and reads it at its
end. To take a direction out of what is *written* and leave what is *read*,
there must be two: with the direction in the matrix, embeddings still write it;
without, logits are read without it too, also those of streams that never had
it, because the final norm's gain turns them. So the checkpoint is untied:
`tie_word_embeddings` is false, and `lm_head.weight` is the model's own matrix.
HF transformers and `gemma_jax.load_checkpoint` load it as it is.
"""

import dataclasses
import os
import pathlib

import numpy as np

from experiments.runs import outputs
from experiments.steering import written_at_first
import gemma_jax as gj
from gemma_jax.checkpoint.hf_format import read_companions


def untie(model: gj.Decoder, direction: np.ndarray) -> gj.Decoder:
  """Returns a model whose weights alone do what edits did besides them.

  Args:
    model: What `ablate_weights` returned. An untied one is returned as it is.
    direction: The direction [D] that is taken out of embeddings too.
  """
  if not model.config.tied:
    return model
  weights = model.weights()
  weights['unembed'] = weights['embed']
  return gj.Decoder(
    dataclasses.replace(model.config, tied=False),
    weights | written_at_first(weights, direction),
  )


def save_untied(
  model: gj.Decoder,
  direction: np.ndarray,
  folder: str | os.PathLike,
  *,
  companions: str | os.PathLike,
):
  """Writes an ablated model; the folder is replaced as a whole.

  Args:
    model: What `ablate_weights` returned.
    direction: The direction [D] that is taken out of embeddings too.
    folder: Folder of the new checkpoint.
    companions: Folder of the original checkpoint, whose tokenizer, chat
      template and generation settings are copied.
  """
  with outputs.replaced_folder(folder) as partial:
    gj.save_checkpoint(untie(model, direction), partial)
    for name, content in read_companions(pathlib.Path(companions)).items():
      (partial / name).write_bytes(content)
