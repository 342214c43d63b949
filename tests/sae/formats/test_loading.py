"""load_sae: names, folders of every format, the hub's cache and meshes."""

import json
import pathlib
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from sae.formats.gemma_scope import save_gemma_scope
from sae.formats.loading import load_sae
from sae.formats.sae_lens import save_sae_lens
from sae.jumprelu import WEIGHTS, JumpReLUSAE, Origin, Weights

D, F = 6, 16
ORIGIN = Origin(model='google/gemma-2-2b', site='resid_post', layer=2)
ATT = 'layer_3/width_4/average_l0_83'


def random_weights(width=F, d_in=D, seed=0):
  rng = np.random.default_rng(seed)
  arrays = {
    'W_enc': rng.normal(size=(d_in, width)),
    'W_dec': rng.normal(size=(width, d_in)),
    'b_enc': rng.normal(size=width),
    'b_dec': rng.normal(size=d_in),
    'threshold': rng.uniform(0.1, 2, size=width),
  }
  arrays['W_dec'] /= np.linalg.norm(arrays['W_dec'], axis=1, keepdims=True)
  return Weights(**{k: v.astype(np.float32) for k, v in arrays.items()})


def random_sae(origin=ORIGIN, **sizes):
  return JumpReLUSAE(
    Weights(*map(jnp.asarray, random_weights(**sizes))), origin
  )


def write_params(folder, weights=None):
  folder.mkdir(parents=True, exist_ok=True)
  weights = random_weights() if weights is None else weights
  np.savez(folder / 'params.npz', **weights._asdict())
  return folder


def assert_same(sae, weights):
  for name in WEIGHTS:
    ours = np.asarray(getattr(sae, name)[...])
    np.testing.assert_array_equal(ours, getattr(weights, name), name)


@pytest.fixture
def att(tmp_path):
  """A mirror of Gemma Scope with two SAEs of four latents, of true width."""
  root = tmp_path / 'gemma-scope-2b-pt-att'
  write_params(root / ATT, random_weights(4, 2048))
  write_params(
    root / 'layer_3/width_4/average_l0_7', random_weights(4, 2048, seed=1)
  )
  return root


def test_a_site_by_the_name_of_a_hook(tmp_path):
  write_params(tmp_path / 'mine', random_weights(4, 8))
  sae = load_sae(tmp_path / 'mine', site='blocks.3.hook_resid_post')
  assert (sae.origin.site, sae.origin.layer) == ('resid_post', 3)
  sae = load_sae(tmp_path / 'mine', site='hook_z', layer=2)
  assert (sae.origin.site, sae.origin.layer) == ('z', 2)


def test_a_mirror_of_a_release(att):
  sae = load_sae(att, ATT)
  assert_same(sae, random_weights(4, 2048))
  assert sae.origin == Origin(
    model='google/gemma-2-2b',
    site='z',
    layer=3,
    release='gemma-scope-2b-pt-att',
    sae_id=ATT,
    l0=83.0,
  )
  # The folder of one SAE, and the file in it, say the same.
  assert load_sae(str(att / ATT)).origin == sae.origin
  assert load_sae(att / ATT / 'params.npz').origin == sae.origin
  sae.check_reads('z', 3)


def test_a_folder_here_wins_over_a_release_of_that_name(att, monkeypatch):
  monkeypatch.chdir(att.parent)
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  sae = load_sae('gemma-scope-2b-pt-att', 'layer_3/width_4/average_l0_7')
  assert sae.origin.l0 == 7


def test_canonical_comes_from_the_name_of_the_mirror(tmp_path):
  canonical = 'layer_3/width_16k/average_l0_117'
  for name in (
    'gemma-scope-2b-pt-att',
    'gemma-scope-2b-pt-att-canonical',
    'models--google--gemma-scope-2b-pt-att/snapshots/c0ffee',
  ):
    (tmp_path / name / canonical).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=f'{canonical} is a folder wit'):
      load_sae(tmp_path / name, 'layer_3/width_16k/canonical')
  other = tmp_path / 'mine'
  (other / canonical).mkdir(parents=True)
  with pytest.raises(KeyError, match='mine has no folder layer_3/.*canonical'):
    load_sae(other, 'layer_3/width_16k/canonical')


