"""Is anything of a direction still written? Measured on real runs."""

from collections.abc import Sequence

import numpy as np

from experiments.steering import Question
import gemma_jax as gj

# What sublayers add, the stream between them, and, at layer 0, the embedding.
SITES = ('resid_pre', 'attn_out', 'resid_mid', 'mlp_out', 'resid_post')
_ROWS = 32  # questions that are read at once


def largest_cosines(
  model: gj.Decoder,
  interventions: gj.Interventions | None,
  direction: np.ndarray,
  questions: Sequence[Question],
) -> dict[str, np.ndarray]:
  """Measures how much of a direction a model writes, anywhere.

  Args:
    model: The model.
    interventions: Edits of every pass.
    direction: The direction [D].
    questions: What the model reads.

  Returns:
    Site -> float64 [L], the largest |cosine| with the direction of any token.
    Where nothing at all is written it is 0.
  """
  unit = np.asarray(direction, np.float64)
  unit = unit / np.linalg.norm(unit)
  length = max(question.length for question in questions)
  B = min(_ROWS, len(questions))
  found = {site: np.zeros(model.config.num_layers) for site in SITES}
  for start in range(0, len(questions), B):
    at = np.minimum(np.arange(start, start + B), len(questions) - 1)
    padded = gj.pad_rows(
      [questions[i].ids for i in at], model.config.fill_id, buckets=length
    )
    out = gj.run(
      model, *padded, interventions=interventions, capture=gj.capture(*SITES)
    )
    for site, x in out.activations.items():
      x = np.asarray(x, np.float64)[:, padded.positions >= 0]  # [L, n, D]
      norms = np.linalg.norm(x, axis=-1)
      cosines = np.abs(x @ unit) / np.where(norms > 0, norms, 1)
      found[site] = np.maximum(found[site], cosines.max(axis=1))
  return found
