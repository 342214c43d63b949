"""What the last layer writes: common tokens, and the average token?

Lv et al. say that the last layer's heads write frequent tokens and that its MLP
pushes towards the average token of the training text. Both are measured against
how often tokens occur in some text, and in all layers: what every layer does is
no mark of the last one. (Section 1.6 of the recall specification.)

Letters: n prompts, L layers, N heads, U subjects, k tokens that occur.
"""

from collections.abc import Sequence
import math

import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.factual_recall.least_squares import cosine
from experiments.factual_recall.trace import Trace
from experiments.stats.intervals import CONFIDENCE, Estimate, number_units
from experiments.stats.resampling import bounds, draw, estimate, mean_by_unit
import gemma_jax as gj

# Random assignments of frequencies to tokens, for what is expected by chance.
CHANCES = 200
_STEP = 8192


def last_layer_writes(
  model: gj.Decoder,
  trace: Trace,
  unigram: np.ndarray,
  *,
  units: Sequence[str],
  intercepts: np.ndarray | None = None,
  tokenizer: gj.Tokenizer | None = None,
  averages: tuple[np.ndarray, np.ndarray] | None = None,
  top: int = 10,
  seed: int = 0,
) -> dict:
  """Compares what heads and MLPs write with how common tokens are.

  What is written is the mean over prompts of what is added to the stream at the
  last token, post-norms included. Rank correlations are over the k tokens that
  occur, between its logits (through the final norm's gain) and log frequency.
  Their intervals take tokens as independent (Bonett and Wright, Psychometrika
  65, 23-28 (2000)); n counts tokens.

  Cosines are with the average token, sum_v f(v) W_U[v] less the mean row of
  W_U, f being frequencies. 'cosine' takes it as it is; 'cosine_with_gain'
  times the final norm's gain, as the unembedding reads the stream. Their
  intervals come from resampling subjects, for the MLP's mean output, and n
  counts prompts; an intercept comes from elsewhere and has no interval.
  'chance' is where 95 % of cosines lie if the same frequencies are given to
  random tokens.

  Args:
    model: Stacked.
    trace: A run of n prompts.
    unigram: int [V or fewer], how often each token occurs in some text.
    units: The subject of each of the n prompts.
    intercepts: float [L, D], the constant part of each layer's MLP; None is
      none.
    tokenizer: Spells tokens; None leaves it.
    averages: From `averages_by_chance`; None makes them.
    top: How many of the likeliest tokens are listed.
    seed: Random seed of resamples and of random tokens.

  Returns:
    'tokens' and 'tokens_seen', of the text, and 'vocabulary'. 'heads': for each
    of the last layer's, 'layer', 'head', 'frequency' (the correlation) and
    'top' (a list of 'id', 'text', 'logit'). 'layers': for each layer 'layer';
    'frequency', correlations of 'heads' (a list), 'attn' and 'mlp' (all that is
    written), 'intercept'; 'cosine' and 'cosine_with_gain', of 'mlp' and
    'intercept'. 'last_less_others': of the last layer, less the mean of the
    others, the correlations of 'heads' (their mean), 'attn' and 'mlp', and
    'cosine' of 'mlp', without intervals, n being the others; None with one
    layer.

  Raises:
    ValueError: the counts are not of this vocabulary, or no token occurs.
  """
  config = model.config
  L, N, V = config.num_layers, config.num_heads, config.vocab_size
  counts = _checked(unigram, V)
  seen = np.flatnonzero(counts)
  log_counts = np.log(counts[seen])
  rng = np.random.default_rng(seed)
  if averages is None:
    averages = averages_by_chance(model, counts, seed)
  average, chance = averages
  resamples = draw(len(set(units)), rng)
  layers, heads = [], []

  def frequency(logits):
    return rank_correlation(logits[seen], log_counts).to_dict()

  for layer in range(L):
    z, raw = trace['z'][layer], trace['attn_out_raw'][layer]
    written = [
      *gj.head_outputs(model, layer, z, raw).mean(0),  # N of them
      trace['attn_out'][layer].mean(0, dtype=np.float64),
      trace['mlp_out'][layer].mean(0, dtype=np.float64),
    ]
    if intercepts is not None:
      written.append(np.asarray(intercepts[layer], np.float64))
    logits = np.asarray(gj.to_vocabulary(model, np.stack(written)))
    found = [frequency(each) for each in logits]
    own = {'attn': found[N], 'mlp': found[N + 1], 'intercept': None}
    if intercepts is not None:
      own['intercept'] = found[N + 2]
    row = {'layer': layer, 'frequency': {'heads': found[:N], **own}}
    for name, gained in (('cosine', False), ('cosine_with_gain', True)):
      through = gj.through_final_norm if gained else lambda model, x: x
      average_cosine = _Cosine(
        through(model, average), through(model, chance), resamples, units
      )
      row[name] = {
        'mlp': average_cosine.of_mean(trace['mlp_out'][layer]),
        'intercept': None
        if intercepts is None
        else average_cosine.of(intercepts[layer], len(units)),
      }
    layers.append(row)
    if layer == L - 1:
      heads = [
        {
          'layer': layer,
          'head': head,
          'frequency': found[head],
          'top': _top(logits[head], top, tokenizer),
        }
        for head in range(N)
      ]
  return {
    'tokens': int(counts.sum()),
    'tokens_seen': len(seen),
    'vocabulary': V,
    'heads': heads,
    'layers': layers,
    'last_less_others': _compare(layers),
  }


