"""Do the heads that matter move the argument? And from which tokens?

A *mover* head attends from the last token to the subject, and writes along the
subject's unembedding the more, the more it attends: Pearson's r over prompts of
the attention and of the raw product of its output with the unembedding of the
subject's first token (section 1.4). Source-token attribution splits a head's
direct contribution to the answer's logit by the token that it read
(Chughtai et al. 2024, section 2.3).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.trace import Readout, Trace, batches
from experiments.stats.intervals import Estimate, number_units
from experiments.stats.resampling import draw, estimate
import gemma_jax as gj

# Where a head's contribution can come from.
SOURCES = ('before', 'subject', 'relation', 'last')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Movers:
  """Every head's attention to the subject, and what it writes of it.

  Attributes:
    attention: float64 [L, N, n], from the last token to all of the subject's.
    write: float64 [L, N, n], the head's output times the unembedding of the
      subject's first token; no norm.
    names: The subject of each prompt, which resampling draws.
    seed: Random seed of the resamples.
  """

  attention: np.ndarray
  write: np.ndarray
  names: list[str]
  seed: int

  def correlations(self, resamples: int = 1000) -> list[list[Estimate]]:
    """Pearson's r of attention and write, [L][N], resampling subjects.

    NaN where one of them never varies.
    """
    which, names = number_units(self.names)
    x, y = self.attention, self.write
    x = x - x.mean(-1, keepdims=True)  # r does not see it; sums stay exact
    y = y - y.mean(-1, keepdims=True)
    sums = np.zeros((len(names), 6, *x.shape[:2]))
    moments = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y])
    np.add.at(sums, which, np.moveaxis(moments, -1, 0))
    rng = np.random.default_rng(self.seed)
    drawn = draw(len(names), rng, resamples)
    resampled = _pearson(np.einsum('RU,U...->R...', drawn, sums).swapaxes(0, 1))
    found = _pearson(sums.sum(0))
    L, N, n = x.shape
    return [
      [
        estimate(found[layer, head], resampled[:, layer, head], n)
        for head in range(N)
      ]
      for layer in range(L)
    ]


def movers(
  model: gj.Decoder, trace: Trace, prompts: Prompts, seed: int = 0
) -> Movers:
  """Reads every head's attention to the subject and its write along it."""
  rows = np.asarray(model.unembedding[jnp.asarray(prompts.names)], np.float64)
  write = []
  for layer in range(model.config.num_layers):
    heads = gj.head_outputs(
      model, layer, trace['z'][layer], trace['attn_out_raw'][layer]
    )
    write.append(np.einsum('nND,nD->Nn', heads, rows))
  attention = trace.attention_to(prompts.spans).astype(np.float64)
  return Movers(
    attention=attention.swapaxes(1, 2),
    write=np.stack(write),
    names=prompts.units,
    seed=seed,
  )


def source_attribution(
  model: gj.Decoder,
  prompts: Prompts,
  trace: Trace,
  readout: Readout,
  rows_per_batch: int = 64,
) -> np.ndarray:
  """Returns each head's direct contribution to pi(Y) by the token that it read.

  The final norm and post-norms are held at their scales in this run, so that
  the sum over sources is the head's whole contribution, exactly.

  Args:
    model: Stacked.
    prompts: n of them.
    trace: Their run.
    readout: Readout of the same prompts.
    rows_per_batch: Prompts at once; bounds memory.

  Returns:
    float64 [L, N, n, 4]: from tokens before the prompt's own (demonstrations),
    from the subject, from the prompt's other tokens, and from the last one.
  """
  config = model.config
  L, N, n = config.num_layers, config.num_heads, len(prompts)
  P = len(prompts.prefix)
  tokens, positions = prompts.whole()
  scale = gj.norm_scale(config, trace.final)
  directions = readout.answer / scale[:, None]  # [n, D]
  wo = np.asarray(model.blocks.wo[...], np.float64)  # [L, D, N, H]
  read = []  # what is read off each head's value
  for layer in range(L):
    towards = gj.through_post_norm(
      model, layer, directions, trace['attn_out_raw'][layer]
    )
    read.append(np.tensordot(towards, wo[layer], 1))  # [n, N, H]
  found = np.zeros((L, N, n, len(SOURCES)))
  for rows in batches(n, rows_per_batch):
    at = positions[rows]
    values, pattern = _values_and_pattern(model, tokens[rows], at)
    groups = _groups(at, prompts.spans[rows], prompts.ends[rows], P)
    for layer in range(L):
      v = np.repeat(
        np.asarray(values[layer], np.float64), N // config.num_kv_heads, 1
      )
      each = np.matmul(v, read[layer][rows][..., None])[..., 0]  # [n, N, T]
      each *= np.asarray(pattern[layer, :, :, 0], np.float64)
      found[layer][:, rows] = np.matmul(each, groups).swapaxes(0, 1)
  return found


@jax.jit
def _values_and_pattern(model, tokens, positions):
  """Values [L, n, K, T, H], and the last token's pattern [L, n, N, 1, T]."""
  n, T = tokens.shape
  out = gj.forward(
    model,
    tokens,
    positions,
    capture=gj.capture('pattern', positions='last'),
    cache=gj.Cache.empty(model.config, n, T, model.dtype),
    cache_is_empty=True,
  )
  return out.cache.v, out['pattern']


def _groups(positions, spans, ends, P) -> np.ndarray:
  """float64 [n, T, 4], which source each token belongs to."""
  subject = (positions >= spans[:, :1]) & (positions < spans[:, 1:])
  before = (positions >= 0) & (positions < P)
  last = (positions == ends[:, None]) & ~subject
  other = (positions >= P) & ~subject & ~last
  return np.stack([before, subject, other, last], axis=-1).astype(np.float64)


def _pearson(sums: np.ndarray) -> np.ndarray:
  """r from n, x, y, xx, yy, xy, each [...]; NaN without variance."""
  n, x, y, xx, yy, xy = sums
  covariance = n * xy - x * y
  spread = (n * xx - x * x) * (n * yy - y * y)
  tiny = 1e-24 * (n * n) ** 2
  return np.divide(
    covariance,
    np.sqrt(np.maximum(spread, 0)),
    out=np.full_like(covariance, np.nan),
    where=spread > tiny,
  )
