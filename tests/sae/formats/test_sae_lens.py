"""SAELens' folders, against its formulas written out in NumPy.

SAELens itself reads and writes the same folders in test_sae_lens_peer.py.
"""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gemma_jax
from sae.formats import hooks
from sae.formats.sae_lens import read_sae_lens, read_sparsity, save_sae_lens
from sae.jumprelu import JumpReLUSAE, Origin, Weights

D, F = 6, 16
ORIGIN = Origin(
  model='google/gemma-2-2b',
  site='resid_post',
  layer=12,
  release='mine',
  sae_id='one',
  l0=33.5,
)
CONFIG = {
  'architecture': 'jumprelu',
  'd_in': D,
  'd_sae': F,
  'dtype': 'float32',
  'device': 'cpu',
  'apply_b_dec_to_input': False,
  'normalize_activations': 'none',
  'reshape_activations': 'none',
  'metadata': {
    'sae_lens_version': '6.54.12',
    'model_name': 'gemma-2-2b',
    'hook_name': 'blocks.12.hook_resid_post',
    'hook_head_index': None,
  },
}


def random_arrays(seed=0):
  rng = np.random.default_rng(seed)
  arrays = {
    'W_enc': rng.normal(size=(D, F)),
    'W_dec': rng.normal(size=(F, D)),
    'b_enc': rng.normal(size=F),
    'b_dec': rng.normal(size=D),
    'threshold': rng.uniform(0.1, 2, size=F),
  }
  return {name: array.astype(np.float32) for name, array in arrays.items()}


def write(folder, arrays, config=CONFIG, **changes):
  folder.mkdir(exist_ok=True)
  config = {k: v for k, v in (config | changes).items() if v != 'absent'}
  (folder / 'cfg.json').write_text(json.dumps(config))
  save_file(arrays, folder / 'sae_weights.safetensors')
  return folder


def sae_lens_formula(arrays, x, *, subtract=False, scale=1.0):
  """SAELens' SAE on x that was multiplied by `scale`; float64."""
  a = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
  x = scale * x - subtract * a['b_dec']
  z = x @ a['W_enc'] + a['b_enc']
  f = np.maximum(z, 0) * (z > a.get('threshold', 0))
  return f, (f @ a['W_dec'] + a['b_dec']) / scale


def assert_same(weights, f, y, x):
  sae = JumpReLUSAE(Weights(*map(jnp.asarray, weights)))
  assert 0.1 < (f > 0).mean() < 0.9
  got = sae.encode(jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(got, f, atol=2e-6 * np.abs(f).max())
  np.testing.assert_allclose(sae.decode(got), y, atol=2e-6 * np.abs(y).max())


X = np.random.default_rng(1).normal(size=(50, D)) * 3


@pytest.mark.parametrize('subtract', [True, False])
@pytest.mark.parametrize('architecture', ['jumprelu', 'standard'])
def test_b_dec_that_is_subtracted_is_folded(tmp_path, architecture, subtract):
  arrays = random_arrays()
  if architecture == 'standard':
    del arrays['threshold']
  write(
    tmp_path, arrays, architecture=architecture, apply_b_dec_to_input=subtract
  )
  weights, origin = read_sae_lens(tmp_path)
  assert_same(weights, *sae_lens_formula(arrays, X, subtract=subtract), X)
  assert origin == Origin(
    model='google/gemma-2-2b', site='resid_post', layer=12
  )


@pytest.mark.parametrize('subtract', [True, False])
def test_normalised_activations_are_folded(tmp_path, subtract):
  arrays, scale = random_arrays(), 0.37
  write(
    tmp_path,
    arrays,
    normalize_activations='expected_average_only_in',
    apply_b_dec_to_input=subtract,
  )
  scaler = {'scaling_factor': scale, 'has_whitening': False}
  (tmp_path / 'activation_scaler.json').write_text(json.dumps(scaler))
  weights, _ = read_sae_lens(tmp_path)
  f, y = sae_lens_formula(arrays, X, subtract=subtract, scale=scale)
  assert_same(weights, f / scale, y, X)
  np.testing.assert_array_equal(weights.W_dec, arrays['W_dec'])


def test_thresholds_as_older_checkpoints_have_them(tmp_path):
  arrays = random_arrays()
  old = dict(arrays)
  old['log_threshold'] = np.log(old.pop('threshold'))
  weights, _ = read_sae_lens(write(tmp_path, old))
  assert_same(weights, *sae_lens_formula(arrays, X), X)


def test_thresholds_below_0_do_what_0_does(tmp_path):
  arrays = random_arrays()
  arrays['threshold'][::2] = -3e-4  # training may end on such
  weights, _ = read_sae_lens(write(tmp_path, arrays))
  assert_same(weights, *sae_lens_formula(arrays, X), X)


def test_flat_configurations_of_before_version_6(tmp_path):
  arrays = random_arrays()
  del arrays['threshold']
  arrays['scaling_factor'] = np.ones(F, np.float32)
  flat = {
    'd_in': D,
    'd_sae': F,
    'model_name': 'gemma-2b',
    'hook_point': 'blocks.6.attn.hook_z',
    'hook_point_head_index': None,
    'activation_fn_str': 'relu',
    'normalize_activations': False,
  }
  weights, origin = read_sae_lens(write(tmp_path, arrays, flat))
  # b_dec is subtracted unless they say otherwise.
  assert_same(weights, *sae_lens_formula(arrays, X, subtract=True), X)
  assert origin == Origin(model='gemma-2b', site='z', layer=6)


def test_what_is_written_is_read_bit_for_bit(tmp_path):
  arrays = random_arrays()
  sae = JumpReLUSAE(Weights(*map(jnp.asarray, arrays.values())), ORIGIN)
  sparsity = np.linspace(-5, -1, F)
  save_sae_lens(
    sae,
    tmp_path / 'sae',
    context_size=128,
    sparsity=sparsity,
    metadata={'steps': 10},
  )
  weights, origin = read_sae_lens(tmp_path / 'sae')
  for name, array in weights._asdict().items():
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, arrays[name], name)
  assert origin == ORIGIN
  np.testing.assert_array_equal(
    read_sparsity(tmp_path / 'sae'), sparsity.astype(np.float32)
  )
  config = json.loads((tmp_path / 'sae/cfg.json').read_text())
  assert config['metadata']['training'] == {'steps': 10}
  assert config['metadata']['context_size'] == 128


