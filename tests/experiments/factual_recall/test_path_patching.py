"""Path patching against a plain loop of hooked runs of HF transformers."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.factual_recall import path_patching
from experiments.factual_recall.naive_path_patching import naive_total_effects
from experiments.factual_recall.path_patching import (
  change_in_percent,
  direct_effects,
  donors,
  published_donors,
  sender_names,
  streams_with_added,
  total_effects,
  total_streams,
)
from experiments.factual_recall.task_prompts import corrupt, make_prompts
from experiments.factual_recall.tasks import read_task
from experiments.factual_recall.trace import Readout, trace
from experiments.inputs import BASE
import gemma_jax as gj
from tests import tiny
from tests.experiments.factual_recall import small
from tests.gemma_jax import hf_hooks

# Family, sizes, tokens before all prompts.
CASES = {
  'gemma2': ('gemma2', {}, 0),
  'gemma2, five heads, two layers, prefix': (
    'gemma2',
    {
      'num_attention_heads': 5,
      'num_key_value_heads': 1,
      'num_hidden_layers': 2,
    },
    3,
  ),
  'llama': ('llama', {}, 0),
  'llama, one layer, one head': (
    'llama',
    {
      'num_attention_heads': 1,
      'num_key_value_heads': 1,
      'num_hidden_layers': 1,
    },
    0,
  ),
  'gpt2': ('gpt2', {}, 0),
  'gpt2, five heads, one layer, prefix': (
    'gpt2',
    {'n_head': 5, 'n_layer': 1},
    2,
  ),
}


class Case:
  """A model, its prompts and corrupted ones, and traces of both."""

  def __init__(self, name: str):
    family, sizes, prefix = CASES[name]
    self.hf, self.model = tiny.pair(family=family, **sizes)
    self.prompts = small.prompts(prefix=prefix)
    self.corrupted = small.prompts(prefix=prefix, seed=1)
    self.clean = trace(self.model, self.prompts)
    self.other = trace(self.model, self.corrupted)
    self.readout = Readout.of(
      self.model, self.prompts.answers, self.prompts.names
    )

  @property
  def heads(self) -> int:
    return self.model.config.num_heads

  def hf_donors(self, mean: bool):
    _, seen = hf_hooks.activations(self.hf, *self.corrupted.whole())
    found = {s: np.stack(seen[s])[:, :, -1] for s in ('z', 'mlp_out')}
    if mean:
      found = {s: x.mean(1, keepdims=True) for s, x in found.items()}
    return found

  def arguments(self, mean: bool = False):
    donor = donors(self.other, mean)
    return self.model, self.clean, donor, self.prompts, self.readout

  def total(self, mean: bool = False, **options):
    return total_effects(*self.arguments(mean), **options)

  def direct(self, mean: bool = False):
    model, clean, donor, _, readout = self.arguments(mean)
    return direct_effects(model, clean, donor, readout)


case = functools.cache(Case)


def close(ours, reference, tolerance=1e-5):
  scale = max(1, np.abs(reference).max())
  np.testing.assert_allclose(ours, reference, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize('mean', [False, True], ids=['paired', 'mean'])
@pytest.mark.parametrize('name', CASES)
def test_effects_are_those_of_hooked_runs(name, mean):
  this = case(name)
  donor = this.hf_donors(mean)
  clean = small.hf_pi(this.hf, this.prompts)
  shape = (this.model.config.num_layers, this.heads + 1, len(this.prompts), 2)
  for direct, ours in ((False, this.total(mean)), (True, this.direct(mean))):
    want = small.hf_effects(this.hf, this.prompts, donor, this.heads, direct)
    assert ours.shape == shape and ours.dtype == np.float64
    close(ours, want)
    # Every sender does something, so that none was compared with itself.
    assert (np.abs(want - clean).max((2, 3)) > 1e-2).all()


@pytest.mark.parametrize('name', CASES)
def test_the_two_effects_differ_only_below_mlps(name):
  """The last MLP has nothing above it."""
  this = case(name)
  total, direct = this.total(), this.direct()
  close(total[-1, -1], direct[-1, -1])
  heads = np.abs(total - direct)[:, :-1].max((1, 2, 3))
  assert (heads > 1e-3).all()  # each has its own layer's MLP above


@pytest.mark.parametrize('name', ['gemma2', 'gpt2', 'llama'])
def test_own_writes_change_nothing(name):
  this = case(name)
  own = donors(this.clean, mean=False)
  streams = list(total_streams(this.model, this.clean, own, this.prompts))
  assert len(streams) == this.model.config.num_layers
  for each in streams:
    close(each, np.broadcast_to(this.clean.final, each.shape))
  direct = direct_effects(this.model, this.clean, own, this.readout)
  close(
    direct, np.broadcast_to(this.readout.pi(this.clean.final), direct.shape)
  )


def test_batches_do_not_matter():
  this = case('llama')
  whole = this.total()
  for size in (10, 5 * (this.heads + 1)):
    close(this.total(rows_per_batch=size), whole, 1e-6)


def test_one_program_serves_all_layers_and_donors():
  this = case('gemma2')
  path_patching._through_mlps.clear_cache()
  this.total(mean=True)
  assert path_patching._through_mlps._cache_size() == 1
  this.total(mean=False)
  assert path_patching._through_mlps._cache_size() == 1


def test_names_of_senders():
  names = sender_names(case('gpt2').model.config)
  assert [len(row) for row in names] == [5] * 5
  assert names[0] == ['L0H0', 'L0H1', 'L0H2', 'L0H3', 'MLP0']
  assert names[4][3:] == ['L4H3', 'MLP4']


def test_donors():
  this = case('gpt2')
  paired, mean = donors(this.other, False), donors(this.other, True)
  for site in ('z', 'mlp_out'):
    np.testing.assert_array_equal(paired[site], this.other[site])
    want = sum(this.other[site][:, row] for row in range(5)) / 5
    np.testing.assert_allclose(mean[site][:, 0], want, atol=1e-6)
    assert mean[site].shape[1] == 1


@pytest.mark.parametrize('name, rows_per_batch', [('gemma2', 2), ('gpt2', 64)])
def test_published_donors(name, rows_per_batch):
  """One row at a time: text, then padding that is read like text."""
  this = case(name)
  pad, corrupted = 7, small.prompts(seed=1, longest=8)
  tokens, positions = corrupted.whole()
  rows = [t[p >= 0].tolist() for t, p in zip(tokens, positions, strict=True)]
  longest = max(map(len, rows))
  sums = {}
  for row in rows:
    filled = np.array([row + [pad] * (longest - len(row))])
    _, seen = hf_hooks.activations(this.hf, filled, np.arange(longest)[None])
    for site in ('z', 'mlp_out'):
      sums[site] = sums.get(site, 0) + np.stack(seen[site])[:, 0]
  found = published_donors(
    this.model, this.prompts, corrupted, pad, rows_per_batch
  )
  for site, total in sums.items():
    want = [total[:, end] / len(rows) for end in this.prompts.ends]
    close(found[site], np.stack(want, axis=1), 2e-5)
    assert found[site].dtype == np.float32
  streams = total_streams(this.model, this.clean, found, this.prompts)
  assert next(streams).shape[1] == len(this.prompts)


def test_published_donors_of_shorter_corrupted_prompts():
  """The places of the prompts' last tokens exist in every row."""
  this = case('llama')
  short = small.prompts(seed=2, longest=3)
  found = published_donors(this.model, this.prompts, short, 7)
  assert all(np.isfinite(each).all() for each in found.values())
  assert found['z'].shape == (5, 5, 64)


