"""Checkpoints that are refused.

Each case damages a checkpoint; the error names the file, the tensor, what was
got and what was expected, before any weight is read.
"""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from gemma_jax.checkpoint import hf as checkpoint_lib
from gemma_jax.checkpoint.hf import CheckpointReader, load_checkpoint
from tests.gemma_jax.checkpoints import (
  EMBED,
  INDEX,
  assert_same,
  edit_json,
  edit_tensors,
  file_of,
)


def drop_tensor(folder):
  key = 'model.layers.1.mlp.up_proj.weight'
  edit_tensors(file_of(folder, key), lambda t: t.pop(key))
  return ValueError, [file_of(folder, key).name, key, 'missing', '46 tensors']


def drop_tensor_that_the_index_names(folder):
  key = 'model.layers.1.mlp.up_proj.weight'
  edit_tensors(file_of(folder, key), lambda t: t.pop(key))
  return ValueError, [file_of(folder, key).name, key, 'missing', INDEX]


def drop_from_index(folder):
  key = 'model.layers.3.mlp.up_proj.weight'
  edit_json(folder / INDEX, lambda index: index['weight_map'].pop(key))
  return ValueError, [INDEX, key, 'missing', '46 tensors', 'there are 45']


def add_tensor(folder):
  key = 'model.layers.0.self_attn.q_norm.weight'
  path = file_of(folder, EMBED)
  edit_tensors(path, lambda t: t.update({key: np.zeros(6, np.float32)}))
  return ValueError, [path.name, key, 'unknown', '4 layers']


def add_layer(folder):
  key = 'model.layers.4.input_layernorm.weight'
  path = file_of(folder, EMBED)
  edit_tensors(path, lambda t: t.update({key: np.zeros(24, np.float32)}))
  return ValueError, [path.name, key, 'unknown', '4 layers']


def add_to_index(folder):
  key = 'model.layers.0.mlp.gate_proj.bias'
  name = file_of(folder, EMBED).name
  edit_json(folder / INDEX, lambda i: i['weight_map'].update({key: name}))
  return ValueError, [INDEX, key, 'unknown']


def wrong_shape(folder):
  key = 'model.layers.2.self_attn.o_proj.weight'
  path = file_of(folder, key)
  edit_tensors(path, lambda t: t.update({key: t[key].T.copy()[:, :20]}))
  edit_tensors(path, lambda t: t.update({key: t[key][:, :20].copy()}))
  return ValueError, [path.name, key, '[24, 20]', 'expected [24, 24]']


def wrong_vocabulary(folder):
  path = file_of(folder, EMBED)
  edit_tensors(path, lambda t: t.update({EMBED: t[EMBED][:60].copy()}))
  return ValueError, [path.name, EMBED, '[60, 24]', 'expected [64, 24]']


def transposed(folder):
  key = 'model.layers.0.mlp.down_proj.weight'
  path = file_of(folder, key)
  edit_tensors(path, lambda t: t.update({key: t[key].T.copy()}))
  return ValueError, [path.name, key, '[32, 24]', 'expected [24, 32]']


def wrong_dtype(dtype, name):
  def damage(folder):
    key = 'model.layers.2.self_attn.v_proj.weight'
    path = file_of(folder, key)
    edit_tensors(path, lambda t: t.update({key: t[key].astype(dtype)}))
    return ValueError, [path.name, key, f'dtype {name}', 'BF16, F16, F32']

  return damage


def mixed_dtypes(folder):
  path = file_of(folder, EMBED)
  edit_tensors(path, lambda t: t.update({EMBED: t[EMBED].astype('float16')}))
  return ValueError, [folder.name, 'F16', 'F32', EMBED, 'dtype=jnp.float32']


def cut(keep):
  def damage(folder):
    path = file_of(folder, 'model.layers.3.mlp.up_proj.weight')
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    size = str(path.stat().st_size)
    return ValueError, [path.name, 'truncated', size, 'Download']

  return damage


def cut_last_byte(folder):
  path = file_of(folder, 'model.layers.3.mlp.up_proj.weight')
  path.write_bytes(path.read_bytes()[:-1])
  return ValueError, [path.name, 'truncated']


def trailing_bytes(folder):
  path = file_of(folder, EMBED)
  path.write_bytes(path.read_bytes() + b'more')
  return ValueError, [path.name, 'safetensors']


def git_lfs_pointer(folder):
  path = file_of(folder, EMBED)
  path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\n')
  return ValueError, [path.name, 'not a safetensors file']


