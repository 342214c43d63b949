"""Names of sites, in every tool's spelling and every family's modules."""

import numpy as np
import pytest

import gemma_jax as gj
from tests import tiny


@pytest.mark.parametrize(
  'name, site, layer',
  [
    ('resid_post', 'resid_post', None),
    ('blocks.5.hook_resid_pre', 'resid_pre', 5),
    ('blocks.12.attn.hook_z', 'z', 12),
    ('blocks.0.hook_mlp_out', 'mlp_out', 0),
    ('blocks.3.mlp.hook_post', 'mlp_act', 3),
    ('blocks.3.ln1_post.hook_out', 'attn_out', 3),
    ('blocks.3.ln2.hook_in', 'resid_mid', 3),
    ('blocks.7.attn.hook_pattern', 'pattern', 7),
    ('hook_resid_post', 'resid_post', None),
    ('hook_z', 'z', None),
    ('hook_pattern', 'pattern', None),
    ('resid_post.25', 'resid_post', 25),
    ('attn_out_post.4', 'attn_out', 4),
    ('model.layers_output[6]', 'resid_post', 6),
    ('model.layers.9.self_attn.o_proj.input', 'z', 9),
    ('model.layers.9.mlp.down_proj.input', 'mlp_act', 9),
    ('model.layers.9.output', 'resid_post', 9),
    ('transformer.h.9.attn.c_proj.input', 'z', 9),
    ('transformer.h.9.ln_2.input', 'resid_mid', 9),
    ('transformer.h.9.mlp.output', 'mlp_out', 9),
    ('model.decoder.layers.9.fc2.input', 'mlp_act', 9),
    ('model.decoder.layers.9.self_attn.output', 'attn_out', 9),
    ('hidden_states[13]', 'resid_pre', 13),
  ],
)
def test_spellings_of_one_meaning(name, site, layer):
  assert gj.parse_site(name) == (site, layer)


@pytest.mark.parametrize('family', tiny.FAMILIES)
def test_every_familys_modules(family):
  """A module is the last site that HF has there: what is added, not raw."""
  config = tiny.pair(family=family)[1].config
  tables = gj.FAMILIES[family]
  meant = {module: site for site, module in tables.modules.items()}
  order = list(gj.VECTOR_SITES)
  assert set(tables.modules) == set(order)
  for module in meant:
    sites = [s for s in order if tables.modules[s] == module]
    name = f'{tables.layers}.3.{module}'
    assert gj.parse_site(name, config) == (sites[-1], 3)


@pytest.mark.parametrize(
  'module, sites',
  [
    (
      'self_attn.output',
      {'gemma2': 'attn_out_raw', 'gemma3_text': 'attn_out_raw'}
      | {'llama': 'attn_out', 'gemma': 'attn_out', 'qwen3': 'attn_out'},
    ),
    (
      'mlp.output',
      {'gemma2': 'mlp_out_raw', 'llama': 'mlp_out', 'mistral': 'mlp_out'},
    ),
    (
      'post_attention_layernorm.output',
      {'gemma2': 'attn_out', 'gemma3_text': 'attn_out'},
    ),
    (
      'post_attention_layernorm.input',
      {'llama': 'resid_mid', 'gemma': 'resid_mid', 'qwen2': 'resid_mid'},
    ),
  ],
)
def test_a_module_is_another_site_in_another_family(module, sites):
  name = f'model.layers.2.{module}'
  for family, site in sites.items():
    config = tiny.pair(family=family)[1].config
    assert gj.parse_site(name, config) == (site, 2)


@pytest.mark.parametrize('family', ['gemma', 'llama', 'mistral', 'qwen2'])
def test_a_norm_that_is_no_site_is_refused_with_the_reason(family):
  model = tiny.pair(family=family)[1]
  name = 'model.layers.2.post_attention_layernorm.output'
  words = 'normed input of the MLP, which is no site'
  with pytest.raises(KeyError, match=words):
    gj.parse_site(name, model.config)
  # Without a config it may be Gemma 2's: it is refused when it is run.
  for ask in (
    {'capture': gj.capture(name)},
    {'interventions': [gj.steer(name, np.ones(40))]},
  ):
    with pytest.raises(KeyError, match=words):
      gj.run(model, [[3, 4]], **ask)


@pytest.mark.parametrize('family', ['gemma2', 'llama'])
def test_names_of_several_meanings_work_when_they_are_run(family):
  """As the site that they are in the model's family; HF is in hf_hooks."""
  model = tiny.pair(family=family)[1]
  site = {'gemma2': 'attn_out_raw', 'llama': 'attn_out'}[family]
  name = 'model.layers.3.self_attn.output'
  tokens = np.arange(3, 11)[None]
  v = np.random.default_rng(0).standard_normal(40)
  clean = gj.run(model, tokens, capture=gj.capture(site, layers=3))
  named = gj.run(model, tokens, capture=gj.capture(name))
  np.testing.assert_array_equal(named[site, 3], clean[site, 3])
  np.testing.assert_array_equal(named[name], clean[site, 3])
  for changes in (
    [gj.steer(name, v), gj.steer(site, v, layers=3)],
    [gj.patch(name, 0.0), gj.patch(site, 0.0, layers=3)],
    [gj.patch(name, named), gj.patch(site, clean, layers=3)],
    [gj.ablate_direction(name, v), gj.ablate_direction(site, v, layers=3)],
  ):
    a, b = (
      gj.run(model, tokens, interventions=[change], logits_at='last').logits
      for change in changes
    )
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  'name, words',
  [
    ('attn_out.5', 'attn_out or attn_out_raw'),
    ('mlp_out.5', 'mlp_out or mlp_out_raw'),
    ('blocks.5.attn.hook_out', 'resid_mid or attn_out_raw'),
    ('resid', "'resid'"),
    ('blocks.5.hook_resid', 'blocks.5.hook_resid'),
    ('model.layers.5.input_layernorm.output', 'Unknown site'),
    ('transformer.h.5.ln_1.output', 'Unknown site'),
  ],
)
def test_refused_names(name, words):
  with pytest.raises(KeyError, match=words):
    gj.parse_site(name)


def test_modules_of_another_family_are_refused():
  config = tiny.pair(family='gpt2')[1].config
  with pytest.raises(KeyError, match='Unknown site'):
    gj.parse_site('model.layers.5.output', config)


def test_capture_reads_names_with_layers():
  ask = gj.capture('blocks.5.hook_resid_post')
  assert ask.sites == ('resid_post',) and ask.layers.tolist() == [5]
  ask = gj.capture('blocks.5.attn.hook_z', 'blocks.5.hook_mlp_out')
  assert ask.sites == ('z', 'mlp_out') and ask.layers.tolist() == [5]
  ask = gj.capture('blocks.5.attn.hook_z', 'blocks.2.attn.hook_z')
  assert ask.sites == ('z',) and ask.layers.tolist() == [2, 5]
  with pytest.raises(ValueError, match='different layers'):
    gj.capture('blocks.5.attn.hook_z', 'blocks.6.hook_mlp_out')
  with pytest.raises(ValueError, match='bare sites'):
    gj.capture('blocks.5.attn.hook_z', 'mlp_out')
  with pytest.raises(ValueError, match='repeated'):
    gj.capture('z', layers=[1, 1])


def test_widths():
  config = gj.preset('gemma-2-27b')
  assert gj.site_width(config, 'z') == 32 * 128
  assert gj.site_width(config, 'mlp_act') == 36864
  assert gj.site_width(config, 'resid_mid') == 4608
  with pytest.raises(KeyError, match='pattern'):
    gj.site_width(config, 'pattern')
