"""Converting between formats, and making random checkpoints."""

import json
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from gemma_jax.checkpoint.hf import CheckpointReader, load_checkpoint
from gemma_jax.checkpoint.hf_format import COMPANIONS
from gemma_jax.checkpoint.orbax import is_orbax, load_orbax
from gemma_jax.families import FAMILIES
from tools.convert_checkpoint import convert
from tools.make_checkpoint import make, write_checkpoint

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = FAMILIES['gemma2'].config(
  num_layers=3,
  local_layers=(True, False, True),
  d_model=24,
  d_ff=32,
  num_heads=4,
  num_kv_heads=2,
  head_dim=6,
  vocab_size=64,
  query_pre_attn_scalar=9,
  window=5,
)


def run(tool, *flags):
  environment = {k: v for k, v in os.environ.items() if k != 'TQDM_DISABLE'}
  return subprocess.run(
    [sys.executable, '-m', f'tools.{tool}', *flags],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
  )


@pytest.fixture(scope='module')
def hf(tmp_path_factory):
  """In the format of Hugging Face, with the files that go along."""
  folder = tmp_path_factory.mktemp('hf') / 'source'
  write_checkpoint(CONFIG, folder, dtype='bfloat16', shards=2)
  for name in COMPANIONS:
    (folder / name).write_text(f'this is {name}')
  (folder / 'README.md').write_text('stays')
  return folder


@pytest.fixture(scope='module')
def orbax(hf, tmp_path_factory):
  folder = tmp_path_factory.mktemp('orbax') / 'source'
  assert convert(hf, folder) == 'orbax'
  return folder


def same_weights(a, b):
  for name, array in a.weights().items():
    np.testing.assert_array_equal(
      np.asarray(array), np.asarray(b.weights()[name]), err_msg=name
    )


def test_there_and_back_is_bit_exact(hf, orbax, tmp_path):
  assert is_orbax(orbax) and not is_orbax(hf)
  assert convert(orbax, tmp_path / 'back', max_shard_bytes=20_000) == 'hf'
  first, again = load_checkpoint(hf), load_checkpoint(tmp_path / 'back')
  assert first.config == again.config
  assert first.dtype == again.dtype == load_orbax(orbax).dtype == jnp.bfloat16
  same_weights(first, again)
  same_weights(first, load_orbax(orbax))
  for folder in (orbax, tmp_path / 'back'):
    for name in COMPANIONS:
      assert (folder / name).read_text() == f'this is {name}'
    assert not (folder / 'README.md').exists()


def test_what_comes_back_is_read_by_hf_transformers(hf, orbax, tmp_path):
  convert(orbax, tmp_path / 'back')
  for path in (tmp_path / 'back').iterdir():
    if path.name in COMPANIONS:
      path.unlink()  # they are not real here
  read = transformers.Gemma2ForCausalLM.from_pretrained(
    tmp_path / 'back', dtype=torch.float32
  )
  wq = CheckpointReader(hf).read('wq', [slice(1, 2)], dtype=jnp.float32)
  np.testing.assert_array_equal(
    read.model.layers[1].self_attn.q_proj.weight.detach(), wq.reshape(24, 24)
  )


@pytest.mark.parametrize('to', ['orbax', 'hf'])
@pytest.mark.parametrize('source', ['orbax', 'hf'])
def test_dtype_and_layers_can_be_changed(source, to, tmp_path, request):
  folder = request.getfixturevalue(source)
  convert(folder, tmp_path / 'out', to=to, dtype='float32', num_layers=2)
  load = load_orbax if to == 'orbax' else load_checkpoint
  got = load(tmp_path / 'out')
  expected = load_checkpoint(
    request.getfixturevalue('hf'), dtype='float32', num_layers=2
  )
  assert got.config == CONFIG.truncated(2)
  assert got.dtype == jnp.float32
  same_weights(expected, got)


def test_nothing_is_written_when_something_is_wrong(hf, orbax, tmp_path):
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'file').write_text('mine')
  with pytest.raises(FileExistsError, match='full exists'):
    convert(hf, tmp_path / 'full')
  with pytest.raises(FileNotFoundError, match='absent does not exist'):
    convert(tmp_path / 'absent', tmp_path / 'out')
  for source in (hf, orbax):
    with pytest.raises(ValueError, match='num_layers=9'):
      convert(source, tmp_path / 'out', num_layers=9)
    with pytest.raises(ValueError, match="revision='v1'"):
      convert(source, tmp_path / 'out', revision='v1')
  assert [path.name for path in tmp_path.iterdir()] == ['full']