def point_index_to(target, make=lambda folder: None, expected='bare name'):
  def damage(folder):
    make(folder)
    aim = target(folder) if callable(target) else target
    key = 'model.layers.3.mlp.up_proj.weight'
    edit_json(folder / INDEX, lambda i: i['weight_map'].update({key: aim}))
    error = FileNotFoundError if expected == 'does not exist' else ValueError
    shown = aim if aim.isprintable() and '\\' not in aim else repr(aim)
    return error, [INDEX, shown, expected]

  return damage


def copy_outside(folder):
  key = 'model.layers.3.mlp.up_proj.weight'
  shutil.copy(file_of(folder, key), folder.parent / 'x.safetensors')


def link_outside(folder):
  key = 'model.layers.3.mlp.up_proj.weight'
  path, away = file_of(folder, key), folder.parent / 'away.safetensors'
  path.rename(away)
  path.symlink_to(away)
  return ValueError, [path.name, str(away), 'outside', str(folder)]


def link_file_of_one_outside(folder):
  path, away = folder / 'model.safetensors', folder.parent / 'away.safetensors'
  path.rename(away)
  path.symlink_to(away)
  return ValueError, [path.name, str(away), 'outside', str(folder)]


def dangling_link(folder):
  path = file_of(folder, 'model.layers.3.mlp.up_proj.weight')
  path.unlink()
  path.symlink_to('nowhere')
  return FileNotFoundError, [path.name, 'does not exist', INDEX]


def delete_file(folder):
  path = file_of(folder, 'model.layers.3.mlp.up_proj.weight')
  path.unlink()
  return FileNotFoundError, [path.name, 'does not exist', INDEX]


def bad_index(content, words='weight_map'):
  def damage(folder):
    (folder / INDEX).write_text(content)
    return ValueError, [INDEX, words]

  return damage


def many_layers(folder):
  """Said before anything is made that is as long."""
  edit_json(
    folder / 'config.json', lambda c: c.update({'num_hidden_layers': 10**9})
  )
  return ValueError, ['config.json', 'num_hidden_layers=1000000000', '10000']


def no_config(folder):
  (folder / 'config.json').unlink()
  return FileNotFoundError, ['config.json', 'does not exist']


def other_model(folder):
  change = {'model_type': 'mamba', 'architectures': ['MambaForCausalLM']}
  edit_json(folder / 'config.json', lambda c: c.update(change))
  return ValueError, ['config.json', "'mamba'", 'not supported', 'gemma2']


def config_of_another_family(folder):
  """Gemma 1's, over weights of Gemma 2: it has no such norm."""

  def change(c):
    for field in ('attn_logit_softcapping', 'final_logit_softcapping'):
      del c[field]
    for field in ('query_pre_attn_scalar', 'sliding_window', 'layer_types'):
      del c[field]
    c['model_type'] = 'gemma'

  edit_json(folder / 'config.json', change)
  return ValueError, ['feedforward_layernorm.weight', 'unknown', 'Gemma 1']


def adapter(folder):
  (folder / 'adapter_config.json').write_text('{"peft_type": "LORA"}')
  return ValueError, ['adapter_config.json', 'Merge it', 'merge_and_unload']


def adapter_alone(folder):
  for path in folder.iterdir():
    path.unlink()
  return adapter(folder)


def other_prefix(folder):
  path = file_of(folder, EMBED)
  edit_tensors(path, lambda t: t.update(embed=t.pop(EMBED)))
  return ValueError, [EMBED, 'missing', '46 tensors', 'Gemma 2']


def deeper_config(folder):
  change = {'num_hidden_layers': 5, 'layer_types': None}
  edit_json(folder / 'config.json', lambda c: c.update(change))
  return ValueError, ['model.layers.4.', 'missing', '57 tensors', '46']


def pickled(folder):
  (folder / 'model.safetensors').unlink()
  (folder / 'pytorch_model.bin').write_bytes(b'\x80\x02')
  return FileNotFoundError, ['neither', 'pytorch_model.bin', 'pickled']


def other_head_shape(folder):
  path = file_of(folder, EMBED)
  head = np.zeros((63, 24), np.float32)
  edit_tensors(path, lambda t: t.update({'lm_head.weight': head}))
  return ValueError, ['lm_head.weight', '[63, 24]', 'expected [64, 24]']


def absolute_target(folder):
  return str(folder.parent / 'x.safetensors')


