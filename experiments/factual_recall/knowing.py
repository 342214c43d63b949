"""Does recall run differently for what the model knows and does not know?

This joins the two papers. Subjects are known or not: by the truth of MiniWorld,
or by whether the model answers. Three signals of the recall mechanism, what a
reader of probabilities sees, and detectors at the subject's last token (a
difference of means, SAE latents) each tell the classes apart, or do not; and
the detectors predict the mechanism, or do not. Prompts of a subject are
averaged first: a subject counts once.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.factual_recall.movers import Movers
from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.trace import (
  Readout,
  Trace,
  in_batches,
  outcomes,
)
from experiments.stats.curves import auroc
from experiments.stats.ranks import spearman
from experiments.stats.resampling import mean_by_unit
import gemma_jax as gj

# With fewer subjects of a class, halves say nothing.
FEWEST = 8
MECHANISM = (
  'attention of argument heads to the subject',
  "argument heads' write along the subject",
  "MLPs' write towards the answer",
  'restraint of the last block',
)
# Prompts that are run at once.
_ROWS = 128
_OUTSIDE = ('top probability', 'negative entropy')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Classes:
  """Says which subjects are known.

  Attributes:
    known: bool [U], by subject.
    subjects: Their names.
    by: 'truth' or 'answers'.
  """

  known: np.ndarray
  subjects: list[str]
  by: str

  @property
  def enough(self) -> bool:
    """Returns True if both classes can be halved."""
    return min(self.known.sum(), (~self.known).sum()) >= FEWEST


def classes(prompts: Prompts, says: np.ndarray) -> Classes:
  """Sorts subjects into known and unknown ones.

  Args:
    prompts: n of them.
    says: bool [n], whether the model gives the right answer. A subject counts
      as known if it does in more than half of its prompts; where the task says
      what its training text holds, that decides instead.
  """
  share, subjects = mean_by_unit(np.asarray(says, float), prompts.units)
  truth = {fact.subject: fact.known for fact in prompts.task.facts}
  if all(truth[subject] is not None for subject in subjects):
    known = np.array([truth[subject] for subject in subjects])
    return Classes(known=known, subjects=subjects, by='truth')
  return Classes(known=share > 0.5, subjects=subjects, by='answers')


def mechanism_signals(
  model: gj.Decoder,
  trace: Trace,
  prompts: Prompts,
  movers: Movers,
  heads: Sequence[tuple[int, int]],
  mean: tuple[np.ndarray, float] | None = None,
) -> dict[str, np.ndarray]:
  """Returns what recall does in every prompt, and what its output shows; each
  [n].

  The answer is the token that the model itself finds likeliest: of a subject
  that it does not know, the true one stands nowhere.

  Args:
    model: Stacked.
    trace: A run of the prompts.
    prompts: n of them.
    movers: Movers of the same run.
    heads: Layer and number of the argument heads.
    mean: As in `Readout.of`.
  """
  L = model.config.num_layers
  said = outcomes(model, trace.final, prompts.answers)
  own = Readout.of(model, said.top, prompts.names, mean)
  scale = gj.norm_scale(model.config, trace.final)
  at = tuple(np.array(heads).T)
  writes = sum(
    np.einsum(
      'nD,nD->n',
      gj.head_outputs(
        model, layer, trace['z'][layer], trace['attn_out_raw'][layer]
      )[:, head],
      own.name,
    )
    for layer, head in heads
  )
  mlps = np.einsum('LnD,nD->n', trace['mlp_out'].astype(float), own.answer)
  before = outcomes(model, trace['resid_pre'][L - 1], said.top)
  return {
    MECHANISM[0]: movers.attention[at].mean(0),
    MECHANISM[1]: writes / scale,
    MECHANISM[2]: mlps / scale,
    MECHANISM[3]: (before.log_prob - said.top_log_prob).astype(float),
    _OUTSIDE[0]: np.exp(said.top_log_prob).astype(float),
    _OUTSIDE[1]: -said.entropy.astype(float),
  }


def subject_streams(model: gj.Decoder, prompts: Prompts) -> np.ndarray:
  """resid_post of every layer at the subject's last token, [L, n, D]."""
  prefix = prompts.share_prefix(model)
  return in_batches(
    lambda rows: gj.run(
      model,
      prompts.tokens[rows],
      prompts.positions[rows],
      capture=gj.capture(
        'resid_post', positions=gj.per_row(prompts.spans[rows, 1] - 1)
      ),
      prefix=prefix,
    )['resid_post'][:, :, 0],
    len(prompts),
    _ROWS,
    axis=1,
  )


