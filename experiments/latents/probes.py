"""Detectors that were fitted, to compare single latents with.

  difference of means   x . (mean known - mean unknown): no fitting but means
  linear probe          logistic regression on standardised activations
  graded probe          ridge regression on activations of how much a model
                        knows of an entity, not of whether it does, as KEEN has
                        it
  name tokens           logistic regression on which tokens a name has: what can
                        be told without any model
  text of the name      the same on its letters, one to four at a time

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
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.latents.held_out_rates import detection
from experiments.latents.labelled import LabelledEntities, check_classes

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C, inverse regularisation
RIDGES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)  # alpha
MAX_ITERATIONS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
  """A fitted detector.

  Attributes:
    C: Chosen inverse regularisation; of a graded probe its alpha.
    validation: C -> mean AUROC over types on validation; of a graded probe the
      mean squared error.
    converged: True if the fit did, within MAX_ITERATIONS.
    weights: float64 [features], of activations as they are.
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

  probe = _fit(train, x_train, validation, x_validation, features, strengths)
  return dataclasses.replace(probe, weights=probe.weights / scaler.scale_)


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


def text_probe(
  train: LabelledEntities,
  validation: LabelledEntities,
  *,
  strengths: Sequence[float] = STRENGTHS,
) -> Probe:
  """Logistic regression on the letters of names: what text alone tells.

  Features are TF-IDF of one to four letters in a row within words. The probe's
  scores take `LabelledEntities`.

  Args:
    train: Entities to fit on.
    validation: Entities to choose among `strengths`.
    strengths: Values of C.

  Raises:
    ValueError: a class of a type is empty in a split.
  """
  letters = TfidfVectorizer(analyzer='char_wb', ngram_range=(1, 4))
  letters.fit(train.names)
  features = lambda entities: letters.transform(entities.names)
  return _fit(train, train, validation, validation, features, strengths)


def graded_probe(
  train_grades: np.ndarray,
  x_train: np.ndarray,
  validation_grades: np.ndarray,
  x_validation: np.ndarray,
  *,
  strengths: Sequence[float] = RIDGES,
) -> Probe:
  """Ridge regression of how much is known of an entity on activations.

  Args:
    train_grades, x_train: Grades float [n], such as the share of right answers,
      and what the model has there, float [n, D].
    validation_grades, x_validation: The same, to choose among `strengths`, by
      the mean squared error.
    strengths: Values of alpha, of standardised activations.

  Raises:
    ValueError: shapes differ.
  """
  for grades, x in (
    (train_grades, x_train),
    (validation_grades, x_validation),
  ):
    if len(grades) != len(x):
      raise ValueError(f'There are {len(x)} rows for {len(grades)} grades.')
  fits = {
    alpha: make_pipeline(StandardScaler(), Ridge(alpha)).fit(
      np.asarray(x_train, np.float64), train_grades
    )
    for alpha in strengths
  }
  errors = {
    alpha: float(np.mean((fit.predict(x_validation) - validation_grades) ** 2))
    for alpha, fit in fits.items()
  }
  best = min(sorted(strengths, reverse=True), key=errors.get)
  scaler, ridge = (step for _, step in fits[best].steps)
  return Probe(
    C=best,
    validation=errors,
    converged=True,
    weights=ridge.coef_ / scaler.scale_,
    scores=lambda x: fits[best].predict(np.asarray(x, np.float64)),
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
