"""From what was read to numbers: everything here is arithmetic."""

from collections.abc import Mapping, Sequence
import math

import numpy as np
from scipy import stats

from experiments.confounds.adjusting import adjust
from experiments.confounds.covariates import NAME_FREQUENCY, Covariates
from experiments.confounds.linear_readout import NORM_SITE, LinearReadout
from experiments.confounds.prompt_variants import (
  ALTERED,
  FAMILIAR,
  TEST,
  PromptVariant,
  by_kind,
)
from experiments.confounds.strata import balance, compare, make_strata
from experiments.latents import CLASSES, LabelledEntities, detection
from experiments.stats.intervals import Estimate, bootstrap_mean, wilson
from experiments.stats.multiplicity import holm, max_t_two_samples
from experiments.stats.paired import mcnemar, paired_difference


def detected(
  readers: Sequence[LinearReadout],
  entities: LabelledEntities,
  values: np.ndarray,
) -> list[dict]:
  """Returns AUROC and firing rates of readers [R, n] on unchanged entities."""
  found = []
  for reader, row in zip(readers, values, strict=True):
    fires = reader.fires(row)
    found.append(
      reader.about()
      | {
        'auroc': detection(entities, row, reader.label)['mean'],
        'fires': _rates(fires, entities),
      }
    )
  return found


def compared_alike(
  readers: Sequence[LinearReadout],
  entities: LabelledEntities,
  values: np.ndarray,
  covariates: Covariates,
  *,
  bins: int,
  seed: int,
) -> list[dict]:
  """Compares readers inside strata, raw and matched; see `strata.py`.

  'matched' is on all covariates but the frequency of whole names, 'matched on
  name frequency' on that alone, if there is one.
  """
  found = []
  ways = {
    'raw': make_strata(entities),
    'matched': make_strata(entities, covariates.without(NAME_FREQUENCY), bins),
  }
  if NAME_FREQUENCY in covariates.names:
    others = [n for n in covariates.names if n != NAME_FREQUENCY]
    ways['matched on name frequency'] = make_strata(
      entities, covariates.without(*others), bins
    )
  for reader, row in zip(readers, values, strict=True):
    found.append(
      reader.about()
      | {
        way: compare(
          entities, strata, row, reader.fires(row), reader.label, seed
        )
        for way, strata in ways.items()
      }
    )
  return found


def adjusted(
  readers: Sequence[LinearReadout],
  entities: LabelledEntities,
  values: np.ndarray,
  covariates: Covariates,
  *,
  seed: int,
) -> list[dict]:
  """Regresses whether readers fire, and how much; see `adjusting.py`.

  'fires' and 'value' hold all covariates but the frequency of whole names;
  'fires, name frequency too' holds that as well. Values are in standard
  deviations of their own.
  """
  few = covariates.without(NAME_FREQUENCY)
  found = []
  for reader, row in zip(readers, values, strict=True):
    fires = reader.fires(row)
    spread = row.std() or 1.0
    one = reader.about() | {
      'fires': adjust(entities, few, fires, reader.label, seed),
      'value': adjust(entities, few, row / spread, reader.label, seed),
    }
    if NAME_FREQUENCY in covariates.names:
      one['fires, name frequency too'] = adjust(
        entities, covariates, fires, reader.label, seed
      )
    found.append(one)
  return found


def altered_names(
  readers: Sequence[LinearReadout],
  shown: Sequence[PromptVariant],
  values: np.ndarray,
) -> list[dict]:
  """Returns how often readers fire on changed names, and on the names before.

  Returns:
    Per reader 'kinds': kind -> 'fires'; and for kinds made from entities of
    test 'before', 'difference' and 'flips' of the same entities, with
    'p_holm' over all kinds of this reader. Under 'known' and 'unknown' are
    the entities of test themselves.
  """
  places = by_kind(shown)
  labels = np.array([one.label for one in shown])
  of = np.array([one.of for one in shown])
  found = []
  for reader, row in zip(readers, values, strict=True):
    fires = reader.fires(row)
    kinds = {}
    for label in CLASSES:
      mine = places[TEST][labels[places[TEST]] == label]
      kinds[label] = {'fires': _rate(fires[mine])}
    for kind in (*ALTERED, FAMILIAR):
      if kind not in places:
        continue
      mine = places[kind]
      kinds[kind] = {'fires': _rate(fires[mine])}
      if kind != FAMILIAR:
        # Entities of test come first, in order.
        before, after = fires[of[mine]], fires[mine]
        kinds[kind] |= {
          'before': _rate(before),
          'difference': paired_difference(before, after).to_dict(),
          'flips': mcnemar(before, after).to_dict(),
        }
    paired = [one for one in kinds.values() if 'flips' in one]
    for one, p in zip(
      paired, holm([x['flips']['p'] for x in paired]), strict=True
    ):
      one['flips']['p_holm'] = p
    found.append(reader.about() | {'kinds': kinds})
  return found


