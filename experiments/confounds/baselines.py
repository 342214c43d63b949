"""What names tell without any latent: their tokens, and their covariates.

Where single tokens tell known from unknown, a latent may do no more than read
them. Two questions about tokens: does a classifier of train's tokens tell test
apart? And could any: fitted and read on the same names, against the same
with labels shuffled within types? On few names it fits whatever it is given.

Where tokens are balanced over all names, what is rare among the known of train
is common among those of test: the first AUROC is then below 0.5, and the second
is near it and far below shuffled ones.
"""

from collections.abc import Sequence
import warnings

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from experiments.confounds.covariates import Covariates
from experiments.latents import LabelledEntities, detection, token_probe

_NUM_SHUFFLES = 40


def covariate_detectors(
  entities: LabelledEntities, covariates: Covariates
) -> dict[str, dict]:
  """Returns each covariate's AUROC for known entities, see `detection`."""
  return {
    name: detection(entities, column)
    for name, column in zip(covariates.names, covariates.values.T, strict=True)
  }


def held_out_tokens(
  parts: dict[str, tuple[LabelledEntities, Sequence[Sequence[int]]]],
) -> dict:
  """Returns AUROC on test of a classifier of tokens that was fitted on train.

  Args:
    parts: 'train', 'validation' and 'test' -> entities, ids of their names.
  """
  train, validation, test = (parts[x] for x in ('train', 'validation', 'test'))
  probe = token_probe(*train, *validation)
  return detection(test[0], probe.scores(test[1])) | {'C': probe.C}


def balance_of_tokens(
  entities: LabelledEntities, names: Sequence[Sequence[int]], seed: int = 0
) -> dict:
  """Returns how evenly first and last tokens are spread over classes.

  A logistic regression on which token comes first and which last is fitted and
  read on the same names.

  Returns:
    'auroc', 'shuffled' (mean, and low and high: the middle 95 % of shuffles),
    'n' names.
  """
  columns = {}
  cells = [
    (row, columns.setdefault((place, int(name[at])), len(columns)))
    for row, name in enumerate(names)
    for place, at in (('first', 0), ('last', -1))
  ]
  row, column = np.array(cells).T
  x = sparse.csr_array(
    (np.ones(len(row)), (row, column)), shape=(len(names), len(columns))
  )
  rng = np.random.default_rng([seed, 13])

  def area(known):
    model = LogisticRegression(C=1.0, max_iter=500)
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', ConvergenceWarning)
      model.fit(x, known, sample_weight=entities.balanced())
    # Balanced tokens leave weights that are 0 but for rounding.
    return float(roc_auc_score(known, model.decision_function(x).round(4)))

  shuffled = []
  for _ in range(_NUM_SHUFFLES):
    known = entities.known.copy()
    for e in range(len(entities.types)):
      mine = entities.type_of == e
      known[mine] = rng.permutation(known[mine])
    shuffled.append(area(known))
  low, high = np.quantile(shuffled, [0.025, 0.975])
  return {
    'auroc': area(entities.known),
    'shuffled': {
      'value': float(np.mean(shuffled)),
      'low': float(low),
      'high': float(high),
      'n': _NUM_SHUFFLES,
    },
    'n': len(entities),
  }