def test_bfloat16_is_written_as_float32(tmp_path):
  arrays = random_arrays()
  cast = {
    name: jnp.asarray(a, jnp.float32 if name == 'threshold' else jnp.bfloat16)
    for name, a in arrays.items()
  }
  save_sae_lens(JumpReLUSAE(Weights(**cast), ORIGIN), tmp_path / 'sae')
  stored = load_file(tmp_path / 'sae/sae_weights.safetensors')
  for name, array in stored.items():
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.asarray(cast[name], np.float32))


def test_half_precision_files_are_read(tmp_path):
  arrays = {k: v.astype(jnp.bfloat16) for k, v in random_arrays().items()}
  weights, _ = read_sae_lens(write(tmp_path, arrays, dtype='bfloat16'))
  for name, array in weights._asdict().items():
    np.testing.assert_array_equal(array, arrays[name].astype(np.float32))


@pytest.mark.parametrize(
  ('hook', 'site', 'layer'),
  [
    ('blocks.12.hook_resid_pre', 'resid_pre', 12),
    ('blocks.0.hook_resid_mid', 'resid_mid', 0),
    ('blocks.3.attn.hook_z', 'z', 3),
    ('blocks.3.hook_attn_out', 'attn_out', 3),
    ('blocks.3.hook_mlp_out', 'mlp_out', 3),
    ('blocks.3.mlp.hook_post', 'mlp_act', 3),
    ('blocks.3.ln2_post.hook_out', 'mlp_out', 3),
    ('model.layers.25', 'resid_post', 25),
    ('model.layers.25.output', 'resid_post', 25),
    ('model.layers.5.mlp', 'mlp_out_raw', 5),
    ('model.layers.5.self_attn.o_proj.input', 'z', 5),
    ('model.layers.5.post_feedforward_layernorm', 'mlp_out', 5),
  ],
)
def test_hooks_are_sites(tmp_path, hook, site, layer):
  metadata = CONFIG['metadata'] | {'hook_name': hook}
  write(tmp_path, random_arrays(), metadata=metadata)
  origin = read_sae_lens(tmp_path)[1]
  assert (origin.site, origin.layer) == (site, layer)


