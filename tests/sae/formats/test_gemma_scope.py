"""params.npz: read, written, and refused when it is damaged."""

import io
import json
import re
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from sae.folding import normalise_decoder
from sae.formats import folders
from sae.formats.gemma_scope import read_gemma_scope, save_gemma_scope
from sae.jumprelu import JumpReLUSAE, Origin, Weights

D, F = 6, 16
ORIGIN = Origin(model='google/gemma-2-2b', site='mlp_out', layer=5)


def random_arrays(seed=0):
  rng = np.random.default_rng(seed)
  arrays = {
    'W_enc': rng.normal(size=(D, F)),
    'W_dec': rng.normal(size=(F, D)),
    'b_enc': rng.normal(size=F),
    'b_dec': rng.normal(size=D),
    'threshold': rng.uniform(0.1, 2, size=F),
  }
  arrays['W_dec'] /= np.linalg.norm(arrays['W_dec'], axis=1, keepdims=True)
  return {name: array.astype(np.float32) for name, array in arrays.items()}


def random_sae(seed=0, origin=ORIGIN):
  arrays = random_arrays(seed)
  return JumpReLUSAE(Weights(*map(jnp.asarray, arrays.values())), origin)


def reference(arrays, x):
  """The formula of Gemma Scope's tutorial, in float64."""
  a = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
  z = x @ a['W_enc'] + a['b_enc']
  f = np.maximum(z, 0) * (z > a['threshold'])
  return f, f @ a['W_dec'] + a['b_dec']


def assert_bit_equal(weights, arrays):
  for name, array in weights._asdict().items():
    assert np.asarray(array).dtype == np.float32
    np.testing.assert_array_equal(np.asarray(array), arrays[name], name)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_a_file_is_read_bit_for_bit(tmp_path, save):
  arrays = random_arrays()
  save(tmp_path / 'params.npz', **arrays)
  weights, origin = read_gemma_scope(tmp_path / 'params.npz')
  assert_bit_equal(weights, arrays)
  assert origin == Origin()


