"""What is fitted to tell whether a model knows: from the stream, or the text.

  P(IK)            logistic regression on the stream at the prompt, to the share
                   of samples that are right (Kadavath et al. 2022, whose head
                   reads the last token)
  question alone   the same from words and letters of the question, without any
                   model: what the question gives away
  entity probe     ridge regression from the stream at the entity's last token,
                   averaged over the entity's questions, to how much the model
                   gets right about it

All are fitted on train; layer and regularisation are chosen on validation.
Letters: k layers, n questions, D width, U entities.
"""

from collections.abc import Hashable, Mapping, Sequence
import dataclasses
import warnings

import numpy as np
from scipy import special
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_union
from sklearn.preprocessing import StandardScaler

from experiments.knowledge_probing.knowledge_signals import STREAM, TEXT, Signal
from experiments.knowledge_probing.probe_records import Question
from experiments.stats.intervals import Estimate, number_units
from experiments.stats.ranks import spearman

# Inverse regularisation of logistic regression on the stream, on text, and
# regularisation of ridge regression; the stream is standardised.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
TEXT_STRENGTHS = (1e-2, 1e-1, 1.0, 10.0, 100.0)
PENALTIES = (1e1, 1e2, 1e3, 1e4, 1e5)
_ITERATIONS = 1000
_RESAMPLES = 1000


def p_ik(
  streams: Mapping[int, np.ndarray],
  p_correct: np.ndarray,
  train: np.ndarray,
  validation: np.ndarray,
  where: str = 'last token of the prompt',
) -> Signal:
  """Fits P(IK), the probability that the model knows.

  Args:
    streams: Layer -> float [n, D], resid_post.
    p_correct: float [n], share of right samples: the target. A row counts as
      right with weight p and as wrong with weight 1 - p.
    train: bool [n], to fit on.
    validation: bool [n]; layer and regularisation have the least cross-entropy
      there.
    where: Which token was read, for its name.

  Raises:
    ValueError: train has no right or no wrong samples, validation is empty, or
      numbers are not finite.
  """
  _check(p_correct, train, validation)
  best = None
  for layer, x in streams.items():
    x = _finite(x, f'layer {layer}')
    scaler = StandardScaler().fit(x[train])
    found = _fit_soft(
      scaler.transform(x), p_correct, train, validation, STRENGTHS
    )
    if best is None or found.loss < best[0].loss:
      best = found, layer
  if best is None:
    raise ValueError('There is no layer to fit P(IK) on.')
  found, layer = best
  return Signal(
    name=f'P(IK), {where}',
    kind=STREAM,
    scores=found.logits,
    probabilities=special.expit(found.logits),
    about={'site': 'resid_post', 'layer': int(layer), **found.about()},
  )


def text_only(
  questions: Sequence[str],
  p_correct: np.ndarray,
  train: np.ndarray,
  validation: np.ndarray,
) -> Signal:
  """Fits what the question alone gives away, without any model.

  Features are TF-IDF of words and of 3 to 5 letters within words; the rest is
  as in `p_ik`.

  Args:
    questions: n texts.
    p_correct: float [n].
    train, validation: bool [n].

  Raises:
    ValueError: see `p_ik`.
  """
  _check(p_correct, train, validation)
  features = make_union(
    TfidfVectorizer(token_pattern=r'(?u)\b\w+\b'),
    TfidfVectorizer(analyzer='char_wb', ngram_range=(3, 5)),
  )
  questions = np.asarray(questions, object)
  features.fit(questions[train])
  x = features.transform(questions).tocsr()
  found = _fit_soft(x, p_correct, train, validation, TEXT_STRENGTHS)
  return Signal(
    name='question alone',
    kind=TEXT,
    scores=found.logits,
    probabilities=special.expit(found.logits),
    about=found.about(),
  )


