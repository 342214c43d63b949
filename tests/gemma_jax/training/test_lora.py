"""Adapters: what they add, and the files that PEFT reads."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import torch

import gemma_jax as gj
from gemma_jax.training import (
  FitConfig,
  LoraConfig,
  fit,
  init_lora,
  load_peft,
  merge,
  save_peft,
)
from tests import tiny

ALL = ('wq', 'wk', 'wv', 'wo', 'gate', 'up', 'down')
FAMILIES = ['llama', 'gemma2', 'gpt2', 'opt']


def config_of(model, rank=3, alpha=7.5):
  """Adapters on every matrix that the model has."""
  names = tuple(n for n in ALL if n in model.weights())
  return LoraConfig(rank=rank, alpha=alpha, targets=names)


def random_adapters(model, config, seed=0):
  """As after a training: B is not 0."""
  adapters = init_lora(model.weights(), config, jax.random.key(seed))
  keys = jax.random.split(jax.random.key(seed + 1), len(adapters))
  return {
    name: 0.1 * jax.random.normal(key, array.shape)
    for key, (name, array) in zip(keys, sorted(adapters.items()), strict=True)
  }


def merged_logits(model, adapters, config):
  merged = gj.Decoder(model.config, merge(model.weights(), adapters, config))
  tokens, positions = tiny.ragged(3, 12, 'right')
  return np.asarray(gj.run(merged, tokens, positions, logits_at='all').logits)


def save(folder, model, config=None, **more):
  config = config or config_of(model)
  adapters = random_adapters(model, config)
  save_peft(folder, adapters, config, model, 'org/base')
  return adapters, config


def edit(folder, **fields):
  """Changes fields of adapter_config.json."""
  path = folder / 'adapter_config.json'
  content = json.loads(path.read_text()) | fields
  path.write_text(json.dumps(content))


def edit_tensors(folder, change, metadata=None):
  path = folder / 'adapter_model.safetensors'
  save_file(change(load_file(path)), path, metadata=metadata)


@pytest.mark.parametrize('family', FAMILIES)
def test_before_training_nothing_is_changed(family):
  model = tiny.pair(family=family)[1]
  config = config_of(model)
  adapters = init_lora(model.weights(), config, jax.random.key(0))
  merged = merge(model.weights(), adapters, config)
  for name, weight in model.weights().items():
    np.testing.assert_array_equal(merged[name], weight)
  for name in config.targets:
    a = np.asarray(adapters[f'{name}.lora_A'])
    bound = a.shape[2] ** -0.5
    assert np.abs(a).max() <= bound and a.std() == pytest.approx(
      bound / 3**0.5, rel=0.1
    )


@pytest.mark.parametrize('family', FAMILIES)
def test_the_file_applied_to_the_torch_model_gives_our_logits(tmp_path, family):
  """W += scaling B A, by hand, as PEFT's merge does, for every tensor."""
  hf, model = tiny.pair(5, family)
  adapters, config = save(tmp_path / 'a', model)
  fields = json.loads((tmp_path / 'a' / 'adapter_config.json').read_text())
  tensors = load_file(tmp_path / 'a' / 'adapter_model.safetensors')
  modules = dict(hf.named_modules())
  names = [n for n in tensors if n.endswith('lora_A.weight')]
  assert 2 * len(names) == len(tensors)
  before = {name: p.clone() for name, p in hf.named_parameters()}
  with torch.no_grad():
    for name in names:
      path = name.removeprefix('base_model.model.')
      path = path.removesuffix('.lora_A.weight')
      short = next(t for t in fields['target_modules'] if path.endswith(t))
      a = torch.tensor(tensors[name])
      b = torch.tensor(tensors[name.replace('lora_A', 'lora_B')])
      rank = fields['rank_pattern'].get(short, fields['r'])
      assert rank == a.shape[0] == b.shape[1]
      alpha = fields['alpha_pattern'].get(short, fields['lora_alpha'])
      change = alpha / rank * (b @ a)
      weight = modules[path].weight
      conv = type(modules[path]).__name__ == 'Conv1D'
      assert fields['fan_in_fan_out'] == conv
      weight += change.T if conv else change
    tokens, positions = tiny.ragged(3, 12, 'right')
    want = tiny.hf_forward(hf, tokens, positions).logits.numpy()
    for name, parameter in hf.named_parameters():
      parameter.copy_(before[name])
  got = merged_logits(model, adapters, config)
  scale = max(1, np.abs(want).max() / 4)
  real = positions >= 0
  np.testing.assert_allclose(got[real], want[real], atol=1e-4 * scale)
  # And they are not those without.
  plain = gj.run(model, tokens, positions, logits_at='all').logits
  assert np.abs(np.asarray(plain) - got)[real].max() > 0.1


