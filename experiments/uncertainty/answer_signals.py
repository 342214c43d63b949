"""Detectors that read the model's answers, not the model.

They are higher where the model is less sure.

Semantic entropy (Kuhn et al. 2023, Farquhar et al. 2024) is over clusters of
sampled answers that mean the same. Here they mean the same if they are equal
after normalisation, or if both decline: right for short answers, too many
clusters for sentences.
"""

from collections.abc import Callable, Sequence
import functools
import re

import numpy as np
from scipy import special

from experiments.entities import is_refusal
from experiments.entities.letter_folding import fold
from experiments.uncertainty.asked_questions import Asked
from experiments.uncertainty.begun_answers import Answer

_ARTICLES = re.compile(r'\b(a|an|the)\b')
_DECLINES = object()


def normalised(text: str) -> str:
  """Returns the first line, without case, accents, punctuation and articles.

  '1,990' becomes '1990'.
  """
  line = text.strip().split('\n')[0]
  folded = re.sub(r'(?<=\d),(?=\d{3})', '', fold(line).lower())
  folded = re.sub(r'[^\w\s]|_', ' ', folded)
  return ' '.join(_ARTICLES.sub(' ', folded).split())


def semantic_entropy(
  samples: Sequence[str],
  logprobs: Sequence[float],
  declines: Callable[[str], bool] = is_refusal,
) -> tuple[float, float]:
  """Returns entropies in nats over clusters of samples.

  Args:
    samples: Sampled answers.
    logprobs: Mean log-probability of each sample's tokens.
    declines: Returns True for refusals.

  Returns:
    The entropy with clusters weighted by their samples' probabilities, and that
    with clusters weighted by their number of samples ('discrete').
  """
  keys = [_DECLINES if declines(text) else normalised(text) for text in samples]
  numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
  which = np.array([numbers[key] for key in keys])
  weights = special.softmax(np.asarray(logprobs, np.float64))
  shares = (
    np.bincount(which, weights=weights),
    np.bincount(which) / len(which),
  )
  weighted, discrete = (float(special.entr(p).sum()) for p in shares)
  return weighted, discrete


def answer_signals(
  asked: Sequence[Asked],
  answers: Sequence[Answer],
  mode: str = 'default',
) -> dict[str, np.ndarray]:
  """Returns name -> float64 [n], higher where an answer may be wrong."""
  entropies = np.array(
    [
      semantic_entropy(
        a.samples,
        a.sample_logprobs,
        functools.partial(each.declines, mode=mode),
      )
      for each, a in zip(asked, answers, strict=True)
    ]
  ).reshape(-1, 2)
  of = lambda value: np.array([value(each) for each in answers], np.float64)
  return {
    'answer log-probability': of(lambda a: -a.logprob),
    'answer log-probability per token': of(lambda a: -a.logprob / a.num_tokens),
    'first-token entropy': of(lambda a: a.entropy),
    'semantic entropy': entropies[:, 0],
    'discrete semantic entropy': entropies[:, 1],
    'length of the question': np.array(
      [float(len(each.text.split())) for each in asked]
    ),
  }


def error_rates(
  asked: Sequence[Asked], error: np.ndarray, train: np.ndarray
) -> np.ndarray:
  """Returns the rate of errors on train of each question's prompt type.

  It is float64 [n], and what can be told without any model. A prompt type that
  train lacks has the rate of all.
  """
  kinds = [each.prompt_type for each in asked]
  seen = {}
  for i in np.flatnonzero(train):
    seen.setdefault(kinds[i], []).append(error[i])
  overall = float(error[train].mean())
  return np.array(
    [float(np.mean(seen[k])) if k in seen else overall for k in kinds]
  )