def detectors(
  streams: np.ndarray,
  prompts: Prompts,
  known: Classes,
  saes: Mapping[int, object],
  seed: int,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Scores [U] of subjects by detectors that did not see them, and which.

  Subjects are cut in halves; layer, direction or latent are chosen on one half
  and score the other, both ways. A score is centred and scaled by the half
  that it was chosen on.

  Args:
    streams: [L, n, D] from `subject_streams`.
    prompts: n of them.
    known: Their subjects' classes.
    saes: Layer -> SAE of resid_post there; may be empty.
    seed: Random seed of the halves.
  """
  L = len(streams)
  means = np.stack([mean_by_unit(each, prompts.units)[0] for each in streams])
  half = _halves(known.known, seed)
  features = {'difference of means': None}
  encoded = {
    layer: mean_by_unit(
      np.asarray(sae.encode(jnp.asarray(streams[layer])), np.float32),
      prompts.units,
    )[0]
    for layer, sae in saes.items()
  }
  if encoded:
    features |= {'SAE latent, known': 1, 'SAE latent, unknown': -1}
  scores = {name: np.zeros(len(known.known)) for name in features}
  chosen = {name: [] for name in features}
  for fitted in (half, ~half):
    tested = ~fitted
    truth = known.known[fitted]
    for name, sign in features.items():
      if sign is None:
        found = [
          _difference_of_means(means[layer], known.known, fitted)
          for layer in range(L)
        ]
        layer = int(np.argmax([_area(truth, f[fitted]) for f in found]))
        score, what = found[layer], f'resid_post {layer}'
      else:
        score, what = _best_latent(encoded, truth, fitted, sign)
      spread = score[fitted].std() or 1.0
      scores[name][tested] = (score[tested] - score[fitted].mean()) / spread
      chosen[name].append(what)
  return scores, {name: ' and '.join(what) for name, what in chosen.items()}


def compare(
  signals: Mapping[str, np.ndarray],
  scores: Mapping[str, np.ndarray],
  prompts: Prompts,
  known: Classes,
  seed: int,
) -> dict:
  """Returns how well each signal tells known from unknown, and what predicts
  what.

  Args:
    signals: Name -> float [n], by prompt.
    scores: Name -> float [U], by subject, of detectors.
    prompts: n of them.
    known: Their subjects' classes.
    seed: Random seed of the resamples.

  Returns:
    For results.json: 'signals', each with its AUROC (above one half where known
    subjects are higher) and class means, and 'predicted', Spearman's rho of
    each detector with each signal over subjects.
  """
  by_subject = {
    name: mean_by_unit(values, prompts.units)[0]
    for name, values in signals.items()
  }
  by_subject |= scores
  rows = []
  for name, values in by_subject.items():
    yes, no = values[known.known], values[~known.known]
    rows.append(
      {
        'name': name,
        'detector': name in scores,
        'auroc': auroc(known.known, values).to_dict(),
        'known': float(yes.mean()),
        'unknown': float(no.mean()),
      }
    )
  predicted = [
    {
      'detector': detector,
      'signal': name,
      'spearman': spearman(
        scores[detector], by_subject[name], seed=seed, resamples=1000
      ).to_dict(),
    }
    for detector in scores
    for name in signals
  ]
  return {
    'by': known.by,
    'known': int(known.known.sum()),
    'unknown': int((~known.known).sum()),
    'signals': rows,
    'predicted': predicted,
  }


def _halves(known, seed) -> np.ndarray:
  """bool [U], one half of each class."""
  rng = np.random.default_rng(seed)
  half = np.zeros(len(known), bool)
  for value in (True, False):
    members = rng.permutation(np.flatnonzero(known == value))
    half[members[: len(members) // 2]] = True
  return half


def _difference_of_means(streams, known, fitted) -> np.ndarray:
  """Scores [U] along the difference of the fitted half's class means."""
  yes = streams[fitted & known].mean(0)
  no = streams[fitted & ~known].mean(0)
  return streams @ (yes - no)


def _best_latent(encoded, truth, fitted, sign):
  """Scores [U] of the latent with the largest area on the fitted half."""
  best = (-1.0, None, None)
  for layer, values in encoded.items():
    areas = _areas(truth, sign * values[fitted])
    latent = int(areas.argmax())
    if areas[latent] > best[0]:
      best = (areas[latent], layer, latent)
  _, layer, latent = best
  return sign * encoded[layer][:, latent], f'latent {layer}/{latent}'


def _area(truth, values) -> float:
  return float(_areas(truth, values[:, None])[0])


def _areas(truth, values) -> np.ndarray:
  """AUROC of each column of values [U, F]; ties count one half."""
  ranks = stats.rankdata(values, axis=0)
  m, n = truth.sum(), (~truth).sum()
  return (ranks[truth].sum(0) - m * (m + 1) / 2) / (m * n)
