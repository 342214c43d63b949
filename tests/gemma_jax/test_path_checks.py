"""Files beside weights: links that lead away, and adapters."""

import logging
import os

import pytest

import gemma_jax as gj
from gemma_jax.checkpoint.hf_format import read_companions
from gemma_jax.path_checks import check_inside, files_inside
from gemma_jax.text.tokenizer import FILES
from tests.gemma_jax.text import tiny_tokenizer

LINKED = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'additional_chat_templates/tool_use.jinja',
]


@pytest.fixture(name='folder')
def _folder(tmp_path):
  folder = tiny_tokenizer.save(tmp_path / 'model')
  (folder / 'additional_chat_templates').mkdir()
  return folder


def _link(path, target):
  path.unlink(missing_ok=True)
  path.symlink_to(target)


@pytest.mark.parametrize('name', LINKED)
def test_a_tokenizer_does_not_read_outside_its_folder(folder, name):
  away = folder.parent / 'away'
  away.write_text('{}')
  _link(folder / name, os.path.relpath(away, (folder / name).parent))
  with pytest.raises(ValueError, match=f'{name} is a link to {away}'):
    gj.Tokenizer.from_pretrained(folder)


@pytest.mark.parametrize('name', LINKED)
def test_links_to_nothing_and_folders_are_refused(folder, name):
  _link(folder / name, 'nothing')
  with pytest.raises(ValueError, match=f'{name} is not a file, or is a link'):
    gj.Tokenizer.from_pretrained(folder)
  (folder / name).unlink()
  (folder / name).mkdir()
  with pytest.raises(ValueError, match=f'{name} is not a file'):
    gj.Tokenizer.from_pretrained(folder)


def test_a_folder_of_templates_may_not_be_elsewhere(folder):
  (folder / 'additional_chat_templates').rmdir()
  away = folder.parent / 'templates'
  away.mkdir()
  (away / 'tool_use.jinja').write_text('x')
  _link(folder / 'additional_chat_templates', away)
  with pytest.raises(ValueError, match='outside'):
    gj.Tokenizer.from_pretrained(folder)


def test_companions_do_not_leave_their_folder(folder):
  (folder / 'generation_config.json').write_text('{}')
  assert set(read_companions(folder)) == {
    *('tokenizer.json', 'tokenizer_config.json', 'generation_config.json')
  }
  (folder / 'generation_config.json').rename(folder.parent / 'away')
  _link(folder / 'generation_config.json', '../away')
  with pytest.raises(ValueError, match='generation_config.json is a link'):
    read_companions(folder)


def test_links_within_a_folder_and_of_the_hubs_cache_are_followed(tmp_path):
  folder = tiny_tokenizer.save(tmp_path / 'model')
  (folder / 'tokenizer.json').rename(folder / 'other.json')
  _link(folder / 'tokenizer.json', 'other.json')
  want = gj.Tokenizer.from_pretrained(folder).encode('art')
  (tmp_path / 'linked').symlink_to(folder)  # the folder itself may be a link
  assert gj.Tokenizer.from_pretrained(tmp_path / 'linked').encode('art') == want

  repo = tmp_path / 'models--org--tiny'
  snapshot = repo / 'snapshots' / 'c0ffee'
  snapshot.mkdir(parents=True)
  (repo / 'blobs').mkdir()
  for i, path in enumerate(sorted(folder.iterdir())):
    (repo / 'blobs' / str(i)).write_bytes(path.read_bytes())
    (snapshot / path.name).symlink_to(f'../../blobs/{i}')
  assert gj.Tokenizer.from_pretrained(snapshot).encode('art') == want
  assert set(read_companions(snapshot)) == set(read_companions(folder))
  check_inside(snapshot / 'tokenizer.json', snapshot)
  _link(snapshot / 'tokenizer.json', '../../../model/other.json')
  with pytest.raises(ValueError, match='outside'):
    gj.Tokenizer.from_pretrained(snapshot)


def test_what_is_absent_is_left_out(tmp_path):
  assert files_inside(tmp_path, FILES) == {}


# A model whose tokenizer cannot be read is not one without a tokenizer.


def test_a_model_with_a_tokenizer_that_is_a_link_is_refused(one):
  gj.load_model(one)
  (one / 'tokenizer.json').symlink_to('nothing')
  with pytest.raises(ValueError, match='tokenizer.json is not a file'):
    gj.load_model(one)


# Adapters.


@pytest.mark.parametrize(
  'name',
  [
    'adapter_config.json',
    'adapter_model.safetensors',
    'adapter_model.bin',
    'adapter_model-00001-of-00002.safetensors',
  ],
)
def test_a_model_with_an_adapter_is_refused(one, name, caplog):
  (one / name).write_bytes(b'{}')
  for load in (gj.load_model, gj.load_checkpoint, gj.CheckpointReader):
    with pytest.raises(ValueError, match=f'{name}.*merge_and_unload'):
      load(one)
  with caplog.at_level(logging.WARNING, 'gemma_jax'):
    gj.Tokenizer.from_pretrained(tiny_tokenizer.save(one))
  assert f'{one / name}: this folder has an adapter' in caplog.text


def test_an_adapter_in_a_folder_below_is_named(one, caplog):
  (one / 'lora').mkdir()
  (one / 'lora' / 'adapter_config.json').write_text('{}')
  with caplog.at_level(logging.WARNING, 'gemma_jax'):
    gj.CheckpointReader(one)
  assert f'{one / "lora" / "adapter_config.json"} is left out' in caplog.text


def test_an_adapter_beside_orbax_weights_is_refused(model, tmp_path):
  gj.save_orbax(model, tmp_path / 'orbax')
  (tmp_path / 'orbax' / 'adapter_config.json').write_text('{}')
  with pytest.raises(ValueError, match=r'adapter_config\.json.*has an adapter'):
    gj.load_orbax(tmp_path / 'orbax')