def test_latents_and_reconstruction_are_those_of_the_formula(tmp_path):
  arrays = random_arrays()
  np.savez(tmp_path / 'params.npz', **arrays)
  weights, _ = read_gemma_scope(
    tmp_path / 'params.npz', place=lambda _, a: jnp.asarray(a)
  )
  sae = JumpReLUSAE(weights)
  x = np.random.default_rng(1).normal(size=(50, D)) * 3
  f, y = reference(arrays, x)
  assert 0.1 < (f > 0).mean() < 0.9
  got = sae.encode(jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(got, f, atol=1e-5)
  np.testing.assert_allclose(sae.decode(got), y, atol=1e-5)


def test_names_may_be_in_lower_case(tmp_path):
  arrays = random_arrays()
  lower = {name.lower(): array for name, array in arrays.items()}
  np.savez(tmp_path / 'params.npz', **lower)
  assert_bit_equal(read_gemma_scope(tmp_path / 'params.npz')[0], arrays)


def test_a_scaling_factor_of_ones_is_dropped(tmp_path):
  arrays = random_arrays()
  ones = np.ones(F, np.float32)
  np.savez(tmp_path / 'params.npz', scaling_factor=ones, **arrays)
  assert_bit_equal(read_gemma_scope(tmp_path / 'params.npz')[0], arrays)


def test_members_are_read_one_at_a_time(tmp_path, monkeypatch):
  arrays = random_arrays()
  np.savez(tmp_path / 'params.npz', **arrays)
  placed = []
  monkeypatch.setattr(
    np.lib.npyio.NpzFile,
    '__getitem__',
    lambda self, key, get=np.lib.npyio.NpzFile.__getitem__: (
      placed.append(f'read {key}'),
      get(self, key),
    )[1],
  )
  read_gemma_scope(
    tmp_path / 'params.npz', place=lambda name, _: placed.append(name)
  )
  assert placed == [step for name in arrays for step in (f'read {name}', name)]


def replace(**changes):
  """A damage to the arrays before they are saved; None removes one."""

  def damage(arrays):
    for name, change in changes.items():
      if change is None:
        del arrays[name]
      else:
        arrays[name] = change(arrays.get(name))

  return damage


def set_item(value):
  def change(array):
    array = array.copy()
    array.flat[3] = value
    return array

  return change


@pytest.mark.parametrize(
  ('damage', 'says'),
  [
    (replace(b_dec=None), ['b_dec is missing', 'Is it an SAE, and complete']),
    (
      replace(W_gate=lambda _: np.ones(F, 'f4')),
      ['W_gate is unknown', 'thresh'],
    ),
    (replace(w_enc=lambda _: np.ones(F, 'f4')), ['both W_enc and w_enc']),
    (
      replace(W_dec=lambda a: a.T.copy()),
      ['W_dec', '[6, 16]', '[F, D] with F=16, D=6'],
    ),
    (replace(b_enc=lambda a: a[1:]), ['b_enc', '[15]', '[F] with F=16']),
    (replace(threshold=lambda a: a[0]), ['threshold', '[]', '[F] with F=16']),
    (replace(W_enc=lambda a: a[0]), ['W_enc', '[16]', '[D, F]']),
    (replace(W_enc=lambda a: a[:, :0]), ['W_enc', 'is empty, [6, 0]']),
    (replace(W_enc=set_item(np.nan)), ['W_enc holds NaN or infinity']),
    (replace(b_dec=set_item(-np.inf)), ['b_dec holds NaN or infinity']),
    (replace(threshold=set_item(np.nan)), ['threshold holds NaN']),
    (
      replace(threshold=set_item(-0.25)),
      ['threshold', '-0.25', 'below 0', 'exp'],
    ),
    (
      replace(W_enc=lambda a: a.astype('f8')),
      ['W_enc has dtype float64', 'expected float32', 'astype(np.float32)'],
    ),
    (replace(b_enc=lambda a: a.astype('f2')), ['b_enc has dtype float16']),
    (
      replace(W_dec=lambda a: a.astype(jnp.bfloat16)),
      ['W_dec has dtype |V2', 'NumPy writes bfloat16 without its name'],
    ),
    (replace(b_dec=lambda a: a.astype('>f4')), ['b_dec has dtype >f4']),
    (
      replace(b_dec=lambda a: np.array([{}] * D, object)),
      ['b_dec has dtype object', 'nothing is unpickled'],
    ),
    (
      replace(scaling_factor=lambda _: np.full(F, 1.5, 'f4')),
      ['scaling_factor', '1.5', 'expected all ones', 'multiply W_dec'],
    ),
  ],
)
def test_wrong_arrays_are_refused(tmp_path, damage, says):
  arrays = random_arrays()
  damage(arrays)
  path = tmp_path / 'params.npz'
  np.savez(path, **arrays)
  with pytest.raises(ValueError) as error:
    read_gemma_scope(path)
  for text in (str(path), *says):
    assert text in str(error.value)


def flip(content, at):
  return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def short_member(content):
  """An archive whose b_dec.npy ends early; the archive itself is sound."""
  out = io.BytesIO()
  with (
    zipfile.ZipFile(io.BytesIO(content)) as old,
    zipfile.ZipFile(out, 'w') as new,
  ):
    for name in old.namelist():
      member = old.read(name)
      new.writestr(name, member[:-4] if name == 'b_dec.npy' else member)
  return out.getvalue()


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
  'damage',
  [
    lambda c: b'',
    lambda c: c[: len(c) // 2],
    lambda c: c[:-1],
    lambda c: b'\x80\x04]q\x00.' * 50,  # a pickle
    lambda c: b'<html>404</html>',
    lambda c: flip(c, 300),  # in the data of W_enc
    lambda c: flip(c, 60),
    short_member,
  ],
)
def test_damaged_files_are_refused(tmp_path, save, damage):
  path = tmp_path / 'params.npz'
  save(path, **random_arrays())
  content = damage(path.read_bytes())
  path.write_bytes(content)
  says = (
    rf'{re.escape(str(path))} \({len(content)} bytes\) is truncated or corr'
  )
  with pytest.raises(ValueError, match=says):
    read_gemma_scope(path)


def test_links_out_of_the_folder_are_refused(tmp_path):
  path = save_gemma_scope(random_sae(), tmp_path / 'saes', l0=3)
  for name in ('params.npz', 'metadata.json'):
    file = path.with_name(name)
    file.rename(tmp_path / name)
    file.symlink_to(tmp_path / name)
    with pytest.raises(ValueError, match=f'{name} is a link to'):
      read_gemma_scope(path)
    file.unlink()
    (tmp_path / name).rename(file)
  read_gemma_scope(path)


def test_an_absent_file(tmp_path):
  with pytest.raises(FileNotFoundError, match='params.npz does not exist'):
    read_gemma_scope(tmp_path / 'params.npz')


def test_the_width_of_the_model_is_checked(tmp_path):
  folder = tmp_path / 'gemma-scope-2b-pt-att' / 'layer_3/width_16k/average_l0_7'
  folder.mkdir(parents=True)
  np.savez(folder / 'params.npz', **random_arrays())
  says = r'W_enc has shape \[6, 16\].*D=2048, F=16384, as google/gemma-scope-2b'
  with pytest.raises(ValueError, match=says):
    read_gemma_scope(folder / 'params.npz')
  wide = tmp_path / 'mine/layer_3/width_1k/average_l0_7'
  wide.mkdir(parents=True)
  np.savez(wide / 'params.npz', **random_arrays())
  with pytest.raises(ValueError, match='F=1024, as a folder called width_1k'):
    read_gemma_scope(wide / 'params.npz')


def test_what_is_written_is_read_bit_for_bit(tmp_path):
  sae, arrays = random_sae(), random_arrays()
  path = save_gemma_scope(
    sae, tmp_path / 'saes', l0=81.7, metadata={'steps': 10, 'lr': 7e-5}
  )
  assert path == tmp_path / 'saes/layer_5/width_16/average_l0_82/params.npz'
  weights, origin = read_gemma_scope(path)
  assert_bit_equal(weights, arrays)
  assert origin == Origin(
    model='google/gemma-2-2b',
    site='mlp_out',
    layer=5,
    sae_id='layer_5/width_16/average_l0_82',
    l0=81.7,
  )
  sidecar = json.loads((path.parent / 'metadata.json').read_text())
  assert sidecar['training'] == {'steps': 10, 'lr': 7e-5}


def test_the_file_has_the_format_of_the_release(tmp_path):
  path = save_gemma_scope(random_sae(), tmp_path, l0=3)
  with zipfile.ZipFile(path) as archive:
    assert all(
      info.compress_type == zipfile.ZIP_STORED for info in archive.infolist()
    )
  with np.load(path) as file:
    assert set(file.files) == {'W_enc', 'W_dec', 'b_enc', 'b_dec', 'threshold'}
    assert {file[name].dtype for name in file.files} == {np.dtype('float32')}


def test_bfloat16_is_written_as_float32(tmp_path):
  arrays = random_arrays()
  rounded = {
    name: array if name == 'threshold' else jnp.asarray(array, jnp.bfloat16)
    for name, array in arrays.items()
  }
  sae = JumpReLUSAE(Weights(*map(jnp.asarray, rounded.values())), ORIGIN)
  path = save_gemma_scope(sae, tmp_path, l0=3, normalise=True)
  weights, _ = read_gemma_scope(path)
  wide = {name: np.asarray(a, np.float32) for name, a in rounded.items()}
  assert_bit_equal(weights, normalise_decoder(Weights(**wide))._asdict())


def test_rows_that_are_not_of_norm_1_are_rescaled_only_if_asked(tmp_path):
  arrays = random_arrays()
  arrays['W_dec'][2] *= 3
  arrays['W_dec'][4] = 0  # writes nothing, so it has no norm to have
  sae = JumpReLUSAE(Weights(*map(jnp.asarray, arrays.values())), ORIGIN)
  with pytest.raises(
    ValueError, match='1 of 16 rows.*latent 2 has 3.*normalise'
  ):
    save_gemma_scope(sae, tmp_path, l0=3)
  assert not any(tmp_path.iterdir())

  path = save_gemma_scope(sae, tmp_path, l0=3, normalise=True)
  weights, _ = read_gemma_scope(path)
  norms = np.linalg.norm(weights.W_dec, axis=1)
  np.testing.assert_allclose(np.delete(norms, 4), 1, atol=1e-6)
  x = np.random.default_rng(1).normal(size=(50, D)) * 3
  f, y = reference(arrays, x)
  f_new, y_new = reference(weights._asdict(), x)
  np.testing.assert_allclose(y_new, y, atol=1e-5)
  np.testing.assert_allclose(f_new[:, 2], 3 * f[:, 2], rtol=1e-5)


def test_thresholds_below_0_are_written_as_0(tmp_path):
  arrays = random_arrays()
  arrays['threshold'][:3] = -1
  sae = JumpReLUSAE(Weights(*map(jnp.asarray, arrays.values())), ORIGIN)
  weights, _ = read_gemma_scope(save_gemma_scope(sae, tmp_path, l0=3))
  x = jnp.asarray(np.random.default_rng(1).normal(size=(50, D)), jnp.float32)
  again = JumpReLUSAE(Weights(*map(jnp.asarray, weights)))
  np.testing.assert_array_equal(again.encode(x), sae.encode(x))


@pytest.mark.parametrize(
  ('origin', 'options', 'says'),
  [
    (Origin(layer=3), {'l0': 3}, 'does not say which site and layer'),
    (Origin(site='z'), {'l0': 3}, 'does not say which site and layer'),
    (Origin(site='toy', layer=0), {'l0': 3}, "'toy' is not a site"),
    (ORIGIN, {'l0': float('nan')}, 'l0 must be a mean number'),
    (ORIGIN, {'l0': -1}, 'l0 must be a mean number'),
    (ORIGIN, {'l0': 3, 'metadata': {'x': {1, 2}}}, 'metadata.json cannot hold'),
    (ORIGIN, {'l0': 3, 'metadata': {'x': float('inf')}}, 'cannot hold'),
  ],
)
def test_what_cannot_be_written(tmp_path, origin, options, says):
  with pytest.raises(ValueError, match=says):
    save_gemma_scope(random_sae(origin=origin), tmp_path, **options)
  assert not list(tmp_path.rglob('params.npz'))


def test_nan_is_not_written(tmp_path):
  sae = random_sae()
  sae.b_enc[...] = sae.b_enc[...].at[0].set(jnp.nan)
  with pytest.raises(ValueError, match='b_enc holds NaN'):
    save_gemma_scope(sae, tmp_path, l0=3)


def test_nothing_is_overwritten(tmp_path):
  path = save_gemma_scope(random_sae(), tmp_path, l0=3)
  before = path.read_bytes()
  with pytest.raises(FileExistsError, match='average_l0_3 exists'):
    save_gemma_scope(random_sae(1), tmp_path, l0=3.2)
  assert path.read_bytes() == before
  # A second SAE goes beside it.
  save_gemma_scope(random_sae(1), tmp_path, l0=4)


def test_a_killed_write_leaves_nothing_under_the_name(tmp_path, monkeypatch):
  def killed(path, **arrays):
    path.write_bytes(b'half')
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(np, 'savez', killed)
    # As if the process were gone: nothing tidies up after it.
    patch.setattr(folders.shutil, 'rmtree', lambda *a, **k: None)
    with pytest.raises(KeyboardInterrupt):
      save_gemma_scope(random_sae(), tmp_path, l0=3)
  assert not (tmp_path / 'layer_5/width_16/average_l0_3').exists()
  # The next run is not in its way.
  path = save_gemma_scope(random_sae(), tmp_path, l0=3)
  assert_bit_equal(read_gemma_scope(path)[0], random_arrays())
  assert [x.name for x in path.parent.parent.iterdir()] == ['average_l0_3']


@pytest.mark.parametrize(
  ('content', 'says'),
  [
    ('{', 'is not JSON'),
    ('[]', 'holds a list'),
    ('{"origin": 3}', 'has the origin 3'),
    ('{"origin": {"layer": "five"}}', "layer is 'five', expected an int"),
    ('{"origin": {"layer": true}}', 'layer is True, expected an int'),
    ('{"origin": {"layer": -5}}', 'layer is -5, expected an int'),
    ('{"origin": {"l0": "82"}}', "l0 is '82', expected a number"),
    ('{"origin": {"l0": NaN}}', 'NaN is not a finite number'),
    ('{"origin": {"site": []}}', r'site is \[\], expected a string'),
    ('{"format": "gemma_scope"}', 'has the origin None; expected an object'),
    ('{"origins": {}}', 'unknown field origins.*Did you mean origin'),
    ('{"origin": {"hook": "x"}}', 'expected an object with model, site'),
    ('{"origin": {"site": "residual"}}', "'residual' is not a site"),
    ('{"origin": {"layer": 6}}', 'says layer=6, but the path says 5'),
  ],
)
def test_a_sidecar_that_is_wrong(tmp_path, content, says):
  path = save_gemma_scope(random_sae(), tmp_path, l0=3)
  path.with_name('metadata.json').write_text(content)
  with pytest.raises(ValueError, match=f'metadata.json.*{says}|{says}'):
    read_gemma_scope(path)
