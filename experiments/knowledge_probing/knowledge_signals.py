"""Which signal tells that an answer is right? One table of all of them.

A signal gives every question a score, higher where the model more likely
answers right. What is fitted is fitted on train, chosen on validation, and
reported on test, with intervals over entities.

Letters: n questions, R resamples.
"""

from collections.abc import Hashable, Mapping, Sequence
import dataclasses
import math

import numpy as np
from scipy import special

from experiments.knowledge_probing.probe_records import Sampled, Score
from experiments.stats import detection
from experiments.stats.resampling import estimate
from experiments.stats.weighted import Tied, resample

# Kinds: what a signal reads.
ANSWERS, ASKED_ITSELF = 'its answers', 'asking the model'
STREAM, LATENT, TEXT = 'the stream', 'SAE latent', 'the question alone'
# Bins of the calibration error (specification, section 3.3).
BINS = 15


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Signal:
  """A number for every question, higher where a right answer is likelier.

  Attributes:
    name: Name of the signal.
    kind: What it reads.
    scores: float64 [n]; NaN where it has none.
    probabilities: float64 [n], of a right answer, if it gives some by itself;
      NaN where `scores` is.
    about: For results.json, such as the layer and how it was chosen.
  """

  name: str
  kind: str
  scores: np.ndarray
  probabilities: np.ndarray | None = None
  about: Mapping = dataclasses.field(default_factory=dict)


def answer_signals(
  sampled: Sequence[Sampled], scores: Sequence[Score]
) -> list[Signal]:
  """Signals that the model's answers carry.

  The last one knows the right answers, unlike the others: how many samples are
  right bounds what a signal of the same model can tell.

  Args:
    sampled: What the model said to n questions.
    scores: What that amounts to, in the same order.

  Raises:
    ValueError: they are of other questions.
  """
  if [each.id for each in sampled] != [each.id for each in scores]:
    raise ValueError('Answers and scores must be of the same n questions.')
  of = lambda value, items: np.array([value(x) for x in items], np.float64)
  likely = of(lambda s: s.greedy[0].logprob / s.greedy[0].ntok, sampled)
  first = of(lambda s: s.greedy[0].first_prob, sampled)
  right = of(lambda s: s.p_correct, scores)
  entropies = {
    'semantic entropy': of(lambda s: s.semantic_entropy, scores),
    'discrete semantic entropy': of(lambda s: s.discrete_entropy, scores),
    'naive entropy': of(lambda s: s.naive_entropy, scores),
  }
  return [
    *(
      Signal(name=f'{name}, negative', kind=ANSWERS, scores=-entropy)
      for name, entropy in entropies.items()
    ),
    Signal(
      name='log-probability per token',
      kind=ANSWERS,
      scores=likely,
      probabilities=np.exp(likely),
    ),
    Signal(
      name='first-token probability',
      kind=ANSWERS,
      scores=first,
      probabilities=first,
    ),
    Signal(
      name='share of right samples',
      kind=ANSWERS,
      scores=right,
      probabilities=right,
      about={'knows_the_answer': True},
    ),
  ]


def p_true_signal(p_true: np.ndarray) -> Signal:
  """P(True): what the model says of its own answers, float64 [n] in [0, 1]."""
  p_true = np.asarray(p_true, np.float64)
  return Signal(
    name='P(True)', kind=ASKED_ITSELF, scores=p_true, probabilities=p_true
  )


def latent_signal(
  name: str, activations: np.ndarray, label: str, about: Mapping | None = None
) -> Signal:
  """Returns an SAE latent's activations float [n].

  Args:
    name: The latent's.
    activations: At what it reads of each question.
    label: 'known' or 'unknown', what it fires on; the latter lowers the score.
    about: For results.json.

  Raises:
    ValueError: the label is neither.
  """
  signs = {'known': 1.0, 'unknown': -1.0}
  if label not in signs:
    raise ValueError(f'The label is {label!r}, expected one of {list(signs)}.')
  scores = signs[label] * np.asarray(activations, np.float64)
  return Signal(name=name, kind=LATENT, scores=scores, about=about or {})


