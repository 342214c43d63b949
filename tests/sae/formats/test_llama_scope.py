"""Llama Scope's folders, against the formula written out in NumPy."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from sae.formats.llama_scope import read_llama_scope
from sae.jumprelu import JumpReLUSAE, Origin, Weights

D, F = 4, 16
NORM = 17.125
CONFIG = {
  'act_fn': 'jumprelu',
  'apply_decoder_bias_to_pre_encoder': False,
  'd_model': D,
  'd_sae': F,
  'dataset_average_activation_norm': {'in': NORM, 'out': NORM},
  'hook_point_in': 'blocks.15.hook_resid_post',
  'hook_point_out': 'blocks.15.hook_resid_post',
  'jump_relu_threshold': 5.25,
  'norm_activation': 'dataset-wise',
}
X = np.random.default_rng(1).normal(size=(60, D)) * NORM / 2


def random_tensors():
  rng = np.random.default_rng(0)
  return {
    'encoder.weight': rng.normal(size=(F, D)).astype(jnp.bfloat16),
    'encoder.bias': rng.normal(size=F).astype(jnp.bfloat16),
    'decoder.weight': rng.normal(size=(D, F)).astype(jnp.bfloat16),
    'decoder.bias': rng.normal(size=D).astype(jnp.bfloat16),
  }


@pytest.fixture
def folder(tmp_path):
  folder = tmp_path / 'Llama3_1-8B-Base-LXR-8x' / 'Llama3_1-8B-Base-L15R-8x'
  (folder / 'checkpoints').mkdir(parents=True)
  (folder / 'hyperparams.json').write_text(json.dumps(CONFIG))
  save_file(random_tensors(), folder / 'checkpoints/final.safetensors')
  return folder


def edit(folder, **changes):
  content = {k: v for k, v in (CONFIG | changes).items() if v != 'absent'}
  (folder / 'hyperparams.json').write_text(json.dumps(content))


def test_latents_and_reconstruction_are_those_of_the_formula(folder):
  t = {k: v.astype(np.float64) for k, v in random_tensors().items()}
  s = math.sqrt(D) / NORM
  z = s * X @ t['encoder.weight'].T + t['encoder.bias']
  f = np.maximum(z, 0) * (z > s * CONFIG['jump_relu_threshold'])
  y = (f @ t['decoder.weight'].T + t['decoder.bias']) / s
  assert 0.1 < (f > 0).mean() < 0.9

  weights, _ = read_llama_scope(folder)
  sae = JumpReLUSAE(Weights(*map(jnp.asarray, weights)))
  assert sae.dtype == jnp.float32
  got = sae.encode(jnp.asarray(X, jnp.float32))
  np.testing.assert_allclose(got, f / s, atol=1e-6 * (f / s).max())
  np.testing.assert_allclose(sae.decode(got), y, atol=1e-6 * np.abs(y).max())
  # The one threshold is in raw units, and so are latents.
  np.testing.assert_allclose(sae.threshold[...], 5.25, rtol=1e-6)


@pytest.mark.parametrize(
  ('hook', 'site'),
  [
    ('blocks.15.hook_resid_post', 'resid_post'),
    ('blocks.15.hook_attn_out', 'attn_out'),
    ('blocks.15.hook_mlp_out', 'mlp_out'),
  ],
)
def test_sites(folder, hook, site):
  edit(folder, hook_point_in=hook, hook_point_out=hook)
  assert read_llama_scope(folder)[1] == Origin(
    model='meta-llama/Llama-3.1-8B',
    site=site,
    layer=15,
    release='Llama3_1-8B-Base-LXR-8x',
    sae_id='Llama3_1-8B-Base-L15R-8x',
  )


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    (
      {
        'hook_point_in': 'blocks.15.ln2.hook_normalized',
        'hook_point_out': 'blocks.15.hook_mlp_out',
      },
      r'a transcoder \(TC\) from blocks.15.ln2.hook_normalized',
    ),
    ({'hook_point_in': 'x', 'hook_point_out': 'x'}, "hook_point_in is 'x'"),
    ({'hook_point_in': 3, 'hook_point_out': 3}, 'hook_point_in is 3'),
    ({'act_fn': 'topk'}, "act_fn is 'topk', expected 'jumprelu'"),
    ({'norm_activation': 'token-wise'}, 'norm_activation'),
    ({'apply_decoder_bias_to_pre_encoder': True}, 'pre_encoder is True'),
    ({'jump_relu_threshold': 'absent'}, 'jump_relu_threshold is None'),
    ({'jump_relu_threshold': -1}, 'jump_relu_threshold is -1'),
    ({'jump_relu_treshold': 1}, 'jump_relu_treshold.*mean jump_relu_thresh'),
    ({'jump_relu_threshold': '5'}, "jump_relu_threshold is '5', expected a n"),
    ({'jump_relu_threshold': [5]}, r'jump_relu_threshold is \[5\], expected'),
    ({'jump_relu_threshold': 10**400}, 'jump_relu_threshold is 1000'),
    ({'d_sae': '16'}, "d_sae is '16', expected an integer"),
    ({'jump_relu_threshold': True}, 'jump_relu_threshold is True'),
    ({'dataset_average_activation_norm': 3}, 'norm is 3, expected an object'),
    (
      {'dataset_average_activation_norm': {'in': 3, 'out': 4}},
      'in and out are one number',
    ),
    ({'dataset_average_activation_norm': {}}, 'in is None'),
    ({'dataset_average_activation_norm': {'in': 0}}, 'norm is 0'),
    ({'d_model': 5}, r'encoder.weight has shape \[16, 4\].*D=5'),
  ],
)
def test_what_is_refused(folder, changes, says):
  edit(folder, **changes)
  with pytest.raises(ValueError, match=says) as error:
    read_llama_scope(folder)
  assert folder.name in str(error.value)


def test_damaged_weights(folder):
  path = folder / 'checkpoints/final.safetensors'
  tensors = random_tensors()
  del tensors['decoder.bias']
  save_file(tensors, path)
  with pytest.raises(ValueError, match='decoder.bias is missing'):
    read_llama_scope(folder)
  path.write_bytes(path.read_bytes()[:50])
  with pytest.raises(ValueError, match='final.safetensors.*truncated'):
    read_llama_scope(folder)
  path.unlink()
  with pytest.raises(FileNotFoundError, match='final.safetensors'):
    read_llama_scope(folder)
