"""Names of sites, in every tool's spelling."""

import pytest

import gemma_jax as gj


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
    ('model.layers.9.mlp.output', 'mlp_out_raw', 9),
    ('hidden_states[13]', 'resid_pre', 13),
  ],
)
def test_spellings(name, site, layer):
  assert gj.parse_site(name) == (site, layer)


@pytest.mark.parametrize(
  'name, words',
  [
    ('attn_out.5', 'attn_out or attn_out_raw'),
    ('mlp_out.5', 'mlp_out or mlp_out_raw'),
    ('blocks.5.attn.hook_out', 'resid_mid or attn_out_raw'),
    ('resid', "'resid'"),
    ('blocks.5.hook_resid', 'blocks.5.hook_resid'),
  ],
)
def test_refused_names(name, words):
  with pytest.raises(KeyError, match=words):
    gj.parse_site(name)


def test_capture_reads_names_with_layers():
  ask = gj.capture('blocks.5.hook_resid_post')
  assert ask.sites == ('resid_post',) and ask.layers.tolist() == [5]
  ask = gj.capture('blocks.5.attn.hook_z', 'blocks.5.hook_mlp_out')
  assert ask.sites == ('z', 'mlp_out') and ask.layers.tolist() == [5]
  with pytest.raises(ValueError, match='different layers'):
    gj.capture('blocks.5.attn.hook_z', 'blocks.6.hook_mlp_out')
  with pytest.raises(ValueError, match='bare sites'):
    gj.capture('blocks.5.attn.hook_z', 'mlp_out')
  with pytest.raises(ValueError, match='repeated'):
    gj.capture('z', layers=[1, 1])


def test_widths():
  config = gj.ModelConfig.gemma2_27b()
  assert gj.site_width(config, 'z') == 32 * 128
  assert gj.site_width(config, 'mlp_act') == 36864
  assert gj.site_width(config, 'resid_mid') == 4608
  with pytest.raises(KeyError, match='pattern'):
    gj.site_width(config, 'pattern')