def test_what_is_not_in_the_mirror(att):
  for sae_id, says in (
    (
      'layer_3/width_4/average_l0_82',
      'no average_l0_82. It has layer_3/width_4/average_l0_7, '
      'layer_3/width_4/average_l0_83.',
    ),
    ('layer_3/width_16k/average_l0_8', 'no width_16k. It has layer_3/width_4.'),
    ('layer_12/width_4/canonical', 'gemma-scope-2b-pt-att has no width 4'),
  ):
    with pytest.raises((FileNotFoundError, KeyError)) as error:
      load_sae(att, sae_id)
    assert says in str(error.value)
  with pytest.raises(
    FileNotFoundError, match=f'holds several.*sae_id: .*{ATT}'
  ):
    load_sae(att)
  with pytest.raises(ValueError, match='leaves'):
    load_sae(att, '../other')
  with pytest.raises(ValueError, match='is a file, so it is one SAE'):
    load_sae(att / ATT / 'params.npz', ATT)
  with pytest.raises(ValueError, match="revision='main' has no use"):
    load_sae(att, ATT, revision='main')


def test_links_out_of_a_collection_are_refused(att, tmp_path):
  write_params(tmp_path / 'elsewhere', random_weights(4, 2048))
  (att / 'layer_3/width_4/average_l0_9').symlink_to(tmp_path / 'elsewhere')
  with pytest.raises(ValueError, match='average_l0_9 is a link to'):
    load_sae(att, 'layer_3/width_4/average_l0_9')
  (tmp_path / 'link').symlink_to(att)
  load_sae(tmp_path / 'link', ATT, site='z')


def test_what_an_sae_reads_must_be_known(tmp_path):
  folder = write_params(tmp_path / 'somewhere')
  with pytest.raises(ValueError, match='params.npz: neither.*site.*Pass site='):
    load_sae(folder)
  with pytest.raises(ValueError, match='Pass layer='):
    load_sae(folder, site='mlp_out')
  sae = load_sae(folder, site='mlp_out', layer=0)
  assert sae.origin == Origin(site='mlp_out', layer=0)
  # A folder's name says the layer, but not the site.
  folder = write_params(tmp_path / 'mine/layer_0/width_16/average_l0_3')
  assert load_sae(folder, site='resid_pre').origin == Origin(
    site='resid_pre', layer=0, sae_id='layer_0/width_16/average_l0_3', l0=3.0
  )
  with pytest.raises(ValueError, match="'residual' is not a site"):
    load_sae(folder, site='residual')


def test_contradictions_are_refused(att, tmp_path):
  with pytest.raises(ValueError, match="site 'z', but site='resid_post'"):
    load_sae(att, ATT, site='resid_post')
  with pytest.raises(ValueError, match='layer 3, but layer=0'):
    load_sae(att, ATT, layer=0)
  assert load_sae(att, ATT, site='z', layer=3).origin.layer == 3
  save_sae_lens(random_sae(), tmp_path / 'sae')
  with pytest.raises(ValueError, match="site 'resid_post', but site='z'"):
    load_sae(tmp_path / 'sae', site='z', layer=2)


def test_exports_say_what_they_read(tmp_path):
  sae = random_sae()
  save_gemma_scope(sae, tmp_path / 'all', l0=5.4)
  save_sae_lens(sae, tmp_path / 'sae')
  one = load_sae(tmp_path / 'all', 'layer_2/width_16/average_l0_5')
  assert (one.origin.site, one.origin.layer, one.origin.l0) == (
    'resid_post',
    2,
    5.4,
  )
  assert_same(one, random_weights())
  for path in ('sae', 'sae/cfg.json', 'sae/sae_weights.safetensors'):
    other = load_sae(tmp_path / path)
    assert_same(other, random_weights())
    assert other.origin == ORIGIN


def test_llama_scope(tmp_path):
  folder = tmp_path / 'Llama3_1-8B-Base-L0M-8x'
  (folder / 'checkpoints').mkdir(parents=True)
  w = random_weights()
  save_file(
    {
      'encoder.weight': w.W_enc.T.copy(),
      'encoder.bias': w.b_enc,
      'decoder.weight': w.W_dec.T.copy(),
      'decoder.bias': w.b_dec,
    },
    folder / 'checkpoints/final.safetensors',
  )
  config = {
    'hook_point_in': 'blocks.0.hook_mlp_out',
    'hook_point_out': 'blocks.0.hook_mlp_out',
    'dataset_average_activation_norm': {'in': D**0.5, 'out': D**0.5},
    'jump_relu_threshold': 0.5,
  }
  (folder / 'hyperparams.json').write_text(json.dumps(config))
  for path in (folder, folder / 'checkpoints/final.safetensors'):
    sae = load_sae(path)
    assert (sae.origin.site, sae.origin.layer) == ('mlp_out', 0)
    assert_same(sae, w._replace(threshold=np.full(F, 0.5)))