@pytest.mark.parametrize(
  'site',
  [*hooks.SITES, 'hook_resid_post', 'hook_z', 'hook_mlp_out', 'hook_in'],
)
def test_sites_are_read_as_users_write_them(site):
  assert hooks.read_site(site, 3) == (gemma_jax.parse_site(site)[0], 3)
  assert hooks.read_site(site) == (gemma_jax.parse_site(site)[0], None)


def test_a_hook_says_the_layer_too():
  name = 'blocks.12.attn.hook_z'
  assert hooks.read_site(name) == hooks.read_site(name, 12) == ('z', 12)
  with pytest.raises(ValueError, match='of layer 12, but layer=3'):
    hooks.read_site(name, 3)
  with pytest.raises(ValueError, match="'hook_post' is not a site"):
    hooks.read_site('hook_post')


def test_hooks_mean_what_they_mean_in_gemma_jax():
  assert hooks.SITES == gemma_jax.VECTOR_SITES
  for site in hooks.SITES:
    if site != 'attn_out_raw':
      name = hooks.hook_name(site, 7)
      assert gemma_jax.parse_site(name) == hooks.parse_hook(name) == (site, 7)
  for pattern in hooks._ALIASES:
    name = pattern.format(7)
    module = name.startswith('model.') and not name.endswith('put')
    name_of_module = f'{name}.output' if module else name
    theirs = gemma_jax.parse_site(
      name_of_module, gemma_jax.preset('gemma-2-2b')
    )
    assert hooks.parse_hook(name) == theirs


@pytest.mark.parametrize(
  'hook',
  [
    'hook_embed',
    'blocks.5.attn.hook_out',
    'model.layers.5.post_attention_layernorm',
    'blocks.5.ln2.hook_normalized',
    'transformer.h.5',
    None,
  ],
)
def test_hooks_that_are_no_one_tensor_need_a_site(tmp_path, hook):
  metadata = CONFIG['metadata'] | {'hook_name': hook}
  write(tmp_path, random_arrays(), metadata=metadata)
  with pytest.raises(ValueError, match=f'hook {hook!r}.*site= and layer='):
    read_sae_lens(tmp_path, site='attn_out')
  origin = read_sae_lens(tmp_path, site='attn_out', layer=5)[1]
  assert (origin.site, origin.layer) == ('attn_out', 5)


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    ({'architecture': 'topk'}, 'topk.*depends on the other latents'),
    ({'architecture': 'gated'}, 'gated.*gates have weights of their own'),
    ({'architecture': 'transcoder'}, 'transcoder.*writes another'),
    ({'architecture': 'novel'}, 'novel.*unknown.*Expected jumprelu'),
    (
      {'architecture': 'standard', 'activation_fn_str': 'tanh-relu'},
      'tanh-relu',
    ),
    ({'normalize_activations': 'layer_norm'}, 'layer_norm.*token to token'),
    (
      {'normalize_activations': 'constant_norm_rescale'},
      'constant_norm_rescale.*token to token',
    ),
    (
      {'normalize_activations': 'covariance_whitening'},
      'covariance_whitening.*end of training',
    ),
    ({'normalize_activations': 'other'}, "'other'.*it is unknown"),
    (
      {'normalize_activations': 'expected_average_only_in'},
      'factor is not known.*activation_scaler.json is absent.*write',
    ),
    ({'hook_head_index': 3}, 'hook_head_index is 3.*one attention head'),
    ({'d_in': 7}, r'W_enc has shape \[6, 16\].*D=7.*by cfg.json'),
    ({'d_sae': 17}, r'W_enc has shape \[6, 16\].*F=17.*by cfg.json'),
    ({'d_in': '6'}, "d_in is '6', expected an integer"),
    ({'d_in': 6.0}, 'd_in is 6.0, expected an integer'),
    ({'d_in': True}, 'd_in is True, expected an integer'),
    ({'d_in': -6}, 'd_in is -6, expected an integer from 0 on'),
    ({'d_sae': None}, 'd_sae is None, expected an integer'),
    ({'d_sae': [16]}, r'd_sae is \[16\], expected an integer'),
    ({'d_sae': 10**400}, 'd_sae is 1000.*, expected an integer'),
    ({'architecture': None}, 'architecture is None, expected a string'),
    ({'architecture': ['jumprelu']}, r"\['jumprelu'\], expected a string"),
    ({'apply_b_dec_to_input': None}, 'is None, expected true or false'),
    ({'apply_b_dec_to_input': 0}, 'is 0, expected true or false'),
    ({'apply_b_dec_to_input': 'false'}, "'false', expected true or false"),
    ({'normalize_activations': {}}, 'is {}, expected a string or true or'),
    ({'normalize_activations': 0.5}, 'is 0.5, expected a string or true or'),
    ({'reshape_activations': 'hook_x'}, "'hook_x', expected none or hook_z"),
    ({'activation_fn_kwargs': {'k': 3}}, "is {'k': 3}, expected none"),
    ({'finetuning_scaling_factor': 'no'}, "'no', expected true or false"),
    # Names that are not those of SAELens are not ignored.
    (
      {'apply_b_dec_to_input': 'absent', 'apply_b_dec_to_inputs': False},
      'unknown field apply_b_dec_to_inputs.*mean apply_b_dec_to_input',
    ),
    (
      {'normalise_activations': 'layer_norm'},
      'unknown field normalise_activations.*mean normalize_activations',
    ),
    ({'architectur': 'gated'}, 'unknown field architectur.*architecture'),
    ({'d_out': 6}, 'unknown field d_out=6. A field that might change'),
    ({'input_scale': 2.0}, 'unknown field input_scale=2.0'),
    ({'k': 32, 'topk': 1}, r"unknown field k=32 \(and \['topk'\]\)"),
    # SAELens would not look for it there.
    (
      {'metadata': CONFIG['metadata'] | {'apply_b_dec_to_input': True}},
      'apply_b_dec_to_input is part of metadata, where SAELens',
    ),
    (
      {'metadata': CONFIG['metadata'] | {'hook_head_indx': 3}},
      'unknown field hook_head_indx.*hook_head_index',
    ),
    (
      {'metadata': CONFIG['metadata'] | {'hook_name': 3}},
      'hook_name is 3, expected a string or null',
    ),
    (
      {'metadata': CONFIG['metadata'] | {'l0': '33'}},
      "l0 is '33', expected a number from 0 on or null",
    ),
    (
      {'metadata': CONFIG['metadata'] | {'l0': -1}},
      'l0 is -1, expected a number from 0 on',
    ),
    (
      {'metadata': CONFIG['metadata'] | {'hook_name_out': 'blocks.12.x'}},
      'hook_name_out.*reads one tensor and writes another',
    ),
    (
      {'hook_name': 'blocks.1.hook_z', 'hook_point': 'blocks.2.hook_z'},
      'hook_point is .*blocks.2.*hook_name, another name of it, is',
    ),
    ({'apply_b_dec_to_input': 'yes'}, "'yes', expected true or false"),
    ({'metadata': 3}, 'metadata is 3'),
    ({'architecture': 'standard'}, 'tensor threshold is unknown'),
  ],
)
def test_configurations_that_are_refused(tmp_path, changes, says):
  write(tmp_path, random_arrays(), **changes)
  with pytest.raises(ValueError, match=says) as error:
    read_sae_lens(tmp_path)
  assert str(tmp_path) in str(error.value)


