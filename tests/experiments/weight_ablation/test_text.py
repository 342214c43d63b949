"""Divergence and loss on plain text, against torch."""

import numpy as np
import torch
from torch.nn import functional

from experiments.steering import ablate_weights
from experiments.weight_ablation import compare_on_text
import gemma_jax as gj
from tests import tiny


def test_divergence_and_loss_equal_torch():
  model = tiny.pair(num_hidden_layers=2)[1]
  direction = np.random.default_rng(0).standard_normal(40)
  edited = ablate_weights(model, direction, 'exact')
  rng = np.random.default_rng(1)
  rows = [[2, *map(int, rng.integers(3, 97, n))] for n in (7, 3, 5)]
  results, arrays = compare_on_text(
    model, {'exact': edited, 'same': (model, None)}, rows, rows_per_batch=2
  )
  tokens, positions = gj.pad_rows(rows, 0, side='right', buckets=8)
  both = [
    torch.tensor(
      np.asarray(
        gj.run(
          one, tokens, positions, interventions=given, logits_at='all'
        ).logits
      )
    ).log_softmax(-1)
    for one, given in ((model, None), edited)
  ]
  for i, row in enumerate(rows):
    p, q = (each[i, : len(row) - 1] for each in both)
    kl = functional.kl_div(q, p, log_target=True, reduction='none').sum(-1)
    loss = functional.nll_loss(q, torch.tensor(row[1:]))
    np.testing.assert_allclose(arrays['exact/kl'][i], kl.mean(), rtol=1e-3)
    np.testing.assert_allclose(arrays['exact/loss'][i], loss, rtol=1e-4)
  assert results['same']['kl']['value'] < 1e-6
  assert results['exact']['kl']['n'] == 3
  more = arrays['exact/loss'] - arrays['original/loss']
  np.testing.assert_allclose(
    results['exact']['more_loss']['value'], more.mean(), rtol=1e-6
  )
