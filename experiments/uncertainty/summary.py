"""Detectors' numbers on test, on other types, and on other questions.

Thresholds and calibration are chosen on validation. Intervals are bootstraps
over clusters: questions about one entity are resampled together.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np
from sklearn import metrics

from experiments.stats import detection
from experiments.stats.curves import roc_points
from experiments.uncertainty.asked_questions import TRIVIA, Asked
from experiments.uncertainty.error_detectors import Detector, calibrated

# Points of a curve that are kept.
_POINTS = 200


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
  """Holds the questions that count, in one order for all arrays.

  Attributes:
    asked: n questions.
    types: Types of their entities [n].
    splits: Their splits [n]; TRIVIA for those that nothing is fitted on.
    groups: What their answers are [n], see labels.GROUPS.
    error: bool [n], True for errors.
    clusters: Names [n]; questions of one cluster are resampled together.
  """

  asked: Sequence[Asked]
  types: np.ndarray
  splits: np.ndarray
  groups: np.ndarray
  error: np.ndarray
  clusters: Sequence[str]


def summarise(
  table: Table,
  fits: Mapping[str, np.ndarray],
  detectors: Sequence[Detector],
  *,
  random: Mapping[str, np.ndarray],
  cross: Mapping[str, Mapping[str, np.ndarray]],
  seed: int = 0,
) -> tuple[dict, dict[str, np.ndarray]]:
  """Computes all numbers.

  Args:
    table: n questions.
    fits: Split -> bool [n], the questions to choose or to test on.
    detectors: The best latent first; others are compared with it.
    random: Random latent -> its activations [n].
    cross: Type -> kind of detector -> scores [n] of one that never saw the
      type.
    seed: Random seed of the resamples.

  Returns:
    'n': split -> errors, correct answers, clusters; 'detectors', each with
    'test', 'transfer', 'types', and 'known', its AUROC among questions about
    known entities alone, with their errors and correct answers; 'random';
    'cross': type -> kind -> AUROC; 'groups': type -> group -> activations of
    the best latent on test. And arrays: 'error', 'score/NAME'.
  """
  test, elsewhere = fits['test'], table.splits == TRIVIA
  described = [
    _describe(table, fits, each, detectors[0], elsewhere, seed)
    for each in detectors
  ]
  results = {
    'n': {
      name: _sizes(table, which)
      for name, which in {**fits, 'transfer': elsewhere}.items()
      if which.any()
    },
    'detectors': described,
    'random': _random(table, test, elsewhere, random, detectors[0]),
    'cross': {
      name: {
        which: _auroc(table, test & (table.types == name), scores, seed)
        for which, scores in mine.items()
      }
      for name, mine in cross.items()
    },
    'groups': _groups(table, test | elsewhere, detectors[0].scores),
  }
  arrays = {
    'error': table.error.astype(np.int8),
    'test': test.astype(np.int8),
    **{f'score/{d.name}': d.scores.astype(np.float32) for d in detectors},
  }
  return results, arrays


def _describe(table, fits, detector, first, elsewhere, seed) -> dict:
  """Returns a detector's numbers."""
  validation, test = fits['validation'], fits['test']
  scores, error = detector.scores, table.error
  thresholds = {
    rule: detection.choose_threshold(
      error[validation], scores[validation], rule
    )
    for rule in detection.RULES
  }
  probabilities = calibrated(scores, error, validation)
  places = {'test': test}
  if elsewhere.any() and np.isfinite(scores[elsewhere]).all():
    places['transfer'] = elsewhere
  found = {
    'name': detector.name,
    'kind': detector.kind,
    'where': detector.where,
    'about': detector.about,
    'thresholds': thresholds,
  }
  for name, which in places.items():
    if len(set(error[which])) < 2:
      continue
    clusters = _clusters(table, which)
    numbers = detection.bootstrap(
      error[which],
      scores[which],
      clusters,
      thresholds=thresholds,
      probabilities=probabilities[which],
      seed=seed,
    )
    curve = detection.risk_coverage(error[which], scores[which])
    found[name] = {
      **{key: one.to_dict() for key, one in numbers.items()},
      'aurc_optimal': curve.optimal,
      'aurc_random': curve.random,
      'difference': detection.auroc_difference(
        error[which], scores[which], first.scores[which], clusters, seed=seed
      ).to_dict(),
      'reliability': detection.reliability(
        error[which], probabilities[which]
      ).to_dict(),
      'raw_reliability': None
      if detector.probabilities is None
      else detection.reliability(
        error[which], detector.probabilities[which]
      ).to_dict(),
      'curves': _curves(error[which], scores[which], curve),
    }
  found['types'] = {
    name: _auroc(table, test & (table.types == name), scores, seed)
    for name in sorted(set(table.types[test]))
  }
  # Does it see errors, or names that it does not know?
  known = np.array([each.entity_class == 'known' for each in table.asked])
  found['known'] = _auroc(table, test & known, scores, seed)
  if found['known']:
    found['known'] |= _sizes(table, test & known)
  return found