@pytest.mark.parametrize('dtype', [jnp.bfloat16, 'float16', jnp.float32])
def test_dtype_is_of_all_but_the_threshold(tmp_path, dtype):
  folder = write_params(tmp_path / 'sae')
  sae = load_sae(folder, site='z', layer=1, dtype=dtype)
  assert sae.dtype == jnp.dtype(dtype)
  w = random_weights()
  cast = [a.astype(jnp.dtype(dtype)) for a in w[:-1]]
  assert_same(sae, Weights(*cast, w.threshold))


def test_dtypes_that_are_refused(tmp_path):
  for dtype in ('float64', 'int8', 'float33'):
    with pytest.raises(
      ValueError, match='must be float32, bfloat16 or float16'
    ):
      load_sae(tmp_path, dtype=dtype)
  weights = random_weights()
  weights.b_dec[0] = 1e6
  folder = write_params(tmp_path / 'sae', weights)
  with pytest.raises(ValueError, match='b_dec has values that float16 cannot'):
    load_sae(folder, site='z', layer=1, dtype='float16')


@pytest.mark.parametrize(('width', 'splits'), [(16, True), (18, False)])
def test_latents_are_split_over_a_mesh(tmp_path, width, splits):
  folder = write_params(tmp_path / 'sae', random_weights(width))
  mesh = jax.make_mesh((2, 4), ('data', 'model'))
  sae = load_sae(folder, site='z', layer=1, mesh=mesh)
  assert_same(sae, random_weights(width))
  part = width // 4 if splits else width
  for name, shape in {
    'W_enc': (D, part),
    'W_dec': (part, D),
    'b_enc': (part,),
    'b_dec': (D,),
    'threshold': (part,),
  }.items():
    array = getattr(sae, name)[...]
    assert array.sharding.shard_shape(array.shape) == shape
    assert len(array.devices()) == 8


def test_folders_and_files_that_are_no_sae(tmp_path):
  (tmp_path / 'notes.txt').write_text('')
  with pytest.raises(FileNotFoundError, match='not one SAE. It has notes.txt'):
    load_sae(tmp_path)
  with pytest.raises(ValueError, match=r'notes.txt is not an SAE.*\.pt'):
    load_sae(tmp_path / 'notes.txt')
  save_sae_lens(random_sae(), tmp_path / 'sae')
  write_params(tmp_path / 'sae')
  with pytest.raises(ValueError, match='has params.npz and cfg.json'):
    load_sae(tmp_path / 'sae')


def test_names_that_are_neither_here_nor_published(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  (tmp_path / 'out').mkdir()
  for absent in ('/no/where', './org/x', 'a/b/c', 'out/x', pathlib.Path('x')):
    with pytest.raises(FileNotFoundError, match='does not exist'):
      load_sae(absent)
  says = "'gemma-scope-2b-pt-rez' is not a file or folder here.*Did you mean"
  with pytest.raises(KeyError, match=says):
    load_sae('gemma-scope-2b-pt-rez', 'layer_0/width_16k/canonical')
  with pytest.raises(KeyError, match="'tiny'.*Known are gemma-scope-2b-pt-res"):
    load_sae('tiny')
  with pytest.raises(
    KeyError, match='Nearest: layer_12/width_16k/average_l0_82'
  ):
    load_sae('gemma-scope-2b-pt-res', 'layer_12/width_16k/average_l0_81')
  for name, sae_id in (
    ('gemma-scope-2b-pt-res', 'layer_12/width_16k/canonical'),
    ('gemma-2-2b/12-gemmascope-res-16k', None),
    ('org/saes', None),
  ):
    remedy = rf"{name} .*pip install 'knowledge-awareness-jax\[hub\]'"
    with pytest.raises(ImportError, match=remedy):
      load_sae(name, sae_id)


class FakeHub(types.ModuleType):
  """Stands in for huggingface_hub: 'downloads' out of a folder."""

  def __init__(self, root):
    super().__init__('huggingface_hub')
    self.root, self.calls = root, []
    self.errors = types.ModuleType('huggingface_hub.errors')
    self.errors.EntryNotFoundError = type(
      'EntryNotFoundError', (Exception,), {}
    )

  def hf_hub_download(self, repo, file, *, revision):
    self.calls.append((repo, file, revision))
    name = f'models--{repo.replace("/", "--")}'
    path = self.root / name / 'snapshots' / 'c0ffee' / file
    if not path.is_file():
      raise self.errors.EntryNotFoundError('404')
    return str(path)

  def snapshot_download(self, repo, *, revision, allow_patterns):
    self.calls.append((repo, revision))
    snapshot = self.root / 'snapshot'
    for name in allow_patterns:
      if (self.root / repo / name).is_file():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.root / repo / name, snapshot / name)
    return str(snapshot)