def entity_probe(
  streams: Mapping[int, np.ndarray],
  p_correct: np.ndarray,
  questions: Sequence[Question],
  train: np.ndarray,
  validation: np.ndarray,
  test: np.ndarray,
  seed: int = 0,
) -> tuple[Signal, Estimate]:
  """Fits how much the model knows about an entity.

  Args:
    streams: Layer -> float [n, D], resid_post at the entity's last token.
    p_correct: float [n], share of right samples.
    questions: n of them; entities are their clusters.
    train, validation, test: bool [n]; no entity is in two of them.
    seed: Random seed of the resamples.

  Returns:
    The prediction for each question's entity, as a signal; and Spearman's rho
    of prediction and truth over the U entities of test, with an interval from
    resampling entities.

  Raises:
    ValueError: an entity is in two splits, or a split has fewer than two
      entities.
  """
  names = [q.cluster for q in questions]
  targets = {}
  for split, mask in (
    ('train', train),
    ('validation', validation),
    ('test', test),
  ):
    targets[split] = _means(p_correct, names, mask)
    if len(targets[split]) < 2:
      raise ValueError(
        f'There are {len(targets[split])} entities in {split}; a graded probe '
        'needs two or more. Ask about more entities.'
      )
  _check_apart(targets)
  fitted, chosen = (
    np.array(list(targets[s].values())) for s in list(targets)[:2]
  )
  best = None
  for layer, x in streams.items():
    x = _finite(x, f'layer {layer}')
    scaler = StandardScaler().fit(x[train])
    x = scaler.transform(x)
    mine = np.array(list(_means(x, names, train).values()))
    for penalty in PENALTIES:
      model = Ridge(alpha=penalty).fit(mine, fitted)
      said = model.predict(x)
      on_validation = np.array(list(_means(said, names, validation).values()))
      loss = float(((on_validation - chosen) ** 2).mean())
      if best is None or loss < best[0]:
        best = loss, layer, penalty, said
  if best is None:
    raise ValueError('There is no layer to fit an entity probe on.')
  loss, layer, penalty, said = best
  everywhere = _means(said, names, np.ones(len(names), bool))
  on_test = np.array(list(_means(said, names, test).values()))
  truth = np.array(list(targets['test'].values()))
  rho = spearman(on_test, truth, seed=seed)
  signal = Signal(
    name='entity probe',
    kind=STREAM,
    scores=np.array([everywhere[name] for name in names], np.float64),
    about={
      'site': 'resid_post',
      'layer': int(layer),
      'penalty': penalty,
      'validation_mean_square': loss,
      'spearman': rho.to_dict(),
    },
  )
  return signal, rho


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Fit:
  """A logistic regression: logits of all rows, and how it was chosen."""

  logits: np.ndarray
  loss: float
  C: float
  converged: bool

  def about(self) -> dict:
    return {
      'C': self.C,
      'validation_cross_entropy': self.loss,
      'converged': self.converged,
    }


def _fit_soft(x, p, train, validation, strengths) -> _Fit:
  """Returns the fit to shares p [n] that validates best by cross-entropy."""
  rows = np.flatnonzero(train)
  twice = np.concatenate([rows, rows])
  labels = np.repeat([True, False], len(rows))
  weights = np.concatenate([p[rows], 1 - p[rows]])
  used = weights > 0
  best = None
  for C in sorted(strengths):
    model = LogisticRegression(C=C, max_iter=_ITERATIONS)
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', ConvergenceWarning)  # it is reported
      model.fit(x[twice[used]], labels[used], sample_weight=weights[used])
    logits = model.decision_function(x)
    loss = float((np.logaddexp(0, logits) - p * logits)[validation].mean())
    if best is None or loss < best.loss:  # the most regularised of equals
      best = _Fit(
        logits=logits,
        loss=loss,
        C=C,
        converged=bool(model.n_iter_.max() < _ITERATIONS),
      )
  return best


def _means(
  values: np.ndarray, names: Sequence[Hashable], mask: np.ndarray
) -> dict[Hashable, np.ndarray]:
  """Name -> mean of its values [n, ...] where the mask is."""
  rows = np.flatnonzero(mask)
  which, found = number_units([names[i] for i in rows])
  totals = np.zeros((len(found), *np.shape(values)[1:]))
  np.add.at(totals, which, np.asarray(values, np.float64)[rows])
  sizes = np.bincount(which, minlength=len(found))
  return dict(zip(found, (totals.T / sizes).T, strict=True))


def _check_apart(targets: Mapping[str, Mapping]):
  """Raises ValueError if an entity is in two splits."""
  seen: dict[Hashable, str] = {}
  for split, entities in targets.items():
    for name in entities:
      if name in seen:
        raise ValueError(
          f'{name!r} is in {seen[name]} and in {split}: what was fitted on it '
          'would be tested on it. Split by entity.'
        )
      seen[name] = split


def _check(p_correct, train, validation):
  p = np.asarray(p_correct)[train]
  if not p.sum() > 0 or not (1 - p).sum() > 0:
    raise ValueError(
      f'On {len(p)} train questions, {p.sum():g} are right in all; a '
      'classifier needs right and wrong samples. Ask more questions.'
    )
  if not np.any(validation):
    raise ValueError('There is no validation question to choose a fit on.')


def _finite(x: np.ndarray, what: str) -> np.ndarray:
  x = np.asarray(x, np.float64)
  bad = ~np.isfinite(x).all(axis=1)
  if bad.any():
    raise ValueError(
      f'The stream of {what} is not finite at question {int(bad.argmax())}. '
      'Leave questions out that were not read.'
    )
  return x
