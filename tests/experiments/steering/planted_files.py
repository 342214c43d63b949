"""The planted model as files: chat/, saes/, entities/, and a finished run/.

Latents are rows of one SAE, of which two are chosen, one per label. The run has
sums and results, as far as experiments after it read them, and the labels.
"""

from collections.abc import Mapping, Sequence
import json
import pathlib

import jax.numpy as jnp
import numpy as np

from experiments.activations import GroupSums, write_sums
from experiments.entities import (
  Entity,
  classify,
  split_classes,
  write_entities,
  write_records,
)
from experiments.inputs import corpus, sae_fingerprint
from experiments.inputs.recognition_run import EXPERIMENT
from experiments.latents import Groups
from experiments.runs import checksums
import gemma_jax as gj
from sae.formats.gemma_scope import save_gemma_scope
from sae.jumprelu import JumpReLUSAE, Origin, Weights
from tests.experiments import worlds
from tests.experiments.steering import planted

_ATTRIBUTES = {
  'player': {'place_birth': 'Paris', 'date_birth': '1980'},
  'city': {'country': 'Paris', 'location': 'Point(1 2)'},
}


def sae(rows: np.ndarray, layer: int) -> JumpReLUSAE:
  """One whose latents read and write the rows [F, D]."""
  width = len(rows)
  weights = Weights(
    W_enc=jnp.asarray(rows.T),
    W_dec=jnp.asarray(rows),
    b_enc=jnp.zeros(width),
    b_dec=jnp.zeros(planted.D),
    threshold=jnp.zeros(width),
  )
  return JumpReLUSAE(weights, Origin(site='resid_post', layer=layer))


def write(
  folder: pathlib.Path,
  rows: np.ndarray,
  layer: int,
  controls: Mapping[str, Sequence[int]],
  base: pathlib.Path | None = None,
) -> pathlib.Path:
  """Writes everything.

  Args:
    folder: Where.
    rows: [F, D]; latent 0 is the unknown one, latent 1 the known one.
    layer: Whose stream they are of.
    controls: Label -> its random latents.
    base: Folder of the run's base model; the chat model's by default.
  """
  gj.save_checkpoint(planted.model(), folder / 'chat')
  planted.backend().save(str(folder / 'chat' / 'tokenizer.json'))
  save_gemma_scope(sae(rows, layer), folder / 'saes', l0=1)
  entities = {
    kind: [
      Entity(name, kind, _ATTRIBUTES[kind])
      for name in planted.ALL_KNOWN[kind] + planted.ALL_UNKNOWN[kind]
    ]
    for kind in planted.ALL_KNOWN
  }
  write_entities(folder / 'entities', entities)
  records = worlds.records(
    entities, lambda entity: entity.name in planted.ALL_KNOWN[entity.type]
  )
  write_records(folder / 'run' / 'labels' / 'records', records)
  models = {'base': base or folder / 'chat', 'chat': folder / 'chat'}
  people = split_classes(entities, classify(records))
  _write_run(folder / 'run', rows, layer, controls, models, people)
  return folder


def _write_run(run, rows, layer, controls, models, people):
  """What is read of a finished run of `entity_recognition`."""
  groups = Groups(('city', 'player'))
  F, G = len(rows), groups.count
  sums = GroupSums(
    site='resid_post',
    layer=layer,
    n=np.full(G, 5),
    active=np.zeros((G, F), np.int64),
    total=np.zeros((G, F)),
    squares=np.zeros((G, F)),
    stream_total=np.random.default_rng(0).standard_normal((G, planted.D)),
    norm_total=np.ones(G),
  )
  sums_file = run / 'harvest' / 'sums.safetensors'
  write_sums(sums_file, [sums])
  latent = lambda i: f'resid_post.{layer}/{i}'
  chosen = {'known': latent(1), 'unknown': latent(0)}
  found = {
    'types': ['city', 'player'],
    'chosen': {label: [{'id': id}] for label, id in chosen.items()},
    'random': {
      label: {
        'of': id,
        'ids': list(map(latent, controls[label])),
        'rule': 'matched',
      }
      for label, id in chosen.items()
    },
    'saes': [{'site': 'resid_post', 'layer': layer, 'width': F}],
  }
  results = {
    'experiment': EXPERIMENT,
    'models': {role: _about(folder) for role, folder in models.items()},
    'saes': ['planted'],
    'sae_fingerprints': [sae_fingerprint(sae(rows, layer))],
    'splits': people.names(),
    'sums_sha256': checksums.sha256(sums_file),
    'latents': found,
  }
  (run / 'results.json').write_text(json.dumps(results))


def _about(folder) -> dict:
  return corpus.model_identity(gj.CheckpointReader(folder))


def change_last_byte(file: pathlib.Path):
  """Changes the last number of a file of tensors in place."""
  content = bytearray(file.read_bytes())
  content[-1] ^= 1
  file.write_bytes(content)
