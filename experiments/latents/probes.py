"""Detectors that were fitted, to compare single latents with.

  difference of means   x . (mean known - mean unknown): no fitting but means
  linear probe          logistic regression on standardised activations
  name tokens           logistic regression on which tokens a name has: what can
                        be told without any model

All are fitted on train with every class of every type weighing the same; how
strongly to regularise is chosen on validation by the mean AUROC over types;
report them on test.
"""

from collections.abc import Callable, Sequence
import dataclasses
import warnings

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from experiments.latents.held_out_rates import detection
from experiments.latents.labelled import LabelledEntities, check_classes

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C, inverse regularisation
MAX_ITERATIONS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
  """A fitted detector.

  Attributes:
    C: Chosen inverse regularisation.
    validation: C -> mean AUROC over types on validation.
    converged: True if the fit did, within MAX_ITERATIONS.
    weights: float64 [features].
    scores: Takes what it was fitted on, for other entities; float64 [n], higher
      for known.
  """

  C: float
  validation: dict[float, float]
  converged: bool
  weights: np.ndarray
  scores: Callable[..., np.ndarray]

  def to_dict(self) -> dict:
    """Returns a dict for JSON."""
    return {
      'C': self.C,
      'validation_auroc': self.validation,
      'converged': self.converged,
    }


def linear_probe(
  train: LabelledEntities,
  x_train: np.ndarray,
  validation: LabelledEntities,
  x_validation: np.ndarray,
  *,
  strengths: Sequence[float] = STRENGTHS,
) -> Probe:
  """Logistic regression on activations.

  Args:
    train, x_train: Entities, and float [n, D], what the model has at them.
    validation, x_validation: The same, to choose among `strengths`.
    strengths: Values of C.

  Raises:
    ValueError: a class of a type is empty in a split, or shapes differ.
  """
  scaler = StandardScaler().fit(np.asarray(x_train, np.float64))

  def features(x):
    return scaler.transform(np.asarray(x, np.float64))

  return _fit(train, x_train, validation, x_validation, features, strengths)


def token_probe(
  train: LabelledEntities,
  train_tokens: Sequence[Sequence[int]],
  validation: LabelledEntities,
  validation_tokens: Sequence[Sequence[int]],
  *,
  strengths: Sequence[float] = STRENGTHS,
) -> Probe:
  """Logistic regression on the tokens of names.

  Features are whether a name has a token first, last, and at all; tokens that
  no name of train has are not seen. Where names are balanced over all entities
  and not within the splits, what is rare among the known of train is common
  among those of test, and the AUROC falls below .5.

  Args:
    train, train_tokens: Entities, and the ids of their names' tokens.
    validation, validation_tokens: The same, to choose among `strengths`.
    strengths: Values of C.

  Raises:
    ValueError: a class of a type is empty in a split, or a name has no token.
  """
  columns = {
    feature: i
    for i, feature in enumerate(
      dict.fromkeys(f for name in train_tokens for f in _token_features(name))
    )
  }

  def features(names):
    matrix = sparse.lil_array((len(names), len(columns)))
    for row, name in enumerate(names):
      for feature in _token_features(name):
        if feature in columns:
          matrix[row, columns[feature]] = 1.0
    return matrix.tocsr()

  return _fit(
    train, train_tokens, validation, validation_tokens, features, strengths
  )


def _token_features(name: Sequence[int]) -> list[tuple[str, int]]:
  ids = [int(i) for i in name]
  if not ids:
    raise ValueError('A name has no token; leave its entity out.')
  return [('first', ids[0]), ('last', ids[-1]), *(('any', i) for i in ids)]


def _fit(train, x_train, validation, x_validation, features, strengths):
  """Returns the probe of the strength that is best on validation."""
  check_classes(train.types, train.counts(), 'train')
  check_classes(validation.types, validation.counts(), 'validation')
  for entities, x in ((train, x_train), (validation, x_validation)):
    if len(entities) != len(x):
      raise ValueError(f'There are {len(x)} rows for {len(entities)} entities.')
  if not strengths:
    raise ValueError('There is no C to choose from.')
  fitted_on, chosen_on = features(x_train), features(x_validation)
  fits, quality = {}, {}
  for C in strengths:
    model = LogisticRegression(C=C, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', ConvergenceWarning)  # it is reported
      model.fit(fitted_on, train.known, sample_weight=train.balanced())
    fits[C] = model
    found = detection(validation, model.decision_function(chosen_on))
    quality[C] = found['mean']['value']
  # The most regularised of equals.
  best = max(sorted(strengths), key=quality.get)
  model = fits[best]
  return Probe(
    C=best,
    validation=quality,
    converged=bool(model.n_iter_.max() < MAX_ITERATIONS),
    weights=model.coef_[0],
    scores=lambda x: model.decision_function(features(x)),
  )
