"""How far two models are apart on plain text."""

from collections.abc import Mapping, Sequence

import numpy as np
import tqdm

from experiments.stats.intervals import bootstrap_mean
import gemma_jax as gj


def compare_on_text(
  original: gj.Decoder,
  others: Mapping[str, tuple[gj.Decoder, gj.Interventions | None]],
  rows: Sequence[Sequence[int]],
  *,
  rows_per_batch: int = 16,
  seed: int = 0,
) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
  """Measures divergence from the original, and loss, per token of documents.

  Args:
    original: The model that others are compared with.
    others: Name -> model and its interventions.
    rows: Token ids of documents, BOS first, of two tokens or more.
    rows_per_batch: Documents that are read at once, which bounds memory.
    seed: Random seed of the intervals, which resample documents.

  Returns:
    Name -> {'kl': KL(original || other), 'loss', 'more_loss': loss less that of
    the original}, in nats per token: means over documents of their means over
    tokens. And arrays: 'NAME/kl' and 'NAME/loss' of every document, also
    'original/loss'.
  """
  length = max(map(len, rows))
  B = min(rows_per_batch, len(rows))
  models = {'original': (original, None), **others}
  found = {name: ([], []) for name in models}
  with tqdm.tqdm(total=len(rows), desc='Plain text', unit='text') as progress:
    for start in range(0, len(rows), B):
      count = min(B, len(rows) - start)
      at = np.minimum(np.arange(start, start + B), len(rows) - 1)
      tokens, positions = gj.pad_rows(
        [rows[i] for i in at],
        original.config.fill_id,
        side='right',
        buckets=length,
      )
      streams = {
        name: _last_stream(model, tokens, positions, interventions)
        for name, (model, interventions) in models.items()
      }
      predicted = (positions >= 0)[:, 1:]  # tokens, by those before them
      for name, (model, _) in models.items():
        before, after = streams['original'], streams[name]
        both = (
          gj.kl_divergence(original, before, after, model)[:, :-1],
          gj.token_losses(model, after, tokens)[:, :-1],
        )
        for parts, values in zip(found[name], both, strict=True):
          values = np.where(predicted, np.asarray(values, np.float64), 0)
          parts.append((values.sum(1) / predicted.sum(1))[:count])
      progress.update(count)
  arrays = {
    f'{name}/{what}': np.concatenate(parts)
    for name, both in found.items()
    for what, parts in zip(('kl', 'loss'), both, strict=True)
  }
  del arrays['original/kl']
  mean = lambda x: bootstrap_mean(x.tolist(), seed).to_dict()
  base = arrays['original/loss']
  results = {
    name: {
      'kl': mean(arrays[f'{name}/kl']),
      'loss': mean(arrays[f'{name}/loss']),
      'more_loss': mean(arrays[f'{name}/loss'] - base),
    }
    for name in others
  }
  return results, arrays


def _last_stream(model, tokens, positions, interventions):
  """Returns [B, T, D], what is unembedded."""
  out = gj.run(
    model,
    tokens,
    positions,
    interventions=interventions,
    capture=gj.capture('resid_post', layers=model.config.num_layers - 1),
  )
  return out['resid_post'][0]