@pytest.fixture
def hub(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  fake = FakeHub(tmp_path / 'hub')
  monkeypatch.setitem(sys.modules, 'huggingface_hub', fake)
  monkeypatch.setitem(sys.modules, 'huggingface_hub.errors', fake.errors)
  return fake


def test_a_released_sae_is_downloaded(hub, monkeypatch):
  # An SAE of four latents, under a name whose table does not matter.
  repo = 'models--google--gemma-scope-27b-pt-att'
  sae_id = 'layer_10/width_4/average_l0_7'
  write_params(
    hub.root / repo / 'snapshots/c0ffee' / sae_id, random_weights(4, 4096)
  )
  sae = load_sae('gemma-scope-27b-pt-att', sae_id, revision='v1')
  assert_same(sae, random_weights(4, 4096))
  assert (sae.origin.site, sae.origin.layer, sae.origin.release) == (
    'z',
    10,
    'gemma-scope-27b-pt-att',
  )
  file = f'{sae_id}/params.npz'
  assert hub.calls == [('google/gemma-scope-27b-pt-att', file, 'v1')]


def test_names_become_files_of_a_repository(hub):
  for name in (
    ('gemma-2-2b/12-gemmascope-res-16k',),
    ('gemma-2-2b', '12-gemmascope-res-16k'),
    ('google/gemma-scope-2b-pt-res', 'layer_12/width_16k/average_l0_82'),
    ('gemma-scope-2b-pt-res-canonical', 'layer_12/width_16k/canonical'),
  ):
    with pytest.raises(FileNotFoundError, match='has no layer_12.*404'):
      load_sae(*name)
  file = 'layer_12/width_16k/average_l0_82/params.npz'
  assert set(hub.calls) == {('google/gemma-scope-2b-pt-res', file, None)}


def test_another_repository_of_the_hub(hub):
  save_sae_lens(random_sae(), hub.root / 'org/my-gemma-scope/layer_2')
  save_sae_lens(random_sae(width=8), hub.root / 'org/my-gemma-scope/layer_3')
  sae = load_sae('org/my-gemma-scope', 'layer_2')
  assert_same(sae, random_weights())
  assert not (hub.root / 'snapshot/layer_3').exists(), 'not asked for'
  with pytest.raises(FileNotFoundError, match='no layer_4. It has layer_2'):
    load_sae('org/my-gemma-scope', 'layer_4')


def test_the_hubs_cache_serves_offline(tmp_path, monkeypatch):
  hub = pytest.importorskip('huggingface_hub')
  repo = tmp_path / 'models--google--gemma-scope-27b-pt-mlp'
  commit = 'c0ffee' * 6 + 'c0ff'
  snapshot = repo / 'snapshots' / commit
  sae_id = 'layer_10/width_4/average_l0_7'
  write_params(snapshot / sae_id, random_weights(4, 4608))
  # As the hub stores it: a link to a blob.
  (repo / 'blobs').mkdir()
  params = snapshot / sae_id / 'params.npz'
  params.rename(repo / 'blobs' / 'abc')
  params.symlink_to(repo / 'blobs' / 'abc')
  (repo / 'refs').mkdir()
  (repo / 'refs' / 'main').write_text(commit)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(
    hub,
    'hf_hub_download',
    lambda *a, get=hub.hf_hub_download, **k: get(*a, cache_dir=tmp_path, **k),
  )
  sae = load_sae('gemma-scope-27b-pt-mlp', sae_id)
  assert_same(sae, random_weights(4, 4608))
  assert (sae.origin.site, sae.origin.layer) == ('mlp_out', 10)
  with pytest.raises(FileNotFoundError, match='has no layer_11.*in the cache'):
    load_sae('gemma-scope-27b-pt-mlp', 'layer_11/width_4/average_l0_7')