def _auroc(table, which, scores, seed) -> dict | None:
  """Returns the AUROC with its interval; None where a class is missing."""
  error = table.error[which]
  if len(set(error)) < 2:
    return None
  clusters = _clusters(table, which)
  return detection.auroc_by_cluster(
    error, scores[which], clusters, seed=seed
  ).to_dict()


def _random(table, test, elsewhere, random, best) -> dict | None:
  """Compares the best latent with random ones.

  Each random one takes the direction that suits it.
  """
  if not random:
    return None
  found = {'latents': list(random)}
  for name, which in {'test': test, 'transfer': elsewhere}.items():
    error = table.error[which]
    if len(set(error)) < 2:
      continue
    areas = np.array(
      [metrics.roc_auc_score(error, each[which]) for each in random.values()]
    )
    areas = np.maximum(areas, 1 - areas)
    mine = metrics.roc_auc_score(error, best.scores[which])
    found[name] = {
      'mean': float(areas.mean()),
      'low': float(areas.min()),
      'high': float(areas.max()),
      'n': len(areas),
      'p': float((1 + (areas >= mine).sum()) / (1 + len(areas))),
    }
  return found


def _groups(table, which, activations) -> dict:
  """Returns type -> group -> quartiles, mean and firing rate."""
  found = {}
  for name in sorted(set(table.types[which])):
    for group in dict.fromkeys(table.groups[which & (table.types == name)]):
      mine = activations[
        which & (table.types == name) & (table.groups == group)
      ]
      quartiles = np.quantile(mine, [0, 0.25, 0.5, 0.75, 1])
      found.setdefault(name, {})[group] = {
        'n': len(mine),
        'mean': float(mine.mean()),
        'active': float((mine > 1e-6).mean()),
        **dict(
          zip(
            ('min', 'q1', 'median', 'q3', 'max'),
            map(float, quartiles),
            strict=True,
          )
        ),
      }
  return found


def _curves(error, scores, risk) -> dict:
  """Returns ROC, precision and recall, risk and coverage, in few points."""
  false, true, _ = roc_points(error, scores)
  precision, recall, _ = metrics.precision_recall_curve(error, scores)
  return {
    'roc': _few(false, true),
    'precision_recall': _few(recall, precision),
    'risk_coverage': _few(risk.coverage, risk.risk),
  }


def _few(x, y) -> dict[str, list[float]]:
  at = np.unique(np.linspace(0, len(x) - 1, _POINTS).round().astype(int))
  return {
    'x': np.round(x[at], 5).tolist(),
    'y': np.round(y[at], 5).tolist(),
  }


def _clusters(table, which) -> list[str]:
  return [table.clusters[i] for i in np.flatnonzero(which)]


def _sizes(table, which) -> dict[str, int]:
  return {
    'errors': int((which & table.error).sum()),
    'correct': int((which & ~table.error).sum()),
    'clusters': len(set(_clusters(table, which))),
  }
