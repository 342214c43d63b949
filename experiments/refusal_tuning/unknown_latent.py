"""Does adding the unknown latent make a model refuse what it knows?

The latent's decoder row is added at the tokens of an entity's name, in the
untuned and in the tuned model, and the first token of the answer is read at the
prompt's last token. A *dose* is the norm of what is added, in units of the mean
norm of the stream there, in the same model.

A large push changes any answer. So each random latent is added as much as makes
the model diverge as far: its mean KL(unchanged || steered) of that first token
is that of the latent, within 10 %, in the same model. Only what the latent
does beyond them is its own.

Letters: n prompts, J random latents, R resamples, D width of the stream.
"""

from collections.abc import Mapping, Sequence
import itertools

import numpy as np

from experiments.latents import LatentId
from experiments.refusal_tuning.asked import Asked, check_pair
from experiments.refusal_tuning.steered import Steered, match
from experiments.stats.intervals import number_units
from experiments.stats.resampling import draw, estimate
import gemma_jax as gj

DOSES = (0.125, 0.25, 0.5, 1.0)


def compare_steering(
  before: gj.Decoder,
  after: gj.Decoder,
  asked: Asked,
  target: LatentId,
  direction: np.ndarray,
  random: Mapping[LatentId, np.ndarray],
  refusals: Sequence[int],
  *,
  doses: Sequence[float] = DOSES,
  rows_per_batch: int = 256,
  seed: int = 0,
) -> dict:
  """Adds the unknown latent in both models, beside random latents.

  Args:
    before: The untuned model, stacked.
    after: The tuned one.
    asked: n prompts about entities that are known.
    target: The latent.
    direction: float [D], its decoder row.
    random: J latents of the same SAE -> their rows; 10 or more say enough.
    refusals: Tokens that a refusal begins with.
    doses: Above 0, increasing.
    rows_per_batch: Rows run at once; bounds memory.
    seed: Random seed of the resamples, shared by all that is compared.

  Returns:
    'target', 'n', 'entities', 'random'; 'doses': for each of them 'dose' and,
    'before' and 'after', 'norm' (of the stream), 'kl', 'matched' (how many
    random latents), 'random_doses' (of those that were tried), 'rank' of the
    target's change among matched ones (1 is the largest), and by measure,
    'refusal' (the probability of beginning a refusal) and 'refuses' (greedily):
    'unchanged', 'steered', 'change', 'random_change' (the mean of matched
    random latents), 'random_changes' (each one's) and 'beyond', the change less
    their mean. 'more' has, by measure, 'beyond' after less before. Intervals
    resample entities.

  Raises:
    ValueError: the models do not match, a prompt is of an unknown entity, a
      dose is not above 0, or there are no random latents.
  """
  check_pair(before, after)
  if not asked.known.all():
    raise ValueError(
      f'{int((~asked.known).sum())} of {len(asked)} prompts are about unknown '
      'entities; the latent is added to known ones. Take asked.known alone.'
    )
  rising = all(a < b for a, b in itertools.pairwise((0.0, *doses)))
  if not random or not len(doses) or not rising:
    raise ValueError(
      f'Got {len(random)} random latents and doses {tuple(doses)}; expected '
      'one or more of both, doses above 0 and increasing.'
    )
  resample = _Resamples(asked.entities, seed)
  rows = np.stack([np.asarray(row, np.float64) for row in random.values()])
  direction = np.asarray(direction, np.float64)
  sides = {
    name: Steered.of(
      model, asked, target.site, target.layer, refusals, rows_per_batch
    )
    for name, model in (('before', before), ('after', after))
  }
  swept = {
    name: one.read(np.tile(direction, (1 + len(doses), 1)), [0.0, *doses])
    for name, one in sides.items()
  }
  # A latent that is too weak at one dose is not tried at larger ones.
  trying = {name: np.arange(len(rows)) for name in sides}
  starts = {name: np.full(len(rows), doses[0]) for name in sides}
  results = []
  for number, dose in enumerate(doses, 1):
    result, beyond = {'dose': float(dose)}, {}
    for name, one in sides.items():
      own = swept[name]
      kl = float(own.kl[number].mean())
      matched = match(one, rows[trying[name]], kl, start=starts[name])
      trying[name] = trying[name][matched.matched]
      starts[name] = matched.doses[matched.matched]
      starts[name] = np.where(starts[name] > 0, starts[name], dose)
      described, beyond[name] = _described(own, number, matched, resample)
      result[name] = {'norm': one.norm, 'kl': kl} | described
    result['more'] = {
      measure: resample.mean(
        beyond['after'][measure] - beyond['before'][measure]
      )
      for measure in ('refusal', 'refuses')
    }
    results.append(result)
  return {
    'target': str(target),
    'n': len(asked),
    'entities': len(set(asked.entities)),
    'random': [str(id) for id in random],
    'doses': results,
  }


class _Resamples:
  """Means over prompts, resampling entities, with the same draws always."""

  def __init__(self, entities, seed):
    which, names = number_units(entities)
    self._weights = draw(len(names), np.random.default_rng(seed))[:, which]
    if len(names) < 2:
      self._weights[:] = np.nan

  def mean(self, values: np.ndarray) -> dict:
    """Returns the mean of values [n]; NaN stays NaN."""
    drawn = self._weights @ values / self._weights.sum(1)
    return estimate(values.mean(), drawn, len(values)).to_dict()


def _described(own, number, matched, resample) -> tuple[dict, dict]:
  """Returns one dose in one model, and what is beyond random ones, [n]."""
  able = matched.matched
  found = {
    'matched': int(able.sum()),
    'random_doses': matched.doses.tolist(),
    'rank': None,
  }
  beyond = {}
  for measure in ('refusal', 'refuses'):
    values = getattr(own, measure).astype(float)
    change = values[number] - values[0]
    others = np.full((1, len(change)), np.nan)
    if able.any():
      others = getattr(matched.found, measure)[able].astype(float) - values[0]
      if measure == 'refusal':
        found['rank'] = 1 + int((others.mean(1) >= change.mean()).sum())
    beyond[measure] = change - others.mean(0)
    found[measure] = {
      'unchanged': resample.mean(values[0]),
      'steered': resample.mean(values[number]),
      'change': resample.mean(change),
      'random_change': resample.mean(others.mean(0)),
      'random_changes': others.mean(1).tolist() if able.any() else [],
      'beyond': resample.mean(beyond[measure]),
    }
  return found, beyond