def average_token(
  model: gj.Decoder, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the average token, and the mean row of W_U; float64 [D] each.

  The average is weighted by frequency, less the mean row.

  Args:
    model: Unembeds.
    counts: [V], how often each token occurs.
  """
  V = model.config.vocab_size
  weighted, total = 0.0, 0.0
  for start in range(0, V, _STEP):
    tokens = np.arange(start, min(V, start + _STEP))
    rows = np.asarray(model.unembedding[jnp.asarray(tokens)], np.float64)
    weighted = weighted + counts[tokens] @ rows
    total = total + rows.sum(0)
  return weighted / counts.sum() - total / V, total / V


def rank_correlation(x: np.ndarray, y: np.ndarray) -> Estimate:
  """Spearman's rho of [k] and [k], with Bonett and Wright's interval.

  NaN where one of them is constant; no interval with fewer than four pairs.
  """
  k = len(x)
  if k < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
    return Estimate.without_interval(math.nan, k)
  rho = float(stats.spearmanr(x, y).statistic)
  if k < 4 or abs(rho) >= 1:
    return Estimate.without_interval(rho, k)
  reach = stats.norm.ppf((1 + CONFIDENCE) / 2)
  reach *= math.sqrt((1 + rho**2 / 2) / (k - 3))
  middle = math.atanh(rho)
  return Estimate(
    value=rho,
    low=math.tanh(middle - reach),
    high=math.tanh(middle + reach),
    n=k,
  )


class _Cosine:
  """Cosines with the average token, by chance too."""

  def __init__(self, average, chance, resamples, units):
    self._average, self._chance = average, chance
    self._resamples, self._units = resamples, units

  def of(self, vector, n) -> dict:
    """Returns the readout of a vector [D] that has no interval."""
    value = float(cosine(vector, self._average))
    low, high = bounds(cosine(vector, self._chance))
    found = Estimate.without_interval(value, n).to_dict()
    return {**found, 'chance': [float(low), float(high)]}

  def of_mean(self, outputs) -> dict:
    """Returns the readout of the mean of [n, D], resampling subjects."""
    outputs = np.asarray(outputs, np.float64)
    found = self.of(outputs.mean(0), len(outputs))
    by_unit, names = mean_by_unit(outputs, self._units)
    if len(names) < 2:
      return found
    sizes = np.bincount(number_units(self._units)[0])
    drawn = self._resamples @ (by_unit * sizes[:, None])  # a sum's direction
    resampled = cosine(drawn, self._average)
    return found | estimate(found['value'], resampled, len(outputs)).to_dict()


def averages_by_chance(
  model: gj.Decoder, unigram: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the average token [D], and others if counts were other tokens'.

  float64; the others are [CHANCES, D].
  """
  counts = _checked(unigram, model.config.vocab_size)
  average, mean = average_token(model, counts)
  counts = counts[counts > 0].astype(np.float32)
  rng, found = np.random.default_rng(seed), []
  for _ in range(CHANCES):
    tokens = rng.choice(model.config.vocab_size, len(counts), replace=False)
    rows = np.asarray(model.unembedding[jnp.asarray(tokens)], np.float32)
    found.append(counts @ rows / counts.sum() - mean)
  return average, np.stack(found).astype(np.float64)


def _checked(unigram, V) -> np.ndarray:
  """Counts float64 [V]; tokens that the tokenizer does not have are at 0."""
  counts = np.asarray(unigram, np.float64)
  if counts.ndim != 1 or len(counts) > V or (counts < 0).any():
    raise ValueError(
      f'Counts have shape {counts.shape}, expected [V] of a vocabulary of '
      f'{V}, none negative: they are those of another tokenizer.'
    )
  if not counts.sum():
    raise ValueError('No token occurs in the text that was counted.')
  return np.pad(counts, (0, V - len(counts)))


def _top(logits, count, tokenizer) -> list[dict]:
  ids = np.argsort(-logits, kind='stable')[:count].tolist()
  if tokenizer is None:
    texts = [None] * len(ids)
  else:
    V = tokenizer.vocab_size
    texts = [tokenizer.token_strings([i])[0] if i < V else None for i in ids]
  return [
    {'id': i, 'text': text, 'logit': float(logits[i])}
    for i, text in zip(ids, texts, strict=True)
  ]


def _compare(layers: list[dict]) -> dict | None:
  """Returns the last layer less the others' mean; None without others."""
  if len(layers) < 2:
    return None

  def value(estimate):
    return math.nan if estimate['value'] is None else estimate['value']

  rows = [
    {
      'heads': np.mean([value(each) for each in row['frequency']['heads']]),
      'attn': value(row['frequency']['attn']),
      'mlp': value(row['frequency']['mlp']),
      'cosine': value(row['cosine']['mlp']),
    }
    for row in layers
  ]
  found = {}
  for key, last in rows[-1].items():
    others = [row[key] for row in rows[:-1]]
    difference = Estimate.without_interval(last - np.mean(others), len(others))
    found[key] = difference.to_dict()
  return found