@pytest.mark.parametrize('family', FAMILIES)
def test_what_is_written_is_read(tmp_path, family):
  model = tiny.pair(family=family)[1]
  adapters, config = save(tmp_path / 'a', model)
  again, theirs = load_peft(tmp_path / 'a', model)
  assert theirs.scaling == pytest.approx(config.scaling)
  want = merge(model.weights(), adapters, config)
  got = merge(model.weights(), again, theirs)
  for name in want:
    np.testing.assert_allclose(got[name], want[name], atol=1e-6)
  if family != 'gpt2':  # whose ranks add up
    assert theirs == config
    for name in adapters:
      np.testing.assert_array_equal(again[name], adapters[name])


def test_some_of_what_a_module_holds(tmp_path):
  """GPT-2's c_attn has wq, wk and wv; wk was no target."""
  model = tiny.pair(family='gpt2')[1]
  config = LoraConfig(rank=2, alpha=8, targets=('wv', 'wq'))
  adapters, _ = save(tmp_path / 'a', model, config)
  fields = json.loads((tmp_path / 'a' / 'adapter_config.json').read_text())
  assert fields['target_modules'] == ['attn.c_attn']
  assert fields['rank_pattern'] == {'attn.c_attn': 4}
  again, theirs = load_peft(tmp_path / 'a', model)
  assert not np.asarray(again['wk.lora_B']).any()
  want = merge(model.weights(), adapters, config)
  got = merge(model.weights(), again, theirs)
  for name in want:
    np.testing.assert_allclose(got[name], want[name], atol=1e-6)