def signal_table(
  signals: Sequence[Signal],
  right: np.ndarray,
  clusters: Sequence[Hashable],
  test: np.ndarray,
  *,
  validation: np.ndarray | None = None,
  seed: int = 0,
  resamples: int = detection.RESAMPLES,
) -> list[dict]:
  """Returns how well each signal tells right answers, on test.

  Args:
    signals: Signals of n questions each.
    right: bool [n], whether the greedy answer is right.
    clusters: Names what is resampled: the entity of each question.
    test: bool [n], the questions that count.
    validation: bool [n], on which a threshold is chosen (Youden's); None
      chooses none.
    seed: Random seed of the resamples.
    resamples: R.

  Returns:
    For results.json, a row per signal: 'name', 'kind', 'about', 'n',
    'n_right', 'missing' (test questions without a score), and estimates with
    intervals over clusters: 'auroc'; 'average_precision', of right answers;
    'aurc', the mean share of errors over all coverages, lower is better;
    'aurc_normalised', 1 for the best order that there is and 0 for a random
    one; with probabilities 'brier' and 'ece', which has no interval (see
    `detection.bootstrap`), and 'ece_calibrated', what chance alone gives; with
    validation 'threshold' and 'precision', 'recall' and 'f1' at it.

  Raises:
    ValueError: shapes differ, or test or validation lacks right or wrong
      answers; the error names the signal.
  """
  right = np.asarray(right)
  clusters = np.asarray(list(clusters), object)
  for name, mask in (
    ('right', right),
    ('test', test),
    ('validation', validation),
  ):
    if mask is not None and (
      np.asarray(mask).dtype != bool or np.shape(mask) != clusters.shape
    ):
      raise ValueError(
        f'{name} is {np.asarray(mask).dtype} {np.shape(mask)}, expected bool '
        f'{clusters.shape}, one for each question.'
      )
  rows = []
  for signal in signals:
    scores = np.asarray(signal.scores, np.float64)
    if scores.shape != right.shape:
      raise ValueError(
        f'The signal {signal.name!r} has scores {scores.shape}, expected '
        f'{right.shape}.'
      )
    has = ~np.isnan(scores)
    parts = {'test': test & has}
    if validation is not None:
      parts['validation'] = validation & has
    for name, mine in parts.items():
      if len(set(right[mine])) < 2:
        raise ValueError(
          f'The signal {signal.name!r} cannot be judged: of {mine.sum()} '
          f'{name} questions with a score, {(mine & right).sum()} are answered '
          'right. Both right and wrong answers are needed: ask more questions, '
          'or leave the signal out.'
        )
    found = _estimates(signal, scores, right, clusters, parts, seed, resamples)
    rows.append(
      {
        'name': signal.name,
        'kind': signal.kind,
        'about': dict(signal.about),
        'n': int(parts['test'].sum()),
        'n_right': int((parts['test'] & right).sum()),
        'missing': int((test & ~has).sum()),
        **found,
      }
    )
  return rows


def _estimates(signal, scores, right, clusters, parts, seed, resamples) -> dict:
  test, numbers, thresholds = parts['test'], {}, {}
  if (on := parts.get('validation')) is not None:
    chosen = detection.choose_threshold(right[on], scores[on], 'youden')
    thresholds, numbers['threshold'] = {'chosen': chosen}, chosen
  probabilities = signal.probabilities
  if probabilities is not None:
    probabilities = np.asarray(probabilities, np.float64)[test]
    calibration = detection.reliability(right[test], probabilities, BINS)
    numbers['ece_calibrated'] = calibration.ece_calibrated
  found = detection.bootstrap(
    right[test],
    scores[test],
    clusters[test],
    thresholds=thresholds,
    probabilities=probabilities,
    seed=seed,
    resamples=resamples,
  )
  # There, positives are what is kept last; here, errors are the risk.
  found |= _risk(right[test], scores[test], clusters[test], seed, resamples)
  named = {name.removesuffix('_chosen'): each for name, each in found.items()}
  return {name: each.to_dict() for name, each in named.items()} | numbers


def _risk(right, scores, clusters, seed, resamples) -> dict:
  """Returns the area under risk and coverage, and between its bounds."""
  wrong, n = ~right, len(right)
  curve = detection.risk_coverage(wrong, -scores)
  tied, areas, normalised = Tied(wrong, -scores), [], []
  for weights in resample(wrong, clusters, seed, resamples):
    area = tied.areas(weights)['aurc']
    areas.append(area)
    size, errors = weights.sum(axis=1), weights @ wrong
    best = _best_risk(size, errors)
    normalised.append(_between(area, best, errors / size))
  joined = lambda parts: np.concatenate(parts) if parts else np.empty(0)
  value = _between(curve.aurc, curve.optimal, curve.random)
  return {
    'aurc': estimate(curve.aurc, joined(areas), n),
    'aurc_normalised': estimate(value, joined(normalised), n),
  }


def _best_risk(size: np.ndarray, errors: np.ndarray) -> np.ndarray:
  """Returns the least mean risk, [R]: that of an order with all errors last.

  The mean over coverages of sum_j j / (m + j) for m right answers and j = 1 to
  `errors`: harmonic numbers.
  """
  m = size - errors
  harmonic = special.digamma(size + 1) - special.digamma(m + 1)
  return (errors - m * harmonic) / size


def _between(value, best, random):
  """1 at the best, 0 at the random value."""
  if np.ndim(value) == 0 and math.isclose(best, random):
    return math.nan
  return (random - value) / (random - best)