# What releases of SAELens of versions 0 to 6 have written (their sources).
OLD = {
  0: {
    'model_name': 'gpt2-small',
    'hook_point': 'blocks.8.hook_resid_pre',
    'hook_point_layer': 8,
    'hook_point_head_index': None,
    'dataset_path': 'Skylion007/openwebtext',
    'is_dataset_tokenized': False,
    'context_size': 128,
    'use_cached_activations': False,
    'cached_activations_path': 'activations/gpt2-small',
    'n_batches_in_buffer': 128,
    'total_training_tokens': 300000000,
    'store_batch_size': 32,
    'device': 'mps',
    'seed': 42,
    'dtype': 'torch.float32',
    'b_dec_init_method': 'geometric_median',
    'expansion_factor': 32,
    'from_pretrained_path': None,
    'l1_coefficient': 8e-05,
    'lr': 0.0004,
    'lr_scheduler_name': None,
    'lr_warm_up_steps': 5000,
    'train_batch_size': 4096,
    'use_ghost_grads': False,
    'feature_sampling_window': 1000,
    'dead_feature_window': 5000,
    'dead_feature_threshold': 1e-08,
    'log_to_wandb': True,
    'wandb_project': 'gpt2',
    'wandb_entity': None,
    'wandb_log_frequency': 100,
    'n_checkpoints': 10,
    'checkpoint_path': 'checkpoints/y1t51byy',
    'tokens_per_buffer': 67108864,
    'run_name': '24576-L1-8e-05-LR-0.0004',
  },
  3: {
    'architecture': 'standard',
    'dtype': 'float32',
    'device': 'cuda',
    'model_name': 'gemma-2b',
    'hook_name': 'blocks.6.hook_resid_post',
    'hook_layer': 6,
    'hook_head_index': None,
    'activation_fn_str': 'relu',
    'activation_fn_kwargs': {},
    'apply_b_dec_to_input': True,
    'finetuning_scaling_factor': False,
    'sae_lens_training_version': None,
    'prepend_bos': True,
    'dataset_path': 'HuggingFaceFW/fineweb',
    'dataset_trust_remote_code': True,
    'context_size': 1024,
    'normalize_activations': 'none',
    'model_from_pretrained_kwargs': {'center_writing_weights': False},
    'neuronpedia_id': None,
    'seqpos_slice': [None],
    'l1_coefficient': 1.0,
    'lp_norm': 1.0,
    'use_ghost_grads': False,
    'normalize_sae_decoder': True,
    'noise_scale': 0.0,
    'decoder_orthogonal_init': False,
    'mse_loss_normalization': None,
    'init_encoder_as_decoder_transpose': False,
    'decoder_heuristic_init': False,
    'scale_sparsity_penalty_by_decoder_norm': False,
  },
  6: {
    'architecture': 'standard',
    'dtype': 'float32',
    'device': 'cuda',
    'apply_b_dec_to_input': True,
    'normalize_activations': 'none',
    'reshape_activations': 'none',
    'metadata': {
      'sae_lens_version': '6.5.0',
      'sae_lens_training_version': '6.5.0',
      'model_name': 'gemma-2-2b',
      'model_class_name': 'HookedTransformer',
      'hook_name': 'blocks.5.hook_resid_post',
      'hook_head_index': None,
      'hook_head_index_out': None,
      'hf_hook_name': 'model.layers.5',
      'context_size': 128,
      'prepend_bos': True,
      'seqpos_slice': [None],
      'exclude_special_tokens': False,
      'dataset_path': 'monology/pile-uncopyrighted',
      'model_from_pretrained_kwargs': {},
      'training_architecture': 'standard',
      'training_architecture_details': {'d_in': 3},
      'whatever_else': [1, 2],
    },
  },
}