def test_what_peft_writes_is_honoured(tmp_path):
  """Rank-stabilised scaling, patterns, layers left out, bfloat16, defaults."""
  model = tiny.pair(family='llama')[1]
  rng = np.random.default_rng(0)
  want = {n: np.array(w) for n, w in model.weights().items()}
  tensors = {}
  for layer in (1, 3):
    for module, name, rank in (('q_proj', 'wq', 4), ('o_proj', 'wo', 2)):
      shape = want[name][layer].shape
      outputs = shape[0] * shape[1] if name == 'wq' else shape[0]
      path = f'base_model.model.model.layers.{layer}.self_attn.{module}'
      a = rng.standard_normal((rank, want[name][layer].size // outputs))
      b = rng.standard_normal((outputs, rank))
      a, b = (x.astype(jnp.bfloat16) for x in (a, b))
      tensors[f'{path}.lora_A.weight'] = a
      tensors[f'{path}.lora_B.weight'] = b
      alpha = 6 if (module, layer) == ('q_proj', 3) else 10
      change = b.astype(np.float32) @ a.astype(np.float32)
      want[name][layer] += alpha / rank**0.5 * change.reshape(shape)
  tmp_path.joinpath('adapter_config.json').write_text(
    json.dumps(
      {
        'alpha_pattern': {'layers.3.self_attn.q_proj': 6},
        'auto_mapping': None,
        'base_model_name_or_path': '/some/where/tiny-llama',
        'bias': 'none',
        'corda_config': None,
        'exclude_modules': None,
        'fan_in_fan_out': False,
        'inference_mode': True,
        'init_lora_weights': True,
        'layers_to_transform': [1, 3],
        'loftq_config': {},
        'lora_alpha': 10,
        'lora_bias': False,
        'lora_dropout': 0.1,
        'megatron_core': 'megatron.core',
        'modules_to_save': None,
        'peft_type': 'LORA',
        'qalora_group_size': 16,
        'r': 4,
        'rank_pattern': {'o_proj': 2},
        'target_modules': ['o_proj', 'q_proj'],
        'task_type': 'CAUSAL_LM',
        'use_dora': False,
        'use_rslora': True,
      }
    )
  )
  save_file(tensors, tmp_path / 'adapter_model.safetensors')
  adapters, config = load_peft(tmp_path, model, 'hub/tiny-llama')
  assert config.targets == ('wq', 'wo')
  got = merge(model.weights(), adapters, config)
  for name in want:
    np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)
  with pytest.raises(ValueError, match="names '/some/where/tiny-llama', and"):
    load_peft(tmp_path, model, 'hub/other-llama')


def test_another_base_is_refused(tmp_path):
  model = tiny.pair()[1]
  save(tmp_path / 'a', model)
  with pytest.raises(ValueError, match="another base: it was .* 'org/base'"):
    load_peft(tmp_path / 'a', tiny.pair(1)[1])
  # The same one in another dtype is no other base.
  half = gj.Decoder(
    model.config,
    {n: w.astype(jnp.bfloat16) for n, w in model.weights().items()},
  )
  load_peft(tmp_path / 'a', half)
  # Without a fingerprint, as PEFT writes it: names and shapes.
  edit_tensors(tmp_path / 'a', lambda tensors: tensors)
  with pytest.raises(ValueError, match='has shape.*org/base'):
    load_peft(tmp_path / 'a', tiny.pair(hidden_size=72)[1])
  with pytest.raises(ValueError, match='belongs to no matrix of a GPT-2'):
    load_peft(tmp_path / 'a', tiny.pair(family='gpt2')[1])
  with pytest.raises(ValueError, match='with 2 layers'):
    load_peft(tmp_path / 'a', tiny.pair(num_hidden_layers=2)[1])


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'bias': 'all'}, "bias='all' is not supported; expected 'none'"),
    ({'use_dora': True}, 'use_dora=True is not supported'),
    ({'modules_to_save': ['lm_head']}, 'modules_to_save'),
    ({'peft_type': 'IA3'}, "peft_type='IA3'"),
    ({'init_lora_weights': 'pissa'}, 'init_lora_weights'),
    ({'layer_replication': [[0, 4], [2, 5]]}, 'layer_replication'),
    ({'a_new_field': 1}, 'a_new_field=1 is not supported; it must be off'),
    ({'r': 0}, 'adapter_config.json: r=0 .*an integer from 1'),
    ({'r': None}, 'r=None .*an integer'),
    ({'r': 3.0}, 'r=3.0 .*an integer'),
    ({'r': True}, 'r=True .*an integer'),
    ({'r': [3]}, r'r=\[3\] .*an integer'),
    ({'r': '3'}, "r='3' .*an integer"),
    ({'lora_alpha': '16'}, "lora_alpha='16' .*a positive"),
    ({'lora_alpha': -16}, 'lora_alpha=-16 .*a positive'),
    ({'lora_alpha': 10**400}, 'lora_alpha=1.*a positive'),
    ({'lora_alpha': float('nan')}, 'NaN is no JSON number'),
    ({'rank_pattern': ['q_proj']}, 'rank_pattern=.*expected an object'),
    ({'rank_pattern': {'q_proj': '3'}}, "rank_pattern: q_proj='3'"),
    ({'rank_pattern': {'q_proj': 2.5}}, 'rank_pattern: q_proj=2.5'),
    ({'alpha_pattern': {'q_proj': None}}, 'alpha_pattern: q_proj=None'),
    ({'alpha_pattern': {'(q_proj': 8}}, r'adapter_config.json: missing \)'),
    ({'use_rslora': 'false'}, "use_rslora='false' .*true or false"),
    ({'use_rslora': 1}, 'use_rslora=1 .*true or false'),
    ({'target_modules': [3]}, r'target_modules=\[3\]; expected names'),
    ({'target_modules': {'q_proj': 1}}, 'target_modules=.*expected names'),
    ({'base_model_name_or_path': 3}, 'base_model_name_or_path=3; expected'),
    ({'r': 4}, r'has shape \[3, 56\], expected \[4, 56\]'),
    ({'target_modules': ['q_proj', 'lm_head']}, "'lm_head', which"),
    (
      {'rank_pattern': {'layers.2.self_attn.q_proj': 5}},
      r'the ranks \[3, 5\]',
    ),
  ],
)
def test_other_kinds_of_adapters_are_refused(tmp_path, fields, message):
  model = tiny.pair()[1]
  save(tmp_path / 'a', model)
  edit(tmp_path / 'a', **fields)
  with pytest.raises(ValueError, match=message):
    load_peft(tmp_path / 'a', model)


