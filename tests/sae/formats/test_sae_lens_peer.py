"""Files exchanged with SAELens itself: it loads ours, we load its own.

Needs `.[peers]`; SAELens' SAEs run in float32 on raw activations.
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from sae.formats.gemma_scope import save_gemma_scope
from sae.formats.loading import load_sae
from sae.formats.releases import RELEASES, list_saes, resolve
from sae.formats.sae_lens import save_sae_lens
from sae.jumprelu import JumpReLUSAE, Origin, Weights

sae_lens = pytest.importorskip('sae_lens')
from sae_lens.saes.sae import SAEMetadata  # noqa: E402
import torch  # noqa: E402

D, F, HEADS = 12, 40, 3
# Raw activations are tens to hundreds in size.
X = np.random.default_rng(1).normal(size=(64, D)).astype(np.float32) * 40


def random_sae(site='resid_post', unit=True):
  rng = np.random.default_rng(0)
  W_dec = rng.normal(size=(F, D))
  W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True) if unit else 1
  arrays = (
    rng.normal(size=(D, F)),
    W_dec,
    rng.normal(size=F) * 20,
    rng.normal(size=D) * 20,
    rng.uniform(5, 100, size=F),
  )
  origin = Origin(model='google/gemma-2-2b', site=site, layer=7)
  weights = Weights(*(jnp.asarray(a, jnp.float32) for a in arrays))
  return JumpReLUSAE(weights, origin)


def run(theirs, x):
  """Latents and reconstruction by SAELens."""
  with torch.no_grad():
    f = theirs.encode(torch.tensor(np.asarray(x)))
    return f.numpy(), theirs.decode(f).numpy()


def assert_same(sae, f, y, x=X):
  assert 0.05 < (f > 0).mean() < 0.9
  ours = sae.encode(jnp.asarray(x))
  np.testing.assert_allclose(ours, f, atol=1e-6 * np.abs(f).max())
  np.testing.assert_allclose(sae.decode(ours), y, atol=1e-6 * np.abs(y).max())


def trained(config_class, sae_class, threshold=30, **options):
  """An SAE of SAELens with weights that say something."""
  metadata = SAEMetadata(
    model_name='gemma-2-2b', hook_name='blocks.7.hook_resid_post'
  )
  theirs = sae_class(
    config_class(d_in=D, d_sae=F, metadata=metadata, **options)
  )
  generator = torch.Generator().manual_seed(0)
  for name, parameter in theirs.named_parameters():
    values = torch.randn(parameter.shape, generator=generator)
    if name == 'threshold':
      values = values.abs() * threshold
      values[0] = -1e-4  # what its training may end on
    elif name.startswith('b_'):
      values = values * 5
    parameter.data.copy_(values)
  return theirs


@pytest.mark.parametrize('unit', [True, False])
@pytest.mark.parametrize('site', ['resid_post', 'mlp_out', 'resid_pre'])
def test_sae_lens_loads_our_export(tmp_path, site, unit):
  sae = random_sae(site, unit)
  save_sae_lens(sae, tmp_path / 'sae', context_size=1024, metadata={'steps': 3})
  theirs = sae_lens.SAE.load_from_disk(tmp_path / 'sae')
  assert type(theirs) is sae_lens.JumpReLUSAE
  assert theirs.cfg.metadata.hook_name == f'blocks.7.hook_{site}'
  assert theirs.cfg.metadata.model_name == 'gemma-2-2b'
  assert theirs.cfg.metadata.prepend_bos is True
  assert theirs.cfg.metadata.context_size == 1024
  assert_same(sae, *run(theirs, X))
  # And back, through SAELens' own writer.
  theirs.save_model(tmp_path / 'again')
  back = load_sae(tmp_path / 'again')
  for name, array in sae.weights()._asdict().items():
    np.testing.assert_array_equal(getattr(back, name)[...], array)
  assert back.origin == sae.origin


def test_sae_lens_reshapes_the_heads_of_our_export(tmp_path):
  sae = random_sae('z')
  save_sae_lens(sae, tmp_path / 'sae')
  theirs = sae_lens.SAE.load_from_disk(tmp_path / 'sae')
  f, y = run(theirs, X.reshape(-1, HEADS, D // HEADS))
  assert_same(sae, f, y.reshape(-1, D))


@pytest.mark.parametrize('subtract', [True, False])
@pytest.mark.parametrize(
  ('config_class', 'sae_class'),
  [
    (sae_lens.JumpReLUSAEConfig, sae_lens.JumpReLUSAE),
    (sae_lens.StandardSAEConfig, sae_lens.StandardSAE),
  ],
)
def test_we_load_what_sae_lens_saves(
  tmp_path, config_class, sae_class, subtract
):
  theirs = trained(config_class, sae_class, apply_b_dec_to_input=subtract)
  theirs.save_model(tmp_path)
  sae = load_sae(tmp_path)
  assert_same(sae, *run(theirs, X))
  assert (sae.origin.site, sae.origin.layer) == ('resid_post', 7)


def training_sae(subtract):
  return trained(
    sae_lens.JumpReLUTrainingSAEConfig,
    sae_lens.JumpReLUTrainingSAE,
    threshold=2,
    apply_b_dec_to_input=subtract,
    normalize_activations='expected_average_only_in',
  )


@pytest.mark.parametrize('subtract', [True, False])
def test_we_fold_the_scaler_of_a_training_checkpoint(tmp_path, subtract):
  from sae_lens.training.activation_scaler import ActivationScaler

  theirs = training_sae(subtract)
  scaler = ActivationScaler(scaling_factor=D**0.5 / 140)
  # As the trainer saves a checkpoint: weights as they are, and the scaler.
  theirs.save_inference_model(tmp_path)
  scaler.save(str(tmp_path / 'activation_scaler.json'))
  f, y = run(theirs, scaler.scale(torch.tensor(X)))
  factor = scaler.scaling_factor
  assert_same(load_sae(tmp_path), f / factor, y / factor)


@pytest.mark.parametrize('subtract', [True, False])
def test_what_sae_lens_has_folded_itself_stays_as_it_is(tmp_path, subtract):
  theirs = training_sae(subtract)
  theirs.fold_activation_norm_scaling_factor(D**0.5 / 140)
  theirs.save_inference_model(tmp_path)
  assert_same(load_sae(tmp_path), *run(theirs, X))


def test_both_migrate_old_configurations_alike(tmp_path):
  theirs = trained(
    sae_lens.StandardSAEConfig, sae_lens.StandardSAE, apply_b_dec_to_input=True
  )
  theirs.save_model(tmp_path)
  flat = {
    'd_in': D,
    'd_sae': F,
    'dtype': 'float32',
    'model_name': 'gemma-2b',
    'hook_point': 'blocks.6.attn.hook_z',
    'hook_point_head_index': None,
    'activation_fn_str': 'relu',
    'normalize_activations': False,
  }
  (tmp_path / 'cfg.json').write_text(json.dumps(flat))
  f, y = run(
    sae_lens.SAE.load_from_disk(tmp_path), X.reshape(-1, HEADS, D // HEADS)
  )
  sae = load_sae(tmp_path)
  assert (sae.origin.site, sae.origin.layer) == ('z', 6)
  assert_same(sae, f, y.reshape(-1, D))


@pytest.fixture
def loaders(monkeypatch):
  """SAELens' loaders, which are told where the hub's files are."""
  from sae_lens.loading import pretrained_sae_loaders

  def install(root):
    def download(repo_id, filename, subfolder='', force_download=False):
      return str(root / subfolder / filename)

    monkeypatch.setattr(pretrained_sae_loaders, 'hf_hub_download', download)
    return pretrained_sae_loaders

  return install


def test_sae_lens_reads_our_gemma_scope_export(tmp_path, loaders):
  sae = random_sae()
  path = save_gemma_scope(sae, tmp_path, l0=12.2)
  _, state, _ = loaders(tmp_path).gemma_2_sae_huggingface_loader(
    'google/gemma-scope-2b-pt-res', str(path.parent.relative_to(tmp_path))
  )
  assert set(state) == {'W_enc', 'W_dec', 'b_enc', 'b_dec', 'threshold'}
  for name, array in sae.weights()._asdict().items():
    np.testing.assert_array_equal(state[name].numpy(), array)


def test_llama_scope_is_what_sae_lens_reads(tmp_path, loaders):
  rng = np.random.default_rng(0)
  norm = 140.5
  tensors = {
    'encoder.weight': rng.normal(size=(F, D)),
    'encoder.bias': rng.normal(size=F),
    'decoder.weight': rng.normal(size=(D, F)),
    'decoder.bias': rng.normal(size=D),
  }
  folder = tmp_path / 'Llama3_1-8B-Base-L15R-8x'
  (folder / 'checkpoints').mkdir(parents=True)
  save_file(
    {k: v.astype(jnp.bfloat16) for k, v in tensors.items()},
    folder / 'checkpoints/final.safetensors',
  )
  config = {
    'd_model': D,
    'd_sae': F,
    'hook_point_in': 'blocks.15.hook_resid_post',
    'hook_point_out': 'blocks.15.hook_resid_post',
    'jump_relu_threshold': 30.3,
    'dataset_average_activation_norm': {'in': norm, 'out': norm},
  }
  (folder / 'hyperparams.json').write_text(json.dumps(config))
  config, state, _ = loaders(tmp_path).llama_scope_sae_huggingface_loader(
    'fnlp/Llama3_1-8B-Base-LXR-8x',
    folder.name,
    cfg_overrides={'dtype': 'float32'},
  )
  config = loaders(tmp_path).handle_config_defaulting(config)
  theirs = sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig.from_dict(config))
  theirs.load_state_dict(state)
  # As from_pretrained does; its latents are left in scaled units.
  theirs.fold_activation_norm_scaling_factor(D**0.5 / norm)
  f, y = run(theirs, X)
  sae = load_sae(folder)
  assert_same(sae, f / (D**0.5 / norm), y)
  assert sae.origin.layer == 15


def test_the_tables_are_those_of_sae_lens():
  from sae_lens.loading.pretrained_saes_directory import (
    get_pretrained_saes_directory,
  )

  directory = get_pretrained_saes_directory()
  seen = 0
  for release in RELEASES:
    if release not in directory:
      continue
    theirs = {
      sae_id: path
      for sae_id, path in directory[release].saes_map.items()
      if not sae_id.startswith('embedding')
    }
    assert set(list_saes(release)) == set(theirs)
    for sae_id, path in theirs.items():
      found = resolve(release, sae_id)
      assert found.path == path
      assert found.repo == directory[release].repo_id
      neuronpedia = directory[release].neuronpedia_id.get(sae_id)
      if neuronpedia and release.endswith('-canonical'):
        assert resolve(neuronpedia) == found
    seen += len(theirs)
  assert seen == 2825