@pytest.mark.parametrize('config', OLD.values(), ids=OLD)
def test_configurations_of_every_version_are_read(tmp_path, config):
  arrays = random_arrays()
  del arrays['threshold']
  write(tmp_path, arrays, config | {'d_in': D, 'd_sae': F})
  weights, origin = read_sae_lens(tmp_path)
  assert_same(weights, *sae_lens_formula(arrays, X, subtract=True), X)
  assert origin.layer in (5, 6, 8)


def test_a_scaler_with_whitening(tmp_path):
  normalise = 'expected_average_only_in'
  write(tmp_path, random_arrays(), normalize_activations=normalise)
  scaler = '{"scaling_factor": 0.5, "has_whitening": true}'
  (tmp_path / 'activation_scaler.json').write_text(scaler)
  with pytest.raises(ValueError, match='scaler.json: has_whitening is True'):
    read_sae_lens(tmp_path)


@pytest.mark.parametrize(
  'name', ['cfg.json', 'sae_weights.safetensors', 'sparsity.safetensors']
)
def test_links_out_of_the_folder_are_refused(tmp_path, name):
  folder = write(tmp_path / 'sae', random_arrays())
  sparsity = {'sparsity': np.zeros(F, np.float32)}
  save_file(sparsity, folder / 'sparsity.safetensors')
  (folder / name).rename(tmp_path / name)
  (folder / name).symlink_to(tmp_path / name)
  with pytest.raises(ValueError, match=f'{name} is a link to'):
    read_sae_lens(folder)
    read_sparsity(folder)


def test_a_scaler_without_a_factor(tmp_path):
  normalise = 'expected_average_only_in'
  write(tmp_path, random_arrays(), normalize_activations=normalise)
  for factor in ('null', '0', '-1', 'true', '"1"', '[1]', '1' + '0' * 400):
    scaler = f'{{"scaling_factor": {factor}}}'
    (tmp_path / 'activation_scaler.json').write_text(scaler)
    with pytest.raises(ValueError, match='has scaling_factor'):
      read_sae_lens(tmp_path)


def change(**changes):
  def damage(arrays):
    for name, new in changes.items():
      if new is None:
        del arrays[name]
      else:
        arrays[name] = new(arrays.get(name))

  return damage