REFUSED = {
  'one': [
    drop_tensor,
    add_tensor,
    add_layer,
    wrong_shape,
    wrong_vocabulary,
    transposed,
    wrong_dtype(np.float64, 'F64'),
    wrong_dtype(np.int8, 'I8'),
    mixed_dtypes,
    cut(0.9),
    cut(0.01),
    cut(0),
    cut_last_byte,
    trailing_bytes,
    git_lfs_pointer,
    link_file_of_one_outside,
    no_config,
    other_model,
    config_of_another_family,
    other_prefix,
    adapter,
    adapter_alone,
    deeper_config,
    many_layers,
    pickled,
    other_head_shape,
  ],
  'four': [
    drop_tensor_that_the_index_names,
    drop_from_index,
    add_tensor,
    add_to_index,
    wrong_shape,
    wrong_dtype(np.float64, 'F64'),
    mixed_dtypes,
    cut(0.5),
    delete_file,
    dangling_link,
    link_outside,
    point_index_to('gone.safetensors', expected='does not exist'),
    point_index_to('../x.safetensors', copy_outside),
    point_index_to(absolute_target, copy_outside),
    point_index_to('sub/x.safetensors'),
    point_index_to('sub\\x.safetensors'),
    point_index_to('..'),
    point_index_to('.'),
    bad_index('{"weight_map": ', 'not JSON'),
    bad_index('', 'empty'),
    bad_index('[]', 'JSON object'),
    bad_index('null', 'JSON object'),
    bad_index('{"weight_map": ' + '[' * 10**5 + ']' * 10**5, 'nested too deep'),
    bad_index('{"weight_map": {"a": "b", "a": "c"}}', "'a' is given twice"),
    bad_index('{}'),
    bad_index('{"weight_map": null}'),
    bad_index('{"weight_map": {}}'),
    bad_index('{"weight_map": ["model.safetensors"]}'),
    bad_index('{"weight_map": {"a": null}}', 'None as the file of a'),
    bad_index('{"weight_map": {"a": 3}}', '3 as the file of a'),
    bad_index('{"weight_map": {"a": ["b"]}}', "['b'] as the file of a"),
    bad_index('{"weight_map": {"a": "b\\u0000"}}', 'bare name'),
    bad_index('{"weight_map": {"a": ""}}', 'bare name'),
  ],
}


@pytest.mark.parametrize(
  'files, damage',
  [
    pytest.param(files, damage, id=f'{files}-{i}-{damage.__qualname__}')
    for files, damages in REFUSED.items()
    for i, damage in enumerate(damages)
  ],
)
def test_what_headers_show_is_refused_before_weights_are_read(
  files, damage, request
):
  folder = request.getfixturevalue(files)
  kind, said = damage(folder)
  with pytest.raises(kind) as error:
    CheckpointReader(folder)
  for part in said:
    assert part in str(error.value)


def test_mixed_dtypes_load_when_one_is_asked_for(model, one):
  mixed_dtypes(one)
  loaded = load_checkpoint(one, dtype=jnp.float32)
  embed = np.asarray(model.weights()['embed']).astype(np.float16)
  np.testing.assert_array_equal(loaded.weights()['embed'], embed)


def test_an_unembedding_is_accepted_if_it_is_the_embedding(
  model, one, monkeypatch
):
  # Compared in pieces, the last of which is smaller.
  monkeypatch.setattr(checkpoint_lib, '_PIECE_BYTES', 24 * 4 * 10)
  path = one / 'model.safetensors'
  edit_tensors(path, lambda t: t.update({'lm_head.weight': t[EMBED].copy()}))
  assert_same(model, load_checkpoint(one))

  edit_tensors(path, lambda t: t['lm_head.weight'].__setitem__((63, 23), 9))
  with pytest.raises(ValueError, match='lm_head.weight differs.*a copy of it'):
    load_checkpoint(one)


def test_arguments_that_make_no_sense_are_refused(saved, tmp_path):
  one = saved / 'one'
  for n in (0, 5):
    with pytest.raises(ValueError, match=f'num_layers={n}.*4'):
      load_checkpoint(one, num_layers=n)
  for dtype in (jnp.int8, 'float64', 'fp8'):
    with pytest.raises(ValueError, match='bfloat16, float16 or float32, got'):
      load_checkpoint(one, dtype=dtype)
  with pytest.raises(FileNotFoundError, match='absent does not exist'):
    load_checkpoint(tmp_path / 'absent')
  with pytest.raises(NotADirectoryError, match='pass its folder'):
    load_checkpoint(one / 'model.safetensors')
  with pytest.raises(ValueError, match="revision='main'"):
    load_checkpoint(one, revision='main')