def gj_streams(this, layer, vectors):
  """Last streams [S, n, D] of whole runs with heads held."""
  batch = this.prompts.whole()
  held = gj.run(this.model, *batch, capture=gj.capture('z'))
  L = this.model.config.num_layers
  found = []
  for vector in vectors:
    out = gj.run(
      this.model,
      *batch,
      interventions=[
        gj.patch('z', source=held),
        gj.steer('mlp_out', vector, layers=layer, positions='last'),
      ],
      capture=gj.capture('resid_post', layers=L - 1, positions='last'),
    )
    found.append(np.asarray(out['resid_post', L - 1][:, 0]))
  return np.stack(found)


@pytest.mark.parametrize('name, layer', [('gemma2', 3), ('gpt2', 4)])
def test_streams_with_added_vectors(name, layer):
  this = case(name)
  rng = np.random.default_rng(0)
  n, D = len(this.prompts), this.model.config.d_model
  for shape in ((3, D), (3, n, D)):
    vectors = rng.normal(size=shape)
    arguments = this.model, this.clean, this.prompts, layer, vectors
    found = streams_with_added(*arguments, rows_per_batch=7)
    assert found.shape == (3, n, D)
    want = gj_streams(this, layer, vectors.astype(np.float32))
    close(found, want)
    assert np.abs(want - this.clean.final).max() > 0.1


