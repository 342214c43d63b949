"""Checkpoints from the hub: its cache on disk, and downloads by a stand-in."""

import pathlib
import re
import shutil
import sys
import types

import pytest
from safetensors.numpy import load_file

from gemma_jax.checkpoint.hf import CheckpointReader, load_checkpoint
from tests.gemma_jax.checkpoints import INDEX, assert_same, file_of


def hub_cache(saved, cache):
  """The checkpoint of four files, as the hub's cache holds it."""
  repo = cache / 'models--org--tiny'
  snapshot = repo / 'snapshots' / ('c0ffee' * 6)
  snapshot.mkdir(parents=True)
  (repo / 'blobs').mkdir()
  for i, path in enumerate(sorted((saved / 'four').iterdir())):
    shutil.copy(path, repo / 'blobs' / f'{i:064d}')
    (snapshot / path.name).symlink_to(f'../../blobs/{i:064d}')
  return snapshot


def test_links_of_the_hubs_cache_are_followed(model, saved, tmp_path):
  snapshot = hub_cache(saved, tmp_path)
  assert_same(model, load_checkpoint(snapshot))

  # Blobs that all models share are links themselves.
  link = sorted(snapshot.glob('*.safetensors'))[-1]
  blob = link.resolve()
  shared = tmp_path / 'blobs' / 'ab' / 'abcd'
  shared.parent.mkdir(parents=True)
  blob.rename(shared)
  blob.symlink_to('../../blobs/ab/abcd')
  assert_same(model, load_checkpoint(snapshot))


def test_other_links_from_the_hubs_cache_are_refused(saved, tmp_path):
  snapshot = hub_cache(saved, tmp_path)
  link = sorted(snapshot.glob('*.safetensors'))[-1]
  for away in (
    tmp_path / 'away.safetensors',
    tmp_path / 'models--org--tiny' / 'away.safetensors',
    tmp_path / 'models--org--other' / 'blobs' / '0',
  ):
    away.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(link.resolve(), away)
    link.unlink()
    link.symlink_to(away)
    with pytest.raises(ValueError, match=re.escape(str(away))):
      load_checkpoint(snapshot)
  # A folder whose name alone looks like one has no such right.
  (tmp_path / 'snapshots').mkdir()
  fake = tmp_path / 'snapshots' / 'x'
  shutil.copytree(saved / 'four', fake)
  path = sorted(fake.glob('*.safetensors'))[-1]
  (tmp_path / 'blobs').mkdir()
  path.rename(tmp_path / 'blobs' / 'x')
  path.symlink_to(tmp_path / 'blobs' / 'x')
  with pytest.raises(ValueError, match='outside'):
    load_checkpoint(fake)


class FakeHub(types.ModuleType):
  """Stands in for huggingface_hub: 'downloads' by linking into a snapshot."""

  def __init__(self, full, cache):
    super().__init__('huggingface_hub')
    self.full, self.cache, self.calls = full, cache, []

  def snapshot_download(self, repo_id, *, revision, allow_patterns):
    assert repo_id == 'org/tiny'
    self.calls.append((revision, sorted(allow_patterns)))
    snapshot = self.cache / self.full.name
    snapshot.mkdir(exist_ok=True)
    for name in allow_patterns:
      if (self.full / name).exists() and not (snapshot / name).exists():
        shutil.copy(self.full / name, snapshot / name)
    return str(snapshot)


@pytest.fixture
def hub(saved, tmp_path, monkeypatch):
  def install(files):
    full = tmp_path / 'hub' / 'c0ffee'
    shutil.copytree(saved / files, full)
    (full / 'tokenizer.json').write_text('{}')
    (tmp_path / 'cache').mkdir()
    fake = FakeHub(full, tmp_path / 'cache')
    monkeypatch.setitem(sys.modules, 'huggingface_hub', fake)
    return fake

  monkeypatch.chdir(tmp_path)
  return install


def test_a_hub_id_is_downloaded(model, hub):
  fake = hub('four')
  assert_same(model, load_checkpoint('org/tiny', revision='v2'))
  (first, small), (second, weights) = fake.calls
  assert first == 'v2' and {'config.json', INDEX} <= set(small)
  assert second == 'c0ffee', 'all files are of one commit'
  assert weights == [f'model-{i:05d}-of-00004.safetensors' for i in range(1, 5)]


def test_only_the_files_that_are_needed_are_downloaded(hub):
  fake = hub('four')
  reader = CheckpointReader('org/tiny', num_layers=1)
  wanted = {
    file_of(fake.full, key).name
    for path in fake.full.glob('*.safetensors')
    for key in load_file(path)
    if not re.search(r'layers\.[123]\.', key)
  }
  assert len(wanted) < 4
  assert {p.name for p in reader.folder.glob('*.safetensors')} == wanted
  assert (reader.folder / 'tokenizer.json').exists()


def test_a_hub_id_of_one_file(model, hub):
  fake = hub('one')
  assert_same(model, load_checkpoint('org/tiny'))
  assert ('c0ffee', ['model.safetensors']) in fake.calls


def test_the_hub_is_asked_for_hub_ids_alone(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)  # not installed
  (tmp_path / 'out').mkdir()
  for absent in ('out/tiny', '/no/where', './org/tiny', 'a/b/c', 'tiny'):
    with pytest.raises(FileNotFoundError, match='does not exist'):
      load_checkpoint(absent)
  with pytest.raises(FileNotFoundError, match='does not exist'):
    load_checkpoint(pathlib.Path('org/tiny'))
  remedy = r"org/tiny.*pip install 'knowledge-awareness-jax\[hub\]'"
  with pytest.raises(ImportError, match=remedy):
    load_checkpoint('org/tiny')
