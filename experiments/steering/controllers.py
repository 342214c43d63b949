"""Does what detects the unknown also control refusals? Their cosines.

  detector    a direction of the base model that tells known from unknown
              entities, at the last token of the name
  controller  what the chat model's stream has at the last token of a question
              that it declines, less what it has at one that it answers

A detector that is nearly perfect may be nearly orthogonal to the controller: it
is read at another token, and what it finds may be rotated on the way. Letters:
Q questions, D width, R resamples.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.stats.intervals import number_units
from experiments.stats.resampling import draw, estimate
from experiments.steering.questions import Question
import gemma_jax as gj


def last_streams(
  model: gj.Decoder,
  questions: Sequence[Question],
  site: str,
  layers: Sequence[int],
  *,
  rows_per_batch: int = 64,
) -> dict[int, np.ndarray]:
  """Returns what a site has at the last token of questions.

  Args:
    model: The chat model.
    questions: Q of them.
    site: Such as 'resid_post'.
    layers: Layers to read.
    rows_per_batch: Bounds memory.

  Returns:
    Layer -> float64 [Q, D].
  """
  layers, found = sorted(set(layers)), []
  size = min(rows_per_batch, len(questions))
  longest = max(question.length for question in questions)
  for start in range(0, len(questions), size):
    some = list(questions[start : start + size])
    filled = some + some[-1:] * (size - len(some))
    padded = gj.pad_rows(
      [question.ids for question in filled],
      model.config.fill_id,
      buckets=longest,
    )
    look = gj.capture(site, layers=layers, positions='last')
    out = gj.run(model, *padded, capture=look)
    found.append(np.asarray(out[site], np.float64)[:, : len(some), 0])
  return dict(zip(layers, np.concatenate(found, axis=1), strict=True))


def cosines(
  streams: Mapping[int, np.ndarray],
  refused: Sequence[bool],
  entities: Sequence[str],
  detectors: Mapping[str, tuple[int, np.ndarray]],
) -> list[dict]:
  """Returns the cosine of each detector with the controller of its layer.

  Args:
    streams: Layer -> float [Q, D], from `last_streams`.
    refused: bool [Q], which questions are declined.
    entities: Whom they are about; intervals resample these.
    detectors: Name -> layer, and direction [D] towards unknown entities.

  Returns:
    For each detector its 'name', 'layer' and 'cosine', an estimate as a dict;
    [] if all questions are declined, or none.
  """
  refused = np.asarray(refused, bool)
  if refused.all() or not refused.any():
    return []
  which, names = number_units(entities)
  drawn = draw(len(names), np.random.default_rng(0))[:, which]  # [R, Q]
  weights = np.concatenate([np.ones((1, len(refused))), drawn])
  found = []
  for name, (layer, direction) in detectors.items():
    x = streams[layer]
    with np.errstate(invalid='ignore', divide='ignore'):
      means = [
        (weights * mine) @ x / (weights * mine).sum(1, keepdims=True)
        for mine in (refused, ~refused)
      ]
    towards = means[0] - means[1]
    unit = direction / np.linalg.norm(direction)
    cosine = towards @ unit / np.linalg.norm(towards, axis=1)
    found.append(
      {
        'name': name,
        'layer': layer,
        'cosine': estimate(cosine[0], cosine[1:], len(refused)).to_dict(),
      }
    )
  return found