def test_adding_the_difference_is_replacing():
  """Of an MLP's output, which both ways can do."""
  this = case('gpt2')
  for layer in (0, 2):
    change = this.other['mlp_out'][layer] - this.clean['mlp_out'][layer]
    added = streams_with_added(
      this.model, this.clean, this.prompts, layer, change[None]
    )
    close(this.readout.pi(added[0]), this.total()[layer, -1])


def test_bfloat16():
  exact = case('gemma2')
  weights = exact.model.weights()
  model = gj.Decoder(
    exact.model.config, {k: w.astype(jnp.bfloat16) for k, w in weights.items()}
  )
  clean, other = trace(model, exact.prompts), trace(model, exact.corrupted)
  readout = Readout.of(model, exact.prompts.answers, exact.prompts.names)
  assert clean.final.dtype == np.float32
  # A sender that writes what it wrote leaves the very run.
  own = donors(clean, mean=False)
  for each in total_streams(model, clean, own, exact.prompts):
    each = np.asarray(each, np.float32)
    np.testing.assert_array_equal(
      each, np.broadcast_to(clean.final, each.shape)
    )
  donor = donors(other, mean=True)
  base, true_base = readout.pi(clean.final), exact.readout.pi(exact.clean.final)
  total = total_effects(model, clean, donor, exact.prompts, readout) - base
  direct = direct_effects(model, clean, donor, readout) - base
  for ours, true in (
    (total, exact.total(mean=True) - true_base),
    (direct, exact.direct(mean=True) - true_base),
  ):
    assert np.isfinite(ours).all()
    assert np.corrcoef(ours.ravel(), true.ravel())[0, 1] > 0.99
  vector = np.ones((1, model.config.d_model))
  added = streams_with_added(model, clean, exact.prompts, 1, 0 * vector)
  np.testing.assert_array_equal(np.asarray(added, np.float32)[0], clean.final)


def test_whole_runs_of_the_bundled_model():
  reader = gj.CheckpointReader(str(BASE), dtype='float32')
  model, tokenizer = reader.load(), gj.Tokenizer.from_pretrained(BASE)
  every = make_prompts(tokenizer, read_task('city_country'), shots=2)
  rows = [0, 100, 213, 305, 527]
  prompts = every.take(rows)
  other = trace(model, corrupt(tokenizer, every, 0).take(rows))
  arguments = (
    model,
    trace(model, prompts),
    donors(other, mean=False),
    prompts,
    Readout.of(model, prompts.answers, prompts.names),
  )
  ours = total_effects(*arguments)
  plain = arguments[0], *arguments[2:]  # which runs the prompts itself
  close(ours, naive_total_effects(*plain))
  close(ours[[6]], naive_total_effects(*plain, layers=[6]))


def test_change_in_percent():
  patched = np.array([[[1.0, 3.0], [2.0, 2.0]]])
  found = change_in_percent(patched, np.array([4.0, 4.0]))
  np.testing.assert_allclose(found, [[-50.0, -50.0]])
  assert change_in_percent(np.array([6.0, 4.0]), np.array([2.0, 3.0])) == 100
