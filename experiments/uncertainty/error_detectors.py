"""Detectors that read the model where the questions are read.

latent               the activation of one latent, as it is
difference of means  x . (mean of errors - mean of correct answers) on train
linear probe         logistic regression on standardised activations, every
                     class of every type weighing the same; its regularisation
                     is chosen on validation
published probe      logistic regression of scikit-learn as it comes, on as many
                     errors as correct answers

Letters: n questions, D width of the site.
"""

import dataclasses

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.latents import LabelledEntities, linear_probe

LATENT, RANDOM = 'latent', 'random latents'
MEANS, PROBE = 'difference of means', 'linear probe'
ANSWER, P_TRUE, NO_MODEL = 'answer', 'P(True)', 'no model'


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Detector:
  """Gives every question a score, higher for errors.

  Attributes:
    name: A name that no other detector has.
    kind: One of the kinds at the top of this file, such as LATENT.
    scores: float64 [n], scores of all questions; NaN where it has none.
    where: Site and layer that it reads, such as 'resid_post.6'; '' for none.
    probabilities: float64 [n], probabilities of an error that it gives by
      itself; None for none.
    about: What else results.json has of it.
  """

  name: str
  kind: str
  scores: np.ndarray
  where: str = ''
  probabilities: np.ndarray | None = None
  about: dict = dataclasses.field(default_factory=dict)


def difference_of_means(
  x: np.ndarray, error: np.ndarray, train: np.ndarray, types: np.ndarray
) -> np.ndarray:
  """Returns float64 [n], x on the mean over types of the classes' difference.

  Args:
    x: float [n, D].
    error: bool [n].
    train: bool [n], the questions to take means of.
    types: [n] names; every type weighs the same.
  """
  x = np.asarray(x, np.float64)
  apart = [
    x[train & error & (types == name)].mean(axis=0)
    - x[train & ~error & (types == name)].mean(axis=0)
    for name in sorted(set(types[train]))
  ]
  return x @ np.mean(apart, axis=0)


def probe(
  x: np.ndarray,
  error: np.ndarray,
  train: np.ndarray,
  validation: np.ndarray,
  types: np.ndarray,
) -> tuple[np.ndarray, dict]:
  """Fits a linear probe; returns its scores float64 [n], and how it was fitted.

  Args:
    x: float [n, D].
    error: bool [n].
    train: bool [n], to fit on; every type has both classes.
    validation: bool [n], to choose on; types without both classes are left
      out there.
    types: [n] names.

  Raises:
    ValueError: no type has both classes in validation.
  """
  both = [
    name
    for name in sorted(set(types[validation]))
    if len(set(error[validation & (types == name)])) == 2
  ]
  if not both:
    raise ValueError(
      'No type has both errors and correct answers in validation, on which a '
      "probe's regularisation is chosen. Ask more questions."
    )
  chosen_on = validation & np.isin(types, both)
  fitted = linear_probe(
    _labelled(error, train, types),
    x[train],
    _labelled(error, chosen_on, types),
    x[chosen_on],
  )
  return -fitted.scores(x), fitted.to_dict()  # it is high for what is right


def published_probe(
  x: np.ndarray, error: np.ndarray, train: np.ndarray
) -> np.ndarray:
  """Returns scores float64 [n] of the published code's probe.

  Args:
    x: float [n, D].
    error: bool [n].
    train: bool [n], balanced.
  """
  model = LogisticRegression(random_state=42, max_iter=10_000)
  model.fit(x[train], error[train])
  return model.decision_function(x)


def calibrated(
  scores: np.ndarray, error: np.ndarray, on: np.ndarray
) -> np.ndarray:
  """Returns scores as probabilities of an error, by Platt's method.

  This is a logistic regression on the standardised score.

  Args:
    scores: float64 [n].
    error: bool [n].
    on: bool [n], what to fit on: validation.
  """
  model = make_pipeline(StandardScaler(), LogisticRegression())
  model.fit(scores[on, None], error[on])
  found = np.full(len(scores), np.nan)
  some = np.isfinite(scores)
  found[some] = model.predict_proba(scores[some, None])[:, 1]
  return found


def balanced(
  error: np.ndarray, which: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Returns bool [n]: of some questions, as many errors as correct answers."""
  classes = [
    np.flatnonzero(which & (error == value)) for value in (True, False)
  ]
  size = min(map(len, classes))
  kept = np.zeros(len(error), bool)
  for members in classes:
    kept[rng.choice(members, size, replace=False)] = True
  return kept


def _labelled(
  error: np.ndarray, which: np.ndarray, types: np.ndarray
) -> LabelledEntities:
  """Returns questions as entities, correctly answered ones as known ones."""
  names = tuple(sorted(set(types[which])))
  return LabelledEntities(
    types=names,
    names=tuple(map(str, np.flatnonzero(which))),
    type_of=np.array([names.index(name) for name in types[which]]),
    known=~error[which],
  )
