"""The loaders that are fuzzed, each with a tiny valid input."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import transformers

from experiments.activations import HarvestRows
from experiments.entities import read_entities
from experiments.harvest import open_store, write_store
from experiments.inputs import ENTITIES
from experiments.inputs.recognition_run import RecognitionRun
from experiments.runs.stages import stage
import gemma_jax as gj
from gemma_jax.families.hf_config import read_config
from gemma_jax.training import LoraConfig, init_lora, load_peft, save_peft
from gemma_jax.weights import weight_letters, weight_shape
from sae.formats.gemma_scope import read_gemma_scope, save_gemma_scope
from sae.formats.sae_lens import read_sae_lens, save_sae_lens
from sae.jumprelu import JumpReLUSAE, Origin, Weights
from tests import tiny
from tests.fuzz.driver import Target
from tests.gemma_jax.checkpoints import CONFIG
from tests.gemma_jax.text import tiny_tokenizer

_TEMPLATE = (
  '{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m["role"] }}\n'
  '{{ m["content"] | trim }}<end_of_turn>\n{% endfor %}'
  '{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}'
)
_MESSAGES = [{'role': 'user', 'content': ' Are you <b> sure? '}]


@functools.cache
def _model() -> gj.Decoder:
  config = dataclasses.replace(CONFIG, num_layers=2, local_layers=(True, False))
  rng = np.random.default_rng(0)
  weights = {
    name: jnp.asarray(rng.standard_normal(weight_shape(config, name)), 'f4')
    for name in weight_letters(config)
  }
  return gj.Decoder(config, weights)


def _save_config(family: str):
  def make(folder):
    kind, sizes = tiny.FAMILIES[family]
    config = getattr(transformers, kind)(**sizes)
    (folder / 'config.json').write_text(config.to_json_string())

  return make


def _save_tokenizer(folder):
  tiny_tokenizer.save(folder)


def _load_tokenizer(folder):
  tokenizer = gj.Tokenizer.from_pretrained(folder)
  text = 'The city Paris <bos> naïve\n\n\n😀'
  ids = tokenizer.encode(text)
  return [
    ids,
    tokenizer.decode(ids),
    tokenizer.token_strings(ids),
    tokenizer.stop_ids,
  ]


def _save_template(folder):
  tiny_tokenizer.save(folder)
  (folder / 'chat_template.jinja').write_text(_TEMPLATE)


def _load_template(folder):
  return gj.Tokenizer.from_pretrained(folder).chat_text(_MESSAGES)


def _save_checkpoint(folder):
  folder.rmdir()
  gj.save_checkpoint(_model(), folder, max_shard_bytes=10_000)


def _load_checkpoint(folder):
  model = gj.load_checkpoint(folder)
  return [model.config, model.weights()]


def _save_gguf(folder):
  from tests.gemma_jax.checkpoint.test_gguf import Model

  Model(layers=1).write(folder / 'm.gguf')


def _load_gguf(folder):
  from gemma_jax.checkpoint.gguf import GgufFile

  file = GgufFile(folder / 'm.gguf')
  return [
    file.config_fields(),
    {name: file.read(name) for name in file.headers()},
  ]


def _sae() -> JumpReLUSAE:
  rng = np.random.default_rng(0)
  shapes = (6, 16), (16, 6), 16, 6, 16
  arrays = [rng.uniform(0.1, 1, shape).astype(np.float32) for shape in shapes]
  origin = Origin(
    model='google/gemma-2-2b', site='resid_post', layer=2, release='r', l0=3.5
  )
  return JumpReLUSAE(Weights(*map(jnp.asarray, arrays)), origin)


_FOLDER = 'layer_2/width_16/average_l0_4'


def _save_npz(folder):
  save_gemma_scope(_sae(), folder, l0=3.5, normalise=True)


def _load_npz(folder):
  return read_gemma_scope(folder / _FOLDER / 'params.npz')


def _save_sae_lens(folder):
  folder.rmdir()
  save_sae_lens(_sae(), folder)


def _save_store(folder):
  n = 20
  rows = HarvestRows(
    ids=[f'row {i}' for i in range(n)],
    texts=['a text'] * n,
    tokens=[np.array([2, 5, 6 + i], np.int32) for i in range(n)],
    positions=np.full(n, 2, np.int32),
    prompt_rows=np.arange(n),
    dropped=[],
    choices=['last'],
    windows=[8],
    denominator=n,
  )
  write_store(
    folder,
    _model(),
    rows,
    sites=['z'],
    layers=[1, 0],
    provenance={'model': 'tiny'},
    batch_size=8,
    chunk_rows=8,
    buckets=(4,),
  )


def _load_store(folder):
  store = open_store(folder)
  arrays = [store.read('z', layer) for layer in (0, 1)]
  return [dict(store.about), list(store.rows), arrays]


def _load_stage(folder):
  def make(partial):
    np.save(partial / 'x.npy', np.arange(40))
    (partial / 'y.json').write_text('{"a": [1, 2.5]}')

  stage(folder / 'stage', {'seed': 3, 'of': ['a', 'b']}, make)
  return {
    name: (folder / 'stage' / name).read_bytes() for name in ('x.npy', 'y.json')
  }


def _save_entities(folder):
  for path in sorted(ENTITIES.glob('*.json'))[:2]:
    rows = json.loads(path.read_text())[:3]
    (folder / path.name).write_text(json.dumps(rows))


def _load_entities(folder):
  found = read_entities(folder)
  return {
    kind: [(e.name, e.type, dict(e.attributes)) for e in group]
    for kind, group in found.items()
  }


_NAMES = {'known': {'city': ['a']}, 'unknown': {'city': ['b']}}


def _save_results(folder):
  latent = {'id': 'resid_post.1/3', 'score': 0.5}
  results = {
    'experiment': 'entity_recognition',
    'models': {
      role: {
        'folder': 'f',
        'dtype': 'float32',
        'fingerprint': 'c0',
        'files': {},
      }
      for role in ('base', 'chat')
    },
    'sums_sha256': '0' * 64,
    'splits': {part: _NAMES for part in ('train', 'validation', 'test')},
    'saes': ['folder/layer_1'],
    'sae_fingerprints': ['abc'],
    'latents': {
      'types': ['city'],
      'saes': [{'site': 'resid_post', 'layer': 1}],
      'chosen': {'known': [latent], 'unknown': [latent]},
      'random': {
        'known': {'of': 'resid_post.1/3', 'ids': ['resid_post.1/4']},
      },
    },
  }
  (folder / 'results.json').write_text(json.dumps(results))


def _load_results(folder):
  run = RecognitionRun(str(folder))
  ids = {label: run.chosen(label) for label in ('known', 'unknown')}
  controls = {label: run.controls(label, id) for label, id in ids.items()}
  run.check_held_out(_NoPeople())
  return [str(ids), str(controls)]


class _NoPeople:
  def of(self, part, label):
    return {}


def _save_adapter(folder):
  folder.rmdir()
  config = LoraConfig(rank=2)
  adapters = init_lora(_model().weights(), config, jax.random.key(0))
  save_peft(folder, adapters, config, _model(), 'base')


def _load_adapter(folder):
  adapters, config = load_peft(folder, _model())
  return [adapters, config]


# Of config.json: numbers without a range, flags, and what HF has a default for.
_NUMBERS = (
  'attn_logit_softcapping',
  'final_logit_softcapping',
  'query_pre_attn_scalar',
  'sliding_window',
  'rope_theta',
  'rms_norm_eps',
  'layer_norm_epsilon',
  'head_dim',
  'n_inner',
  'n_positions',
  'max_position_embeddings',
  'vocab_size',
  'bos_token_id',
  'eos_token_id',
  'pad_token_id',
  'attention_bias',
  'mlp_bias',
  'tie_word_embeddings',
)

TARGETS = (
  *(
    Target(
      name=f'config of {family}',
      make=_save_config(family),
      load=read_config,
      cases=60,
      free=_NUMBERS,
    )
    for family in ('gemma2', 'gemma3_text', 'llama', 'gpt2')
  ),
  Target(
    name='tokenizer',
    make=_save_tokenizer,
    load=_load_tokenizer,
    cases=40,
    # 'x' is a token; items are merges and added tokens.
    free=['eos_token', 'bos_token', 'pad_token', 'unk_token', 'content', '#'],
  ),
  Target(
    name='chat template',
    make=_save_template,
    load=_load_template,
    cases=40,
    leave=['tokenizer.json'],
  ),
  Target(
    name='checkpoint',
    make=_save_checkpoint,
    load=_load_checkpoint,
    cases=25,
    free=_NUMBERS,
  ),
  Target(name='gguf', make=_save_gguf, load=_load_gguf, cases=12),
  Target(
    name='npz of an SAE',
    make=_save_npz,
    load=_load_npz,
    cases=60,
    checked=['params.npz'],
    # Of metadata.json, which says where the SAE is from.
    free=['origin', 'format', *Origin.__dataclass_fields__],
  ),
  Target(
    name='SAE of SAELens',
    make=_save_sae_lens,
    load=read_sae_lens,
    cases=60,
    # SAELens subtracts b_dec unless told not to.
    free=['apply_b_dec_to_input', 'model_name', 'release', 'sae_id', 'l0'],
  ),
  Target(
    name='store of activations',
    make=_save_store,
    load=_load_store,
    cases=60,
    checked=[''],
  ),
  Target(
    name='stage',
    make=lambda folder: _load_stage(folder) and None,
    load=_load_stage,
    cases=12,
    checked=[''],
  ),
  Target(
    name='entities',
    make=_save_entities,
    load=_load_entities,
    cases=60,
    free=['entity', 'attribute_value', '#'],
  ),
  Target(
    name='results',
    make=_save_results,
    load=_load_results,
    cases=60,
    # Without controls of the run, others are drawn.
    free=['random', 'known', 'of', 'ids', '#'],
  ),
  Target(
    name='adapter',
    make=_save_adapter,
    load=_load_adapter,
    cases=40,
    free=['lora_alpha'],
  ),
)
