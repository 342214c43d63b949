"""A model whose embedding is not its unembedding, as a checkpoint.

Gemma 2 ties the two: one matrix writes the stream at its beginning and reads it
at its end. To take a direction out of what is *written* and leave what is
*read*, there must be two. A tied checkpoint can say neither: with the direction
in the matrix, embeddings still write it; without, logits are read without it
too, also those of streams that never had it, because the final norm's gain
turns them. So the checkpoint is untied: `tie_word_embeddings` is false, and
`lm_head.weight` is the model's own matrix. HF transformers loads it as a plain
Gemma2ForCausalLM.

`gemma_jax.load_checkpoint` takes tied models only, and says so. `read_untied`
reads these: as two matrices, and as a tied model with the interventions that
make it compute the same.
"""

import dataclasses
import json
import os
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from experiments import outputs
import gemma_jax as gj
from gemma_jax.checkpoint.hf_format import (
  COMPANIONS,
  HF_NAMES,
  INDEX_FILE,
  LM_HEAD,
  SINGLE_FILE,
)
from gemma_jax.weights import WEIGHTS, weight_shape

_HEAD_FILE = 'lm_head.safetensors'
_DIRECTION_FILE = 'direction.safetensors'
# Of the dtype's rounding: how far an entry may be from the one expected.
_ROUNDINGS = 8


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Untied:
  """What an untied checkpoint holds.

  Attributes:
    written: The model with the matrix that embeds. Its stream is that of the
      checkpoint; its logits are not.
    read: The model with the matrix that unembeds. With `interventions` in every
      pass it computes what the checkpoint does.
    interventions: They take the direction out of embeddings.
    direction: float32 [D], of norm 1.
  """

  written: gj.Decoder
  read: gj.Decoder
  interventions: gj.Interventions
  direction: np.ndarray


def without_direction(embed, direction: np.ndarray):
  """A matrix [V, D] whose rows are orthogonal to a direction [D]."""
  unit = jnp.asarray(direction / np.linalg.norm(direction), jnp.float32)
  x = embed.astype(jnp.float32)
  along = jnp.einsum('VD,D->V', x, unit, precision='highest')
  return (x - along[:, None] * unit).astype(embed.dtype)


def save_untied(
  model: gj.Decoder,
  direction: np.ndarray,
  folder: str | os.PathLike,
  *,
  companions: str | os.PathLike,
):
  """Writes an orthogonalised model; the folder is replaced as a whole.

  Args:
    model: As `orthogonalise` gives it, with its own embedding.
    direction: [D], that is to be taken out of embeddings too.
    folder: Where to.
    companions: Folder of the original checkpoint, whose tokenizer, chat
      template and generation settings are copied.
  """
  embed = model.embed[...]
  written = without_direction(embed, direction)
  body = gj.Decoder(model.config, model.weights() | {'embed': written})
  with outputs.replaced_folder(folder) as partial:
    gj.save_checkpoint(body, partial / 'body')
    for file in (partial / 'body').iterdir():
      os.rename(file, partial / file.name)
    (partial / 'body').rmdir()
    save_file(
      {LM_HEAD: np.ascontiguousarray(embed)},
      partial / _HEAD_FILE,
      metadata={'format': 'pt'},
    )
    _index(partial)
    config = json.loads((partial / 'config.json').read_text(encoding='utf-8'))
    config['tie_word_embeddings'] = False
    _write_json(partial / 'config.json', config)
    unit = np.asarray(direction / np.linalg.norm(direction), np.float32)
    save_file({'direction': unit}, partial / _DIRECTION_FILE)
    for name in COMPANIONS:
      if (pathlib.Path(companions) / name).is_file():
        shutil.copyfile(pathlib.Path(companions) / name, partial / name)


