"""Does the last layer hold back? What every block does to the answer's logit.

The logit lens reads the stream before and after every sublayer of a prompt's
last token, the final norm being computed anew at each place. The last layer
holds back if the answer falls across its block, and falls more than across the
other blocks (claim 5 of arXiv 2403.19521; section 1.6 of the recall
specification).

Letters: n prompts, s of them one per subject, L layers, 2L + 1 places.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.trace import Readout, Trace, outcomes
from experiments.stats.resampling import cluster_bootstrap_means
import gemma_jax as gj

# The parts of a block that change the stream, and both together.
PARTS = ('attn', 'mlp', 'block')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
  """The answer on its way through the layers, at each prompt's last token.

  Attributes:
    places: Names of the 2L + 1 places: 'resid_pre[0]', 'resid_mid[0]',
      'resid_post[0]', ..., 'resid_post[L-1]'.
    units: The subject of each of n prompts.
    pi: float64 [2L + 1, n, 2], pi(Y) and pi(N), before the soft cap.
    rows: int [s], one prompt of every subject, whose logits are all made.
    log_prob: float32 [2L + 1, s], of the answer, in nats.
    says: bool [2L + 1, s], whether the likeliest token is the answer.
    last_log_prob: float32 [3, n], of all prompts, around the last block: where
      it begins, resid_mid, resid_post.
    last_says: bool [3, n], likewise.
  """

  places: tuple[str, ...]
  units: tuple[str, ...]
  pi: np.ndarray
  rows: np.ndarray
  log_prob: np.ndarray
  says: np.ndarray
  last_log_prob: np.ndarray
  last_says: np.ndarray

  def to_results(self, seed: int = 0) -> dict:
    """Returns means with intervals over subjects, for results.json.

    Changes are after less before: negative where the answer falls.

    Args:
      seed: Random seed of the resamples.

    Returns:
      'places'; per place 'pi', 'pi_name' (over all prompts), 'log_prob' and
      'top1' (over one prompt per subject). 'peak': for 'pi' and 'log_prob' the
      place of the highest mean. 'blocks': for each layer its 'layer' and the
      changes in 'pi', 'pi_name' and 'log_prob', each by 'attn', 'mlp' and
      'block'. 'last': the changes of the last block over all prompts, in 'pi',
      'pi_name', 'log_prob' and 'top1'. 'last_less_others': in 'pi' and
      'log_prob', the last block's change less the mean change of the other
      layers' blocks, prompt by prompt; None with one layer. 'rank_of_last': in
      'pi' and 'log_prob' by part, 1 where the mean change is the lowest of all
      layers'.
    """
    some = [self.units[row] for row in self.rows]
    answer, name = self.pi[..., 0], self.pi[..., 1]
    measures = {
      'pi': (answer, self.units),
      'pi_name': (name, self.units),
      'log_prob': (self.log_prob, some),
      'top1': (self.says, some),
    }
    results = {'places': list(self.places), 'blocks': [], 'last': {}}
    results['peak'], results['rank_of_last'] = {}, {}
    others = {}
    for key, (values, units) in measures.items():
      results[key] = _means(values, units, seed)
    for key in ('pi', 'log_prob'):
      values, units = measures[key]
      results['peak'][key] = self.places[int(values.mean(-1).argmax())]
      changes = block_changes(values)
      results['rank_of_last'][key] = {
        part: int((change.mean(-1) < change[-1].mean()).sum()) + 1
        for part, change in changes.items()
      }
      if len(changes['block']) > 1:
        apart = [
          change[-1] - change[:-1].mean(0) for change in changes.values()
        ]
        found = _means(np.stack(apart), units, seed)
        others[key] = dict(zip(changes, found, strict=True))
    results['last_less_others'] = others or None
    by_layer = {
      key: _changes(*measures[key], seed)
      for key in ('pi', 'pi_name', 'log_prob')
    }
    results['blocks'] = [
      {'layer': layer, **{key: found[layer] for key, found in by_layer.items()}}
      for layer in range(len(self.places) // 2)
    ]
    last = {
      'pi': answer[-3:],
      'pi_name': name[-3:],
      'log_prob': self.last_log_prob,
      'top1': self.last_says,
    }
    for key, values in last.items():
      results['last'][key] = _changes(values, self.units, seed)[0]
    return results


def trajectory(
  model: gj.Decoder, trace: Trace, prompts: Prompts, readout: Readout
) -> Trajectory:
  """Reads the logit lens at every place of a run.

  Logits of the whole vocabulary are made only of one prompt per subject, and of
  all prompts around the last block; pi needs none.

  Args:
    model: Stacked.
    trace: A run of the prompts.
    prompts: n of them.
    readout: Readout of their answers and names.
  """
  config = model.config
  streams = [trace['resid_pre'][0]]
  places = ['resid_pre[0]']
  for layer in range(config.num_layers):
    for site in ('resid_mid', 'resid_post'):
      streams.append(trace[site][layer])
      places.append(f'{site}[{layer}]')
  rows = one_per_subject(prompts.subjects)
  lens = _read(model, [x[rows] for x in streams], prompts.answers[rows])
  last = _read(model, streams[-3:], prompts.answers)
  return Trajectory(
    places=tuple(places),
    units=tuple(prompts.units),
    pi=np.stack([readout.pi(x) for x in streams]),
    rows=rows,
    log_prob=lens[0],
    says=lens[1],
    last_log_prob=last[0],
    last_says=last[1],
  )


def one_per_subject(subjects: np.ndarray) -> np.ndarray:
  """int [s], a row of each subject, their templates being taken in turn.

  Args:
    subjects: int [n], of each row.
  """
  found = []
  for turn, subject in enumerate(dict.fromkeys(np.asarray(subjects).tolist())):
    own = np.flatnonzero(subjects == subject)
    found.append(own[turn % len(own)])
  return np.array(found, int)


def block_changes(values: np.ndarray) -> dict[str, np.ndarray]:
  """Returns what each sublayer, and each whole block, adds to a value.

  Args:
    values: [2L + 1, ...], before each block, at its middle, and after it.

  Returns:
    For each of PARTS [L, ...]; 'block' is the sum of the other two.
  """
  values = np.asarray(values, np.float64)
  before, middle, after = values[:-2:2], values[1::2], values[2::2]
  return {
    'attn': middle - before,
    'mlp': after - middle,
    'block': after - before,
  }


def _read(model, streams, answers) -> tuple[np.ndarray, np.ndarray]:
  """log P and top-1 [places, m] of streams [m, D] at some places."""
  shape = len(streams), len(answers)
  found = outcomes(model, np.concatenate(streams), np.tile(answers, shape[0]))
  return found.log_prob.reshape(shape), found.says.reshape(shape)


def _changes(values, units, seed) -> list[dict]:
  """For each block, part -> an estimate of its mean change."""
  changes = block_changes(values)
  found = {part: _means(each, units, seed) for part, each in changes.items()}
  return [
    {part: each[layer] for part, each in found.items()}
    for layer in range(len(changes['block']))
  ]


def _means(values: np.ndarray, units: Sequence[str], seed: int) -> list[dict]:
  """Estimates of the means of the rows of [k, n], as dictionaries."""
  found = cluster_bootstrap_means(np.asarray(values, float).T, units, seed)
  return [each.to_dict() for each in found]