def test_damaged_files_are_named(tmp_path):
  model = tiny.pair()[1]
  folder = tmp_path / 'a'
  save(folder, model)
  name = 'base_model.model.model.layers.2.self_attn.q_proj.lora_B.weight'

  def without(tensors):
    return {key: x for key, x in tensors.items() if key != name}

  kept = (folder / 'adapter_model.safetensors').read_bytes()
  edit_tensors(folder, without)
  with pytest.raises(ValueError, match=f'tensor {name} is missing'):
    load_peft(folder, model)
  edit_tensors(folder, lambda t: t | {name: np.full((64, 3), np.nan)})
  with pytest.raises(ValueError, match=f'tensor {name} holds NaN'):
    load_peft(folder, model)
  edit_tensors(folder, lambda t: {name.replace('q_proj', 'x'): np.ones(2)})
  with pytest.raises(ValueError, match='self_attn.x.lora_B.weight belongs to'):
    load_peft(folder, model)
  (folder / 'adapter_model.safetensors').write_bytes(kept[:-5])
  with pytest.raises(ValueError, match='is truncated or not a safetensors'):
    load_peft(folder, model)
  (folder / 'adapter_model.safetensors').unlink()
  with pytest.raises(FileNotFoundError, match='no adapter_model.safetensors'):
    load_peft(folder, model)


def test_a_folder_with_files_is_not_overwritten(tmp_path):
  model = tiny.pair()[1]
  save(tmp_path / 'a', model)
  with pytest.raises(FileExistsError):
    save(tmp_path / 'a', model)


def test_targets_that_are_not_there():
  with pytest.raises(ValueError, match='expected some of wq'):
    LoraConfig(targets=('q_proj',))
  with pytest.raises(ValueError, match='rank=0'):
    LoraConfig(rank=0)
  with pytest.raises(ValueError, match='name one twice'):
    LoraConfig(targets=('wq', 'wq'))
  gpt2 = tiny.pair(family='gpt2')[1]
  config = LoraConfig(targets=('gate',))
  with pytest.raises(ValueError, match='has no gate; targets may be wq, wk'):
    init_lora(gpt2.weights(), config, jax.random.key(0))


def test_training_of_adapters_is_of_low_rank(tmp_path):
  """It learns a change of the rank it may have, and the base stays."""
  rng = np.random.default_rng(0)
  wq = jnp.asarray(rng.standard_normal((2, 3, 4, 10)), jnp.float32)
  u, v = rng.standard_normal((2, 12, 1)), rng.standard_normal((2, 1, 10))
  goal = wq + jnp.asarray((u @ v).reshape(wq.shape), jnp.float32)
  config = LoraConfig(rank=1, alpha=2, targets=('wq',))

  def loss(adapters, x, weights):
    found = merge(weights, adapters, config)['wq']
    return ((found - goal) ** 2).mean() + 0 * x.sum()

  adapters, records = fit(
    loss,
    init_lora({'wq': wq}, config, jax.random.key(0)),
    lambda step: np.zeros(1, np.float32),
    FitConfig(steps=400, learning_rate=0.1, warmup=10, weight_decay=0),
    snapshot=tmp_path / 's',
    name='x',
    frozen={'wq': wq},
  )
  change = np.asarray(merge({'wq': wq}, adapters, config)['wq'] - wq)
  assert np.linalg.matrix_rank(change.reshape(2, 12, 10), tol=1e-3).max() == 1
  np.testing.assert_allclose(change, goal - wq, atol=0.01)