@pytest.mark.parametrize('to', [None, 'orbax'])
def test_a_gguf_comes_with_its_tokenizer(to, tmp_path):
  test_gguf = pytest.importorskip('tests.gemma_jax.checkpoint.test_gguf')
  backend, tokens, types, merges = test_gguf.byte_level('gpt-2')
  test_gguf.write_tokenizer(
    *(tmp_path / 'm.gguf', 'gpt2', 'gpt-2', tokens, types),
    merges=merges,
    bos_token_id=0,
    eos_token_id=1,
    chat_template='{{ messages }}',
  )
  source, out = tmp_path / 'm.gguf', tmp_path / 'out'
  assert convert(source, out, to=to) == (to or 'hf')
  expected = load_checkpoint(source)
  got = load_orbax(out) if to == 'orbax' else load_checkpoint(out)
  assert got.config == expected.config and got.dtype == jnp.float32
  same_weights(expected, got)
  assert (out / 'chat_template.jinja').read_text() == '{{ messages }}'
  read = transformers.AutoTokenizer.from_pretrained(out)
  text = 'the cat sat'
  want = backend.encode(text, add_special_tokens=False).ids
  assert read.encode(text, add_special_tokens=False) == want
  if to is None:
    hf = transformers.AutoModelForCausalLM.from_pretrained(out)
    wk = hf.model.layers[0].self_attn.k_proj.weight.detach()
    mine = expected.weights()['wk'][0]
    np.testing.assert_array_equal(wk, mine.reshape(wk.shape))


def test_the_program(hf, tmp_path):
  """Exit codes, the report, the progress and the help."""
  flags = [f'--source={hf}', f'--target={tmp_path / "out"}']
  done = run('convert_checkpoint', *flags)
  assert done.returncode == 0, done.stderr
  assert done.stdout == f'{tmp_path / "out"}: written in the orbax format.\n'
  assert 'Reading: 100%' in done.stderr and 'Writing' in done.stderr
  assert 'INFO' not in done.stderr and 'orbax-checkpoint' not in done.stderr

  again = run('convert_checkpoint', *flags)
  assert again.returncode == 1
  assert again.stderr.startswith('Error: ') and 'not an empty' in again.stderr
  assert 'Traceback' not in again.stderr

  told = run('convert_checkpoint', '--help')
  for flag in 'source target to dtype num_layers revision'.split():
    assert f'--{flag}:' in told.stdout
  for family in FAMILIES.values():
    assert family.title in ' '.join(told.stdout.split())


def test_make_checkpoint_can_be_repeated(tmp_path):
  out = tmp_path / 'deep' / 'checkpoint'
  done = run('make_checkpoint', f'--out={out}')
  assert done.returncode == 0, done.stderr
  reader = CheckpointReader(out)
  config = reader.config
  # Hard on parity, as promised.
  assert config.num_heads * config.head_dim != config.d_model
  assert config.query_pre_attn_scalar != config.head_dim
  assert config.num_heads == 2 * config.num_kv_heads
  assert config.window == 5 and config.d_model == 72
  assert len(list(out.glob('*.safetensors'))) == 2
  for name in ('pre_attn_norm', 'post_attn_norm', 'final_norm'):
    assert np.abs(reader.read(name)).mean() > 0.2

  before = {path.name: path.read_bytes() for path in out.iterdir()}
  made = json.loads((out / 'make_checkpoint.json').read_text())
  assert 'is there already' in make(out, made)
  with pytest.raises(FileExistsError, match='window=5.*--overwrite'):
    make(out, made | {'window': 7})
  assert before == {path.name: path.read_bytes() for path in out.iterdir()}

  make(out, made | {'window': 7}, overwrite=True)
  assert CheckpointReader(out).config.window == 7
  make(out, made, overwrite=True)
  assert before == {path.name: path.read_bytes() for path in out.iterdir()}


def test_make_checkpoint_never_replaces_what_it_did_not_make(tmp_path):
  (tmp_path / 'model.safetensors').write_text('precious')
  done = run('make_checkpoint', f'--out={tmp_path}', '--overwrite')
  assert done.returncode == 1 and 'not an empty folder' in done.stderr
  assert (tmp_path / 'model.safetensors').read_text() == 'precious'


@pytest.mark.parametrize('shards', [1, 2, 3, 5])
def test_make_checkpoint_writes_the_files_asked_for(shards, tmp_path):
  write_checkpoint(CONFIG, tmp_path / 'out', shards=shards, seed=4)
  assert len(list((tmp_path / 'out').glob('*.safetensors'))) == shards
  assert load_checkpoint(tmp_path / 'out').config == CONFIG
