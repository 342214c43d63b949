"""The planted model as files, with a latent that reads what makes it decline.

Of `tests/experiments/steering/planted.py`: the last token of an unknown
entity's name has feature N; head 0 of the second layer carries it, as S, to the
last token, where it is a refusal. The latent of the first layer's stream that
reads and writes N is thus the unknown latent, and one that reads nothing stands
for the known one.
"""

import json
import pathlib

import jax.numpy as jnp
import numpy as np

from experiments.entities import Entity, Record, write_entities, write_records
from experiments.harvesting import GroupSums
from experiments.harvesting.kept_sums import write_sums
from experiments.latents import Groups
import gemma_jax as gj
from sae.gemma_scope import save_gemma_scope
from sae.jumprelu import JumpReLUSAE, Origin, Weights
from tests.experiments.steering import planted

N = np.eye(planted.D, dtype=np.float32)[6]
# Latent 0 is N; the others read features that no token has.
ROWS = np.stack([N, *planted.NOTHING])
LAYER = 0
UNKNOWN, KNOWN = f'resid_post.{LAYER}/0', f'resid_post.{LAYER}/1'
_ATTRIBUTES = {
  'player': {'place_birth': 'Paris', 'date_birth': '1980'},
  'city': {'country': 'Paris', 'location': 'Point(1 2)'},
}


def sae() -> JumpReLUSAE:
  width = len(ROWS)
  weights = Weights(
    W_enc=jnp.asarray(ROWS.T),
    W_dec=jnp.asarray(ROWS),
    b_enc=jnp.zeros(width),
    b_dec=jnp.zeros(planted.D),
    threshold=jnp.zeros(width),
  )
  return JumpReLUSAE(weights, Origin(site='resid_post', layer=LAYER))


def write(folder: pathlib.Path) -> pathlib.Path:
  """chat/, saes/, entities/, and a finished run/ with labels and sums."""
  gj.save_checkpoint(planted.model(), folder / 'chat')
  planted.backend().save(str(folder / 'chat' / 'tokenizer.json'))
  save_gemma_scope(sae(), folder / 'saes', l0=1)
  entities, records = {}, {}
  for names, right in ((planted.ALL_KNOWN, True), (planted.ALL_UNKNOWN, False)):
    for kind, each in names.items():
      for name in each:
        entity = Entity(name, kind, _ATTRIBUTES[kind])
        entities.setdefault(kind, []).append(entity)
        for attribute, answer in entity.attributes.items():
          label = 'correct' if right else 'error'
          record = Record(
            entity=name,
            entity_type=kind,
            prompt_type=f'{kind}_{attribute}',
            correct_answer=answer,
            prompt='?',
            question=None,
            greedy_completion='x',
            sampled_completions=('x',) * 3,
            string_matching_greedy_label=label,
            string_matching_sampled_labels=(label,) * 3,
            label=label,
          )
          records.setdefault(record.prompt_type, []).append(record)
  write_entities(folder / 'entities', entities)
  write_records(folder / 'run' / 'labels' / 'records', records)
  _write_run(folder / 'run')
  return folder


def arguments(folder: pathlib.Path, out: pathlib.Path) -> list[str]:
  """Flags of every binary that works on this world."""
  return [
    f'--chat_model={folder / "chat"}',
    f'--sae={folder / "saes"}',
    f'--entities={folder / "entities"}',
    f'--run={folder / "run"}',
    f'--out={out}',
  ]


def _write_run(run: pathlib.Path):
  """What is read of a finished run of `entity_recognition`."""
  groups = Groups(('city', 'player'))
  F, G = len(ROWS), groups.count
  sums = GroupSums(
    site='resid_post',
    layer=LAYER,
    n=np.full(G, 5),
    active=np.zeros((G, F), np.int64),
    total=np.zeros((G, F)),
    squares=np.zeros((G, F)),
    stream_total=np.random.default_rng(0).standard_normal((G, planted.D)),
    stream_gram=None,
    norm_total=np.ones(G),
  )
  (run / 'harvest').mkdir(parents=True)
  write_sums(run / 'harvest' / 'sums.safetensors', [sums])
  latent = lambda i: f'resid_post.{LAYER}/{i}'
  found = {
    'types': ['city', 'player'],
    'chosen': {'known': [{'id': KNOWN}], 'unknown': [{'id': UNKNOWN}]},
    'random': {
      'known': {'of': KNOWN, 'ids': [latent(2), latent(3)]},
      'unknown': {'of': UNKNOWN, 'ids': [latent(3), latent(4)]},
    },
  }
  results = {'latents': found, 'labels': {'source': 'generated'}}
  (run / 'results.json').write_text(json.dumps(results))
