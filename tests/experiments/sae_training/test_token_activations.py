"""The stream gives HF's activations of the kept tokens, from any place on."""

import itertools

import numpy as np
import pytest
import torch

from experiments.inputs.token_rows import TokenRows
from experiments.sae_training import token_activations
from experiments.sae_training.token_activations import (
  ActivationStream,
  num_batches,
  read_batch,
)
import gemma_jax as gj
from gemma_jax import running
from gemma_jax.weights import BLOCK_LETTERS
from tests import tiny
from tests.experiments import worlds

LAYERS = (3, 1)


@pytest.fixture
def rows(tmp_path):
  """Rows of different lengths, with EOS inside."""
  texts = [*worlds.texts(12), 'art <eos> party', 'Paris']
  return worlds.write(tmp_path / 'rows', texts)


def collect(stream, first=0, batches=10**6):
  parts = list(itertools.islice(stream(first), batches))
  assert all(keep.shape == x.shape[1:2] for x, keep in parts)
  return np.concatenate([np.asarray(x)[:, keep] for x, keep in parts], axis=1)


def make(rows, model=None, **changes):
  options = {'site': 'resid_post', 'layers': LAYERS, 'batch_size': 6}
  return ActivationStream(model or worlds.model(), rows, **options | changes)


def test_equals_hf_at_kept_tokens(rows):
  hf, _ = tiny.pair(vocab_size=worlds.VOCABULARY)
  expected = [[] for _ in LAYERS]
  for row in rows.read(0, 10**6):
    with torch.no_grad():
      states = hf(
        torch.tensor(row)[None].long(), output_hidden_states=True
      ).hidden_states
    keep = ~np.isin(row, [0, 1, 2])
    for s, layer in enumerate(LAYERS):
      expected[s].append(states[layer + 1][0].numpy()[keep])
  expected = np.stack([np.concatenate(parts) for parts in expected])
  got = collect(make(rows))
  assert got.shape == expected.shape == (2, rows.num_kept, 40)
  np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_opens_in_the_middle(rows):
  stream = make(rows)
  whole = collect(stream)
  for first in (1, 17, 40, rows.num_kept - 1):
    np.testing.assert_array_equal(collect(stream, first), whole[:, first:])
  assert collect(stream, rows.num_kept).shape[1] == 0


def test_does_not_run_on_what_is_skipped(rows, monkeypatch):
  calls = []
  run = gj.run
  monkeypatch.setattr(
    token_activations.gj, 'run', lambda *a, **k: calls.append(1) or run(*a, **k)
  )
  total = num_batches(rows, 10**9, 6)[0]
  list(make(rows)(0))
  assert len(calls) == total
  calls.clear()
  list(make(rows)(rows.num_kept - 1))
  assert len(calls) == 1


def test_repeats(tmp_path, rows):
  stream = make(TokenRows(tmp_path / 'rows', repeat=True))
  once = collect(make(rows))
  n = once.shape[1]
  twice = collect(stream, batches=12)
  assert twice.shape[1] > n
  np.testing.assert_allclose(
    twice[:, n:], once[:, : twice.shape[1] - n], atol=1e-5
  )
  later = collect(stream, n + 5, batches=2)
  expected = twice[:, n + 5 :][:, : later.shape[1]]
  np.testing.assert_array_equal(later[:, : expected.shape[1]], expected)


def test_a_truncated_model_and_another_site(tmp_path):
  rows = worlds.write(tmp_path / 'rows', worlds.texts(20))
  model = worlds.model()
  part = {
    name: w[:2] if name in BLOCK_LETTERS else w
    for name, w in model.weights().items()
  }
  truncated = gj.Decoder(model.config.truncated(2), part)
  options = {'site': 'z', 'layers': [1]}
  got = collect(make(rows, truncated, **options), batches=2)
  np.testing.assert_array_equal(got, collect(make(rows, **options), batches=2))
  assert got.shape[2] == 64


def test_one_compilation(rows):
  before = running._forward._cache_size()
  model = worlds.model()
  list(make(rows, model, batch_size=3)(0))
  assert running._forward._cache_size() == before + 1


def test_batches_end(rows):
  count, stop = num_batches(rows, 30, 4)
  kept = [int(read_batch(rows, i, 4, stop).keep.sum()) for i in range(count)]
  assert 30 <= sum(kept) < 40
  assert num_batches(rows, 10**9, 6)[1] == rows.num_rows
