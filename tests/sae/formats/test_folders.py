"""JSON read strictly, links that leave a folder, and a disk that is full."""

import resource

import jax.numpy as jnp
import numpy as np
import pytest

from sae.formats import folders
from sae.formats.gemma_scope import save_gemma_scope
from sae.formats.sae_lens import save_sae_lens
from sae.jumprelu import JumpReLUSAE, Origin, Weights

BAD = {
  '': 'is empty',
  ' \n': 'is empty',
  '{"a": 1': 'is not JSON',
  '{"a": {"b": 2, "b": 3}}': 'a key is given twice, of b, b',
  '{"a": NaN}': 'NaN is not a finite number',
  '{"a": [-Infinity]}': '-Infinity is not a finite number',
  '{"a": 1e999}': '1e999 is not a finite number',
  '{"a": ' + '9' * 5000 + '}': 'is not JSON',
  '[' * 100_000: 'nested too deep',
  '{"a":' * 100_000: 'nested too deep',
  '[1]': 'holds a list, expected a JSON object',
  'null': 'holds a NoneType',
}


@pytest.mark.parametrize('text', BAD, ids=lambda text: text[:20] or 'empty')
def test_errors_of_json_name_the_file(tmp_path, text):
  path = tmp_path / 'a.json'
  path.write_text(text)
  with pytest.raises(ValueError, match=f'{path}.*Fetch it.') as error:
    folders.read_json(path, remedy='Fetch it.')
  assert BAD[text] in str(error.value)


def test_json_is_utf8(tmp_path):
  (tmp_path / 'a.json').write_bytes(b'{"a": "\xff"}')
  with pytest.raises(ValueError, match=r'a\.json is not JSON: .utf-8'):
    folders.read_json(tmp_path / 'a.json')
  (tmp_path / 'a.json').write_bytes('{"a": "é"}'.encode())
  assert folders.read_json(tmp_path / 'a.json') == {'a': 'é'}


def test_links_may_not_leave_a_folder(tmp_path):
  folder, outside = tmp_path / 'sae', tmp_path / 'outside'
  (folder / 'inner').mkdir(parents=True)
  outside.mkdir()
  (outside / 'x').write_text('')
  (folder / 'here').write_text('')
  (folder / 'near').symlink_to(folder / 'here')
  (folder / 'far').symlink_to(outside / 'x')
  (folder / 'all').symlink_to(outside)
  for name in ('here', 'near', 'inner/absent'):
    assert folders.inside(folder, name) == folder / name
  for name in ('far', 'all/x', '../outside/x'):
    with pytest.raises(ValueError, match='is a link to .*outside.*copy them'):
      folders.inside(folder, name)
  # The folder itself may be a link.
  (tmp_path / 'link').symlink_to(folder)
  assert folders.inside(tmp_path / 'link', 'near').exists()


@pytest.mark.parametrize('blobs', ['models--a--b/blobs', 'blobs'])
def test_links_of_the_hubs_cache(tmp_path, blobs):
  folder = tmp_path / 'models--a--b/snapshots/c0ffee/layer_0/width_16k'
  folder.mkdir(parents=True)
  (tmp_path / blobs).mkdir()
  (tmp_path / blobs / 'abc').write_text('')
  (folder / 'params.npz').symlink_to(tmp_path / blobs / 'abc')
  assert folders.inside(folder, 'params.npz').is_file()
  # Another repository's are not of it.
  other = tmp_path / 'models--c--d/blobs'
  other.mkdir(parents=True)
  (other / 'abc').write_text('')
  (folder / 'cfg.json').symlink_to(other / 'abc')
  with pytest.raises(ValueError, match=r'cfg\.json is a link to'):
    folders.inside(folder, 'cfg.json')


@pytest.fixture
def full_disk():
  """No file may grow beyond 2,000 bytes, which fails as a full disk does."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
  'save',
  [
    lambda sae, path: save_sae_lens(sae, path),
    lambda sae, path: save_gemma_scope(sae, path, l0=3, normalise=True),
  ],
)
def test_a_full_disk_leaves_nothing(tmp_path, full_disk, save):
  shapes = ((8, 64), (64, 8), 64, 8, 64)
  weights = Weights(*(jnp.asarray(np.ones(n, np.float32)) for n in shapes))
  sae = JumpReLUSAE(weights, Origin(site='z', layer=1))
  with pytest.raises(
    OSError, match='could not be written.*Make space'
  ) as error:
    save(sae, tmp_path / 'sae')
  assert str(tmp_path / 'sae') in str(error.value)
  assert not [path for path in tmp_path.rglob('*') if path.is_file()]


def test_other_errors_of_files_are_not_those_of_the_disk(tmp_path):
  with pytest.raises(FileNotFoundError, match='no text file'):
    with folders.new_folder(tmp_path / 'a'):
      raise FileNotFoundError('There is no text file x.')
  with pytest.raises(FileNotFoundError, match='absent'):
    with folders.new_folder(tmp_path / 'a') as partial:
      np.load(partial / 'absent.npy')