def with_nan(array):
  array = array.copy()
  array.flat[0] = np.nan
  return array


@pytest.mark.parametrize(
  ('damage', 'says'),
  [
    (change(b_dec=None), 'b_dec is missing; expected W_enc'),
    (change(threshold=None), 'threshold is missing.*got neither'),
    (change(log_threshold=lambda _: np.ones(F, 'f4')), 'threshold is missing'),
    (change(W_gate=lambda _: np.ones(3, 'f4')), 'W_gate is unknown'),
    (change(W_dec=lambda a: a.T.copy()), r'W_dec has shape \[6, 16\]'),
    (change(b_dec=lambda a: a[1:].copy()), r'b_dec has shape \[5\].*D=6'),
    (change(b_enc=lambda a: a.astype('f8')), 'b_enc has dtype F64.*float32'),
    (change(b_enc=lambda a: a.astype('i4')), 'b_enc has dtype I32'),
    (change(W_enc=with_nan), 'W_enc holds NaN'),
    (
      change(scaling_factor=lambda _: np.full(F, 2, 'f4')),
      'scaling_factor is not all ones',
    ),
  ],
)
def test_wrong_tensors_are_refused(tmp_path, damage, says):
  arrays = random_arrays()
  damage(arrays)
  with pytest.raises(ValueError, match=says) as error:
    read_sae_lens(write(tmp_path, arrays))
  assert 'sae_weights.safetensors' in str(error.value)


@pytest.mark.parametrize('keep', [0, 4, 100, -1])
def test_truncated_weights_are_refused(tmp_path, keep):
  path = write(tmp_path, random_arrays()) / 'sae_weights.safetensors'
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(ValueError, match='sae_weights.*truncated or corrupt'):
    read_sae_lens(tmp_path)


def test_absent_and_broken_files(tmp_path):
  with pytest.raises(FileNotFoundError, match='cfg.json does not exist'):
    read_sae_lens(tmp_path)
  write(tmp_path, random_arrays())
  (tmp_path / 'sae_weights.safetensors').unlink()
  with pytest.raises(FileNotFoundError, match='sae_weights.safetensors'):
    read_sae_lens(tmp_path)
  (tmp_path / 'cfg.json').write_text('{"d_in": 6')
  with pytest.raises(ValueError, match='cfg.json is not JSON'):
    read_sae_lens(tmp_path)


def test_what_cannot_be_written(tmp_path):
  weights = Weights(*map(jnp.asarray, random_arrays().values()))
  for origin, says in (
    (Origin(site='z'), 'does not say which site and layer'),
    (Origin(site='attn_out_raw', layer=3), 'no hook that is attn_out_raw'),
  ):
    with pytest.raises(ValueError, match=says):
      save_sae_lens(JumpReLUSAE(weights, origin), tmp_path / 'sae')
  sae = JumpReLUSAE(weights, ORIGIN)
  with pytest.raises(ValueError, match=r'sparsity has shape \(3,\)'):
    save_sae_lens(sae, tmp_path / 'sae', sparsity=np.ones(3))
  assert not any(tmp_path.iterdir())


def test_a_folder_appears_complete_or_not_at_all(tmp_path, monkeypatch):
  sae = JumpReLUSAE(
    Weights(*map(jnp.asarray, random_arrays().values())), ORIGIN
  )

  def killed(arrays, path, metadata):
    path.write_bytes(b'half')
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr('sae.formats.sae_lens.save_file', killed)
    with pytest.raises(KeyboardInterrupt):
      save_sae_lens(sae, tmp_path / 'sae')
  assert not any(tmp_path.iterdir())
  (tmp_path / 'sae').mkdir()  # empty is as good as absent
  save_sae_lens(sae, tmp_path / 'sae')
  with pytest.raises(FileExistsError, match='not an empty folder'):
    save_sae_lens(sae, tmp_path / 'sae')


def test_files_are_for_everyone_whom_the_umask_lets(tmp_path):
  arrays = {k: jnp.asarray(v) for k, v in random_arrays().items()}
  before = os.umask(0o022)
  try:
    save_sae_lens(JumpReLUSAE(Weights(**arrays), ORIGIN), tmp_path / 'sae')
  finally:
    os.umask(before)
  for file in (tmp_path / 'sae').iterdir():
    assert file.stat().st_mode & 0o777 == 0o644, file