def _index(folder: pathlib.Path):
  """Adds the unembedding's file to the index, made where there is none."""
  path = folder / INDEX_FILE
  if path.is_file():
    index = json.loads(path.read_text(encoding='utf-8'))
  else:
    # With a file of this name HF would not look at the index.
    name = 'model-00001-of-00001.safetensors'
    os.rename(folder / SINGLE_FILE, folder / name)
    with safe_open(folder / name, 'numpy') as file:
      weight_map = dict.fromkeys(file.keys(), name)
    size = (folder / name).stat().st_size
    index = {'metadata': {'total_size': size}, 'weight_map': weight_map}
  index['weight_map'][LM_HEAD] = _HEAD_FILE
  index['metadata']['total_size'] += (folder / _HEAD_FILE).stat().st_size
  _write_json(path, index)


def read_untied(folder: str | os.PathLike) -> Untied:
  """Reads what `save_untied` wrote.

  Raises:
    ValueError: it is something else, or its two matrices differ by more than
      the direction.
    OSError: a file is missing.
  """
  folder = pathlib.Path(folder)
  fields = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
  if fields.get('tie_word_embeddings') is not False:
    raise ValueError(
      f'{folder} is a tied checkpoint; gemma_jax.load_checkpoint reads it.'
    )
  config = gj.ModelConfig.from_hf(fields | {'tie_word_embeddings': True})
  index = json.loads((folder / INDEX_FILE).read_text(encoding='utf-8'))
  tensors = _Tensors(folder, index['weight_map'])
  weights = {
    name: tensors.weight(name, letters, weight_shape(config, name))
    for name, letters in WEIGHTS.items()
  }
  with safe_open(folder / _DIRECTION_FILE, 'numpy') as file:
    direction = file.get_tensor('direction')
  head = jnp.asarray(tensors.get(LM_HEAD).reshape(weights['embed'].shape))
  _check(folder, weights['embed'], head, direction)
  return Untied(
    written=gj.Decoder(config, weights),
    read=gj.Decoder(config, weights | {'embed': head}),
    interventions={
      'resid_pre': (
        gj.ablate_direction(config, 'resid_pre', direction, layers=0),
      )
    },
    direction=direction,
  )


class _Tensors:
  """Tensors of a folder, by the index that says where each is."""

  def __init__(self, folder: pathlib.Path, weight_map: dict[str, str]):
    for name in weight_map.values():
      if pathlib.PurePath(name).name != name:
        raise ValueError(
          f'{folder / INDEX_FILE} names the file {name!r}; expected the bare '
          'name of a file beside it.'
        )
    self._folder, self._weight_map = folder, weight_map

  def get(self, key: str) -> np.ndarray:
    if key not in self._weight_map:
      raise ValueError(f'{self._folder} has no tensor {key}.')
    with safe_open(self._folder / self._weight_map[key], 'numpy') as file:
      return file.get_tensor(key)

  def weight(self, name: str, letters: str, shape):
    """One of WEIGHTS, stacked where it is of layers."""
    key = HF_NAMES[name]
    if letters[0] != 'L':
      return jnp.asarray(self.get(key).reshape(shape))
    layers = [
      self.get(key.format(i)).reshape(shape[1:]) for i in range(shape[0])
    ]
    return jnp.asarray(np.stack(layers))


def _check(folder, embed, head, direction):
  """Raises unless the embedding is the unembedding without the direction."""
  expected = without_direction(head, direction)
  error = jnp.abs(embed.astype(jnp.float32) - expected.astype(jnp.float32))
  largest = jnp.abs(head.astype(jnp.float32)).max()
  if error.max() > _ROUNDINGS * jnp.finfo(head.dtype).eps * largest:
    raise ValueError(
      f'{folder}: the embedding is not the unembedding without the direction '
      f'of {_DIRECTION_FILE}; they differ by {float(error.max()):.3g}.'
    )


def _write_json(path: pathlib.Path, content):
  outputs.write_text(path, json.dumps(content, indent=2) + '\n')