def refused(shown: Sequence[PromptVariant], answers: Sequence[Mapping]) -> dict:
  """Returns refusals by kind of name.

  The entities of test are under 'known' and 'unknown'.
  Changed names are compared with the same entity unchanged, where both were
  asked about.
  """
  asked = {
    one.of: answer['refused']
    for one, answer in zip(shown, answers, strict=True)
    if one.kind == TEST
  }
  groups = {}
  for one, answer in zip(shown, answers, strict=True):
    name = one.label if one.kind == TEST else one.kind
    groups.setdefault(name, []).append((one.of, answer['refused']))
  found = {}
  for name, ones in groups.items():
    found[name] = {'refused': _rate([refusal for _, refusal in ones])}
    pairs = [(asked[of], refusal) for of, refusal in ones if of in asked]
    if name not in CLASSES and pairs:
      before, after = zip(*pairs, strict=True)
      found[name] |= {
        'difference': paired_difference(before, after).to_dict(),
        'flips': mcnemar(before, after).to_dict(),
      }
  return found


def residual_norms(
  entities: LabelledEntities, norms: np.ndarray, *, seed: int
) -> dict:
  """Returns how long the stream is at the entity's last token, by layer.

  Args:
    entities: n of them.
    norms: float [L, n].
    seed: Random seed of the permutations, of all layers together.

  Returns:
    'layers': per layer 'site', 'layer', mean norms of 'known' and 'unknown',
    'auroc' for known, 't' (Welch) and 'p_adjusted' (max-T over layers);
    'test': the test as a whole.
  """
  test = max_t_two_samples(norms.T, entities.known, seed=seed)
  layers = []
  for layer, row in enumerate(norms):
    layers.append(
      {
        'site': NORM_SITE,
        'layer': layer,
        'known': bootstrap_mean(row[entities.known], seed).to_dict(),
        'unknown': bootstrap_mean(row[~entities.known], seed).to_dict(),
        'auroc': detection(entities, row)['mean'],
        't': float(test.t[layer]),
        'p_adjusted': float(test.p_adjusted[layer]),
      }
    )
  return {'layers': layers, 'test': test.to_dict()}


def on_chat(
  readers: Sequence[LinearReadout],
  entities: LabelledEntities,
  base: np.ndarray,
  contexts: Mapping[str, np.ndarray],
) -> list[dict]:
  """Reads the chat model's stream, by what surrounds the name.

  Args:
    readers: R readers of the base model.
    entities: n of them.
    base: float [R, n], what they say in the base model.
    contexts: Name -> float [R, n].

  Returns:
    Per reader 'base' and 'contexts': name -> 'auroc', 'fires' by class, and
    'correlation' with the base model's values over entities, not defined where
    either does not vary (Fisher's interval).
  """
  found = []
  for r, reader in enumerate(readers):
    each = {}
    for name, values in {'base model': base, **contexts}.items():
      fires = reader.fires(values[r])
      each[name] = {
        'auroc': detection(entities, values[r], reader.label)['mean'],
        'fires': _rates(fires, entities),
        'correlation': _correlation(values[r], base[r]),
      }
    found.append(reader.about() | {'contexts': each})
  return found


def describe_balance(
  entities: LabelledEntities, covariates: Covariates
) -> dict:
  """Returns means of covariates by class, and where they come from."""
  return {
    name: one | {'source': covariates.sources[name]}
    for name, one in balance(entities, covariates).items()
  }


def _correlation(x: np.ndarray, y: np.ndarray) -> dict:
  value = low = high = math.nan
  if np.ptp(x) > 0 and np.ptp(y) > 0:
    found = stats.pearsonr(np.float64(x), np.float64(y))
    value, (low, high) = found.statistic, found.confidence_interval()
  return Estimate(
    value=float(value), low=float(low), high=float(high), n=len(x)
  ).to_dict()


def _rates(fires: np.ndarray, entities: LabelledEntities) -> dict:
  """Returns class -> how often a reader fires on it."""
  return {
    label: _rate(fires[entities.known == (label == 'known')])
    for label in CLASSES
  }


def _rate(yes: Sequence[bool]) -> dict:
  yes = np.asarray(yes, bool)
  return wilson(int(yes.sum()), len(yes)).to_dict()
