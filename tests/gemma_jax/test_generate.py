"""Generation against HF, against full forward passes, and across batches."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gemma_jax as gj
from gemma_jax.cache import Cache
from tests import tiny

NEW = 12


@pytest.fixture(scope='module')
def model():
  return tiny.pair()[1]


def greedy_by_full_passes(model, tokens, positions, new, interventions=None):
  """One uncached forward pass per token, the prompts right-padded."""
  B, T = tokens.shape
  room = np.zeros((B, T + new), np.int32)
  where = np.full((B, T + new), -1, np.int32)
  lengths = (positions >= 0).sum(1)
  for row in range(B):
    room[row, : lengths[row]] = tokens[row, positions[row] >= 0]
    where[row, : lengths[row]] = np.arange(lengths[row])
  step = jax.jit(
    lambda t, p, i: gj.forward(
      model, t, p, interventions=i, logits_at='last'
    ).logits[:, 0]
  )
  produced, logprobs = [], []
  for _ in range(new):
    logits = step(room, where, interventions)
    token = np.asarray(logits.argmax(-1))
    logp = np.asarray(jax.nn.log_softmax(logits))
    produced.append(token)
    logprobs.append(logp[np.arange(B), token])
    room[np.arange(B), lengths] = token
    where[np.arange(B), lengths] = lengths
    lengths = lengths + 1
  return np.stack(produced, 1), np.stack(logprobs, 1)


@pytest.mark.parametrize('stacked', [True, False])
def test_greedy_equals_hf_on_50_ragged_prompts(stacked):
  hf, model = tiny.pair()
  tokens, positions = tiny.ragged(50, 20, 'left', seed=3)
  with torch.no_grad():
    expected = hf.generate(
      torch.tensor(tokens).long(),
      attention_mask=torch.tensor(positions >= 0).long(),
      max_new_tokens=24,
      do_sample=False,
    )[:, 20:].numpy()
  ours = gj.generate(
    model if stacked else gj.unstack_layers(model),
    tokens,
    positions,
    max_new_tokens=24,
  )
  assert len(set(map(bytes, expected))) > 25, 'the prompts must differ'
  np.testing.assert_array_equal(ours.tokens[:, : expected.shape[1]], expected)


def test_cache_equals_full_passes(model):
  """Tokens and log-probabilities, left and right padding."""
  for side in ('left', 'right'):
    tokens, positions = tiny.ragged(6, 9, side)
    want, logp = greedy_by_full_passes(model, tokens, positions, NEW)
    got = gj.generate(model, tokens, positions, max_new_tokens=NEW, stop_ids=[])
    np.testing.assert_array_equal(got.tokens, want)
    np.testing.assert_allclose(got.logprobs, logp, atol=2e-5)


def interventions_for(lengths, when, rows):
  """One change of every type, in the prompt, in what follows, or in both."""
  S = 9 + NEW + 1
  where = {
    'prompt': gj.before(lengths),
    'generated': gj.since(lengths),
    'both': gj.per_row(np.ones((rows, S), np.float32)),
  }[when]
  rng = np.random.default_rng(7)
  v = rng.standard_normal((rows, 40)).astype(np.float32)
  source = rng.standard_normal((5, rows, S, 64)).astype(np.float32) * 0.3
  latents = types.SimpleNamespace(
    encoder=v[::-1][:, None],
    decoder=v[:, None],
    bias=np.full((rows, 1), 0.1),
    threshold=np.full((rows, 1), 0.5),
    site='resid_post',
    layer=2,
  )
  return [
    gj.steer(
      'resid_post',
      v,
      layers=gj.per_row(rng.integers(0, 5, rows)),
      coefficient=3.0,
      positions=where,
    ),
    gj.clamp_latents(latents, 2.0, positions=where),
    gj.patch(
      'z',
      source,
      source_positions=np.arange(S),
      layers=[1, 3],
      positions=where,
    ),
    gj.knock_out_attention(
      queries=where, keys=[0, 1], layers=gj.layer_window(2, 3, 5)
    ),
  ]


@pytest.mark.parametrize('when', ['prompt', 'generated', 'both'])
def test_interventions_while_decoding_equal_full_passes(model, when):
  tokens, positions = tiny.ragged(5, 9, 'left', seed=5)
  tokens[1], positions[1] = tokens[0], positions[0]
  lengths = (positions >= 0).sum(1)
  changes = interventions_for(lengths, when, 5)
  want, logp = greedy_by_full_passes(
    model, tokens, positions, NEW, interventions=changes
  )
  got = gj.generate(
    model,
    tokens,
    positions,
    max_new_tokens=NEW,
    stop_ids=[],
    interventions=changes,
  )
  np.testing.assert_array_equal(got.tokens, want)
  np.testing.assert_allclose(got.logprobs, logp, atol=5e-5)
  clean = gj.generate(model, tokens, positions, max_new_tokens=NEW, stop_ids=[])
  assert not np.array_equal(clean.tokens, got.tokens)
  if when == 'generated':
    np.testing.assert_array_equal(clean.tokens[:, 0], got.tokens[:, 0])


@pytest.mark.parametrize('stacked', [True, False])
def test_several_samples_of_a_prompt(model, stacked):
  """They are what rows with the prompt written out several times give."""
  tokens, positions = tiny.ragged(4, 7, 'left')
  temperature = np.tile([0.0, 1.0, 1.0], 4)
  steering = np.random.default_rng(0).normal(size=(4, model.config.d_model))
  steer = lambda rows: [
    gj.steer(
      'resid_post',
      jnp.asarray(rows, jnp.float32),
      layers=2,
      coefficient=3.0,
      positions='last',
    )
  ]
  ask = {
    'max_new_tokens': NEW,
    'sampling': gj.Sampling(temperature=temperature),
    'seeds': np.arange(12),
  }
  some = gj.generate(
    model if stacked else gj.unstack_layers(model),
    tokens,
    positions,
    samples=3,
    interventions=steer(steering),
    **ask,
  )
  every = gj.generate(
    model,
    np.repeat(tokens, 3, 0),
    np.repeat(positions, 3, 0),
    interventions=steer(np.repeat(steering, 3, 0)),
    **ask,
  )
  np.testing.assert_array_equal(some.tokens, every.tokens)
  np.testing.assert_allclose(some.logprobs, every.logprobs, atol=1e-5)
  np.testing.assert_array_equal(some.lengths, every.lengths)


def test_a_shared_prefix_changes_nothing(model):
  rng = np.random.default_rng(2)
  prefix = rng.integers(3, 97, 8)
  tokens, positions = tiny.ragged(6, 7, 'left')
  whole = np.concatenate([np.tile(prefix, (6, 1)), tokens], 1)
  shifted = np.where(positions >= 0, positions + 8, -1)
  where = np.concatenate([np.tile(np.arange(8), (6, 1)), shifted], 1)
  change = [
    gj.steer(
      'resid_mid',
      rng.standard_normal((6, 40)),
      layers=2,
      coefficient=4.0,
      positions=gj.since(8),
    ),
    # The keys are in the prefix.
    gj.knock_out_attention(queries=gj.since(8), keys=[3, 4]),
  ]
  shared = gj.share_prefix(model, prefix)
  assert shared.k.shape[1] == 1, 'one row serves all'
  ask = {'max_new_tokens': NEW, 'stop_ids': [], 'interventions': change}
  a = gj.generate(model, whole, where, **ask)
  b = gj.generate(model, tokens, shifted, prefix=shared, **ask)
  np.testing.assert_array_equal(a.tokens, b.tokens)
  np.testing.assert_allclose(a.logprobs, b.logprobs, atol=2e-5)
  capture = gj.capture('resid_post')
  a = gj.run(model, whole, where, interventions=change, capture=capture)
  b = gj.run(
    model,
    tokens,
    shifted,
    prefix=shared,
    interventions=change,
    capture=capture,
  )
  np.testing.assert_allclose(
    np.asarray(a.activations['resid_post'])[:, :, 8:][:, positions >= 0],
    np.asarray(b.activations['resid_post'])[:, positions >= 0],
    atol=5e-5,
  )


@pytest.mark.parametrize(
  'top',
  [
    pytest.param({}, marks=pytest.mark.slow),
    pytest.param({'top_k': 20}, marks=pytest.mark.slow),
    {'top_p': 0.8},
  ],
)
def test_a_sample_does_not_depend_on_its_batch(model, top):
  tokens, positions = tiny.ragged(7, 9, 'left')
  seeds = [11, 5, 7, 7, 0, 2, 5]
  sampling = gj.Sampling(temperature=1.3, **top)
  together = gj.generate(
    model,
    tokens,
    positions,
    max_new_tokens=NEW,
    sampling=sampling,
    seeds=seeds,
    stop_ids=[],
  )
  greedy = gj.generate(
    model, tokens, positions, max_new_tokens=NEW, stop_ids=[]
  )
  assert not np.array_equal(together.tokens, greedy.tokens)
  for row in (0, 1, 4):
    real = positions[row] >= 0
    alone = gj.generate(
      model,
      tokens[row, real][None],
      max_new_tokens=NEW,
      sampling=sampling,
      seeds=[seeds[row]],
      stop_ids=[],
    )
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
  shuffled = np.array([3, 6, 0, 2, 1, 5, 4])
  again = gj.generate(
    model,
    tokens[shuffled],
    positions[shuffled],
    max_new_tokens=NEW,
    sampling=sampling,
    seeds=np.array(seeds)[shuffled],
    stop_ids=[],
  )
  np.testing.assert_array_equal(again.tokens, together.tokens[shuffled])


@pytest.mark.parametrize(
  'settings',
  [
    {'temperature': 0.7},
    {'temperature': 1.0, 'top_k': 5},
    {'temperature': 1.5, 'top_p': 0.7},
    {'temperature': 0.9, 'top_k': 12, 'top_p': 0.6},
  ],
)
def test_samples_follow_hfs_distribution(model, settings):
  """First tokens of 4000 seeds against the probabilities HF would sample by."""
  from scipy import stats
  from transformers import generation

  prompt = np.array([[5, 17, 60, 33]])
  logits = gj.run(model, prompt, logits_at=3).logits
  scores = torch.tensor(np.asarray(logits)[0])
  warpers = [generation.TemperatureLogitsWarper(settings['temperature'])]
  if 'top_k' in settings:
    warpers.append(generation.TopKLogitsWarper(settings['top_k']))
  if 'top_p' in settings:
    warpers.append(generation.TopPLogitsWarper(settings['top_p']))
  for warper in warpers:
    scores = warper(None, scores)
  p = torch.softmax(scores.double(), -1)[0].numpy()
  n = 4000
  drawn = gj.generate(
    model,
    np.tile(prompt, (n, 1)),
    max_new_tokens=1,
    sampling=gj.Sampling(**settings),
    seeds=np.arange(n),
  )
  counts = np.bincount(np.asarray(drawn.tokens)[:, 0], minlength=97)
  assert counts[p == 0].sum() == 0, 'a filtered token was drawn'
  kept = p * n >= 5
  rare = counts[~kept].sum()
  observed = np.append(counts[kept], rare)
  expected = np.append(p[kept] * n, n - (p[kept] * n).sum())
  if expected[-1] < 1:
    observed, expected = observed[:-1], p[kept] / p[kept].sum()
    expected = expected * observed.sum()
  assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_temperature_zero_is_greedy_row_by_row(model):
  tokens, positions = tiny.ragged(4, 9, 'left')
  ask = {'max_new_tokens': NEW, 'stop_ids': []}
  greedy = gj.generate(model, tokens, positions, **ask)
  mixed = gj.generate(
    model,
    tokens,
    positions,
    sampling=gj.Sampling(temperature=[0.0, 2.0, 0.0, 2.0], top_k=97, top_p=1.0),
    **ask,
  )
  same = (np.asarray(mixed.tokens) == np.asarray(greedy.tokens)).all(1)
  assert same.tolist() == [True, False, True, False]


def test_stop_tokens(model):
  tokens, positions = tiny.ragged(6, 9, 'left')
  free = np.asarray(
    gj.generate(
      model, tokens, positions, max_new_tokens=NEW, stop_ids=[]
    ).tokens
  )
  stops = [int(free[0, 3]), int(free[2, 0])]
  got = gj.generate(
    model, tokens, positions, max_new_tokens=NEW, stop_ids=stops
  )
  for row in range(6):
    hits = np.flatnonzero(np.isin(free[row], stops))
    n = hits[0] + 1 if hits.size else NEW
    assert got.lengths[row] == n
    np.testing.assert_array_equal(got.tokens[row, :n], free[row, :n])
    assert not np.asarray(got.tokens)[row, n:].any()
    assert not np.asarray(got.logprobs)[row, n:].any()
  assert int(got.lengths[2]) == 1 and int(got.lengths[0]) <= 4


def test_one_compilation_for_new_lengths_seeds_and_changes(model):
  from gemma_jax.generate import _decode, _prefill

  tokens, positions = tiny.ragged(4, 9, 'left')
  before = None
  for seed, new in ((0, 9), (1, 12), (2, 16)):
    rng = np.random.default_rng(seed)
    change = gj.steer(
      'resid_post',
      rng.standard_normal((4, 40)),
      layers=gj.per_row(rng.integers(0, 5, 4)),
      coefficient=rng.standard_normal(4),
      positions=0,
    )
    gj.generate(
      model,
      tokens,
      positions,
      max_new_tokens=new,
      sampling=gj.Sampling(temperature=1.0 + seed),
      seeds=seed,
      interventions=[change],
    )
    sizes = (_decode._cache_size(), _prefill._cache_size())
    assert before in (None, sizes)
    before = sizes


def test_the_cache_is_updated_in_place():
  """Donated and aliased whole; temporaries far below its size."""
  from gemma_jax.generate import _decode

  config = gj.FAMILIES['gemma2'].config(
    num_layers=6,
    d_model=64,
    d_ff=128,
    num_heads=4,
    num_kv_heads=4,
    head_dim=64,
    vocab_size=128,
    local_layers=(True, False) * 3,
  )
  model = gj.init_model(config, jax.random.key(0))
  B, S = 4, 2048
  cache = jax.eval_shape(lambda: Cache.empty(config, B, S))
  size = 2 * cache.k.size * 4
  compiled = _decode.lower(
    model,
    cache,
    jnp.zeros((B, 128)),
    jnp.zeros(B, jnp.int32),
    jnp.zeros(B, jnp.uint32),
    jnp.zeros(1, jnp.int32),
    jnp.int32(8),
    None,
    (),
    None,
    capacity=8,
  ).compile()
  memory = compiled.memory_analysis()
  assert memory.alias_size_in_bytes >= size
  # One layer's keys and values may be looked at, not all six.
  assert memory.temp_size_in_bytes < size / 2


@pytest.mark.parametrize(
  'arguments, words',
  [
    ({'max_new_tokens': 0}, 'got 0'),
    ({'max_new_tokens': 9000}, 'max_positions=8192'),
    ({'positions': [[0, 1], [-1, -1]]}, 'Row 1 has no token'),
    ({'seeds': [1, 2, 3]}, r'\(3,\), expected \(2,\)'),
    ({'seeds': [1.5, 2.5]}, 'integers'),
    ({'seeds': [0, 2**32]}, r'2\^32'),
    ({'seeds': -1}, r'expected \(2,\)'),
    ({'sampling': gj.Sampling(temperature=-1.0)}, 'at least 0, got -1'),
    ({'sampling': gj.Sampling(top_p=0.0)}, 'top_p'),
    ({'sampling': gj.Sampling(top_k=0)}, 'top_k'),
    ({'sampling': gj.Sampling(temperature=[1.0] * 3)}, r'\(3,\)'),
  ],
)
def test_generate_refuses(model, arguments, words):
  arguments = {
    k: np.asarray(v) if isinstance(v, list) else v for k, v in arguments.items()
  }
  with pytest.raises(ValueError, match=words):
    gj.generate(
      model, np.array([[3, 4], [5, 6]]), **({'max_new_tokens': 2} | arguments)
    )


def test_a_prefix_must_come_first(model):
  shared = gj.share_prefix(model, [3, 4, 5])
  with pytest.raises(ValueError, match='ends before 3'):
    gj.run(model, [[6, 7]], [[2, 3]], prefix=shared)


def test_int_seeds_do_not_overlap(model):
  """Row 1 of seed 0 is not row 0 of seed 1."""
  prompt = np.full((3, 4), 5)
  sampling = gj.Sampling(temperature=2.0)
  rows = [
    bytes(np.asarray(row))
    for seed in range(3)
    for row in gj.generate(
      model, prompt, max_new_tokens=NEW, sampling=sampling, seeds=seed
    ).tokens
  ]
  assert len(set(rows)) == 9


def test_a_truncated_model_has_no_logits(model, tmp_path):
  gj.save_checkpoint(model, tmp_path / 'whole')
  part = gj.load_checkpoint(tmp_path / 'whole', num_layers=3)
  with pytest.raises(ValueError, match='all 5 layers, not 3'):
    gj.run(part, [[3, 4]], logits_at='all')
  with pytest.raises(ValueError, match='all 5 layers, not 3'):
    gj.generate(part, [[3, 4]], max_new_tokens=2)
  gj.save_checkpoint(part, tmp_path / 'part')
  again = gj.load_checkpoint(tmp_path / 'part')
  assert again.config.truncated_from == 5, 'saving does not forget it'
  look = gj.capture('resid_post', layers=2)
  streams = [
    gj.run(m, [[3, 4]], capture=look).activations['resid_post']
    for m in (model, again)
  ]
  np.testing.assert_allclose(*streams, atol=1e-6)


def test_positions_are_needed_after_a_prefix_or_a_cache(model):
  tokens = np.array([[3, 4]])
  shared = gj.share_prefix(model, [5, 6])
  for before in (
    {'prefix': shared},
    {'cache': Cache.empty(model.config, 1, 4)},
  ):
    with pytest.raises(ValueError, match='positions must be given'):
      gj.forward(model, tokens, logits_at='all', **before)
  two_rows = Cache.empty(model.config, 2, 2)
  with pytest.raises(ValueError, match='one row'):
    gj.forward(model, tokens, tokens, prefix=two_rows)


@pytest.mark.parametrize('family', ['qwen2', 'gpt2'])
def test_a_model_without_pad_or_bos(family):
  """Rows that end early are filled with a valid id, an eos or 0."""
  model = tiny.pair(family=family)[1]
  config = model.config
  assert config.pad_id is None
  assert config.bos_id is None or family == 'gpt2'
  tokens, positions = tiny.ragged(6, 9, 'left')
  ask = {'max_new_tokens': NEW}
  free = np.asarray(
    gj.generate(model, tokens, positions, stop_ids=[], **ask).tokens
  )
  stop = int(free[0, 3])
  got = gj.generate(model, tokens, positions, stop_ids=[stop], **ask)
  fill = config.eos_ids[0] if config.eos_ids else 0
  for row, n in enumerate(got.lengths):
    np.testing.assert_array_equal(got.tokens[row, :n], free[row, :n])
    assert (np.asarray(got.tokens)[row, n:] == fill).all()
  assert int(got.lengths[0]) <= 4


def test_no_stop_tokens_never_stops(model):
  """A configuration without eos_ids."""
  config = dataclasses.replace(model.config, eos_ids=())
  endless = gj.Decoder(config, model.weights())
  tokens, positions = tiny.ragged(6, 9, 'left')
  ask = {'max_new_tokens': NEW}
  got = gj.generate(endless, tokens, positions, **ask)
  want = gj.generate(model, tokens, positions, stop_ids=[], **ask)
  np.testing.assert_array_equal(got.tokens, want.tokens)
  assert (np.asarray(got.lengths) == NEW).all()
