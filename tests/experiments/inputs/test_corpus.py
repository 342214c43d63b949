"""Models and tokenizers are told apart by what is in their files."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments.inputs import corpus
import gemma_jax as gj
from tests.experiments import worlds


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  return worlds.save(tmp_path_factory.mktemp('models') / 'model')


@pytest.fixture
def folder(saved, tmp_path):
  return shutil.copytree(saved, tmp_path / 'model')


def identity(folder, **options):
  return corpus.model_identity(gj.CheckpointReader(folder, **options))


def test_every_number_of_every_tensor_counts(folder):
  """The last one of each, changed in place, with the times put back."""
  file = folder / 'model.safetensors'
  told, tensors = file.stat(), load_file(file)
  before = identity(folder)
  found = {before['fingerprint']}
  for name, array in tensors.items():
    changed = array.copy()
    changed.reshape(-1)[-1] += 1
    save_file(tensors | {name: changed}, file)
    os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns))
    after = identity(folder)
    assert after['files'] != before['files']
    found.add(after['fingerprint'])
  assert len(found) == 1 + len(tensors)


def test_heads_cut_out_in_place(folder):
  """Of their matrices the first rows stay: those of head 0."""
  file = folder / 'model.safetensors'
  before, tensors = identity(folder), load_file(file)
  H = gj.CheckpointReader(folder).config.head_dim
  for name, array in tensors.items():
    if name.endswith('o_proj.weight'):
      array = array.copy()
      array[:, H:] = 0
      tensors[name] = array
  save_file(tensors, file)
  assert identity(folder)['fingerprint'] != before['fingerprint']


def test_configuration_and_dtype_count(folder):
  before = identity(folder)
  found = {before['fingerprint']}
  found.add(identity(folder, dtype='bfloat16')['fingerprint'])
  config = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(
    json.dumps(config | {'rms_norm_eps': 1e-3})
  )
  found.add(identity(folder)['fingerprint'])
  assert len(found) == 3
  # What a file says of no consequence does not.
  (folder / 'config.json').write_text(json.dumps(config, indent=7))
  assert identity(folder) == before


def test_models_can_be_moved(folder, tmp_path):
  before = identity(folder)
  shutil.move(folder, tmp_path / 'moved')
  after = identity(tmp_path / 'moved')
  assert after == before | {'folder': str(tmp_path / 'moved')}
  assert list(before['files']) == ['model.safetensors']


@pytest.mark.parametrize('name', ['tokenizer.json', 'tokenizer_config.json'])
def test_the_tokenizer_counts(folder, name):
  before = identity(folder)
  with open(folder / name, 'a') as file:
    file.write(' ')
  after = identity(folder)
  assert after['tokenizer'] != before['tokenizer']
  assert after['fingerprint'] == before['fingerprint']


def test_a_chat_template_of_its_own_counts(folder):
  before = identity(folder)
  (folder / 'chat_template.jinja').write_text('{{ bos_token }}')
  assert identity(folder)['tokenizer'] != before['tokenizer']


def test_models_without_a_tokenizer(folder):
  for file in folder.glob('*token*'):
    file.unlink()
  assert identity(folder)['tokenizer'] is None


def test_tensors_in_other_files(folder, tmp_path):
  """Every file is named; one that weights are not read from is not."""
  model = gj.load_checkpoint(folder)
  gj.save_checkpoint(model, tmp_path / 'parts', max_shard_bytes=40_000)
  parts = sorted(x.name for x in (tmp_path / 'parts').glob('*.safetensors'))
  assert len(parts) > 1 and list(identity(tmp_path / 'parts')['files']) == parts
  few = identity(tmp_path / 'parts', num_layers=1)
  assert set(few['files']) < set(parts)
  save_file({'x': np.zeros(1)}, folder / 'other.safetensors')
  assert list(identity(folder)['files']) == ['model.safetensors']
