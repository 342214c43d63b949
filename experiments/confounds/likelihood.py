"""Does a latent say how likely the token was that it reads?

A model that sees a token it did not expect may well have a latent for that. On
plain text the reader at token i is correlated with p(t_i | t_<i), and with its
logarithm (arXiv 2411.14257, appendix S). Tokens of one document hang together,
so that documents are what is resampled for the intervals.
"""

from collections.abc import Sequence

import numpy as np

from experiments.confounds.linear_readout import LinearReadout
from experiments.stats.resampling import draw, estimate

RESAMPLES = 1000
# arXiv 2411.14257, table 9 (FineWeb): model -> label -> frequency, r.
PAPER = {
  'Gemma 2 2B': {'known': (0.006, 0.067), 'unknown': (0.005, -0.000)},
  'Gemma 2 9B': {'known': (0.009, 0.062), 'unknown': (0.009, 0.009)},
  'Llama 3.1 8B': {'known': (0.002, 0.003), 'unknown': (0.026, 0.047)},
}


def token_likelihood(
  readers: Sequence[LinearReadout],
  logp: Sequence[np.ndarray],
  values: Sequence[np.ndarray],
  seed: int = 0,
) -> list[dict]:
  """Returns what readers do at tokens of plain text.

  Args:
    readers: R of them.
    logp: Per document float [T - 1], ln p of its tokens.
    values: Per document float [R, T - 1].
    seed: Random seed of the bootstrap over documents.

  Returns:
    Per reader: 'frequency' of firing; 'r' of its value with p, 'r_log' with
    ln p, 'r_fires' of whether it fires with p; 'p_fires' and 'p_silent', mean p
    where it fires and where not; 'documents'. n counts tokens. A correlation
    with what never varies is not defined: None.

  Raises:
    ValueError: there are fewer than 2 documents.
  """
  documents = [i for i, one in enumerate(logp) if len(one)]
  if len(documents) < 2:
    raise ValueError(
      f'{len(documents)} documents have a token to predict; at least 2 are '
      'needed for an interval.'
    )
  drawn = draw(len(documents), np.random.default_rng([seed, 17]), RESAMPLES)
  weights = np.concatenate([np.ones((1, len(documents))), drawn])
  logs = [np.asarray(logp[i], np.float64) for i in documents]
  found = []
  for r, reader in enumerate(readers):
    mine = [np.asarray(values[i][r], np.float64) for i in documents]
    fires = [reader.fires(one).astype(float) for one in mine]
    p = [np.exp(one) for one in logs]
    found.append(
      reader.about()
      | {
        'frequency': _share(weights, fires, [np.ones(len(f)) for f in fires]),
        'r': correlation(weights, mine, p),
        'r_log': correlation(weights, mine, logs),
        'r_fires': correlation(weights, fires, p),
        'p_fires': _share(weights, [a * b for a, b in _both(fires, p)], fires),
        'p_silent': _share(
          weights,
          [(1 - a) * b for a, b in _both(fires, p)],
          [1 - a for a in fires],
        ),
        'documents': len(documents),
      }
    )
  return found


def correlation(
  weights: np.ndarray,
  x: Sequence[np.ndarray],
  y: Sequence[np.ndarray],
) -> dict:
  """Returns Pearson's r over all tokens, resampling documents.

  Args:
    weights: float [1 + K, documents], the first row ones.
    x, y: Per document, as many numbers.
  """
  # From where the data are, so that squares do not cancel.
  mx, my = (np.concatenate(one).mean() for one in (x, y))
  sums = np.array(
    [
      (len(a), a.sum(), b.sum(), a @ a, b @ b, a @ b)
      for a, b in ((a - mx, b - my) for a, b in _both(x, y))
    ]
  )
  n, sx, sy, sxx, syy, sxy = (weights @ sums).T
  with np.errstate(divide='ignore', invalid='ignore'):
    r = (sxy - sx * sy / n) / np.sqrt((sxx - sx * sx / n) * (syy - sy * sy / n))
  return estimate(r[0], r[1:], int(sums[:, 0].sum())).to_dict()


def _share(weights, part, whole) -> dict:
  """Returns sum(part) / sum(whole) over documents."""
  sums = np.array([(a.sum(), b.sum()) for a, b in _both(part, whole)])
  total, size = (weights @ sums).T
  with np.errstate(divide='ignore', invalid='ignore'):
    share = total / size
  return estimate(share[0], share[1:], int(round(sums[:, 1].sum()))).to_dict()


def _both(x, y):
  return zip(x, y, strict=True)
