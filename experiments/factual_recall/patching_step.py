"""Path patching and movers of one task, as results and arrays."""

from collections.abc import Sequence

import numpy as np

from experiments.factual_recall import movers as movers_lib
from experiments.factual_recall import path_patching
from experiments.factual_recall.receivers import effects_through, parse_receiver
from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.trace import Outcomes, Readout, Trace, outcomes
from experiments.stats.intervals import (
  Estimate,
  cluster_bootstrap_mean,
  number_units,
  wilson_by_cluster,
)
from experiments.stats.resampling import draw, estimate, mean_by_unit
import gemma_jax as gj

# Senders whose probability and first choice are computed too.
_LISTED = 12


def first_results(prompts: Prompts, said: Outcomes, pi: np.ndarray) -> dict:
  """Returns what a task shows before anything is changed.

  Args:
    prompts: n of them.
    said: Said of the clean run.
    pi: float [n, 2], pi(Y) and pi(N) before the soft cap.
  """
  units = np.array(prompts.units, object)

  def mean(values, at=slice(None)):
    return cluster_bootstrap_mean(values[at], units[at].tolist()).to_dict()

  def right(at=slice(None)):
    return {
      'p_answer': mean(said.prob, at),
      'top1': wilson_by_cluster(said.says[at], units[at].tolist()).to_dict(),
    }

  found = {
    'prompts': len(prompts),
    'subjects': len(set(units)),
    'split_answers': _split(prompts, prompts.answer_sizes),
    'split_subjects': _split(prompts, prompts.name_sizes),
    **right(),
    'log_p_answer': mean(said.log_prob),
    'pi_answer': mean(pi[:, 0]),
    'pi_subject': mean(pi[:, 1]),
    'pi_answer_after_cap': mean(said.pi),
  }
  whole = (prompts.answer_sizes == 1) & (prompts.name_sizes == 1)
  if 0 < whole.sum() < len(prompts):
    found['single_token'] = {'prompts': int(whole.sum()), **right(whole)}
  truth = [prompts.task.facts[i].known for i in prompts.subjects]
  if None not in truth:
    known = np.array(truth)
    found |= {'known': right(known), 'unknown': right(~known)}
  return found


def patching_results(
  model: gj.Decoder,
  prompts: Prompts,
  clean: Trace,
  donor: dict[str, np.ndarray],
  readout: Readout,
  *,
  receivers: Sequence[str],
  seed: int,
) -> tuple[dict, dict[str, np.ndarray]]:
  """Direct and total effects of every head and MLP on pi(Y).

  Args:
    model: Stacked.
    prompts: n of them.
    clean: Their run.
    donor: What senders are replaced by.
    readout: Readout of the same prompts.
    receivers: Later components whose input alone is changed.
    seed: Random seed of the resamples.

  Returns:
    Results: the strongest senders, with P(answer) and top-1 when they are
    replaced. Arrays: 'direct' and 'total' float64 [L, N + 1, 2], the change of
    mean pi(Y) and of mean pi(N); 'total_by_subject' [U, L, N + 1], pi(Y); and
    'through.<receiver>' [layers, N + 1].
  """
  pi = readout.pi(clean.final)  # [n, 2]
  direct = path_patching.direct_effects(model, clean, donor, readout)
  total = path_patching.total_effects(model, clean, donor, prompts, readout)
  changes = total[..., 0] - pi[:, 0]  # [L, S, n]
  by_subject = mean_by_unit(np.moveaxis(changes, -1, 0), prompts.units)[0]
  names = path_patching.sender_names(model.config)
  order = np.argsort(-np.abs(changes.mean(-1)), axis=None)[:_LISTED]
  places = [np.unravel_index(i, changes.shape[:2]) for i in order]
  said = _outcomes_of(model, prompts, clean, donor, places)
  percent = _Percent(pi[:, 0], prompts.units, seed)
  listed = [
    {
      'name': names[layer][sender],
      'layer': int(layer),
      'head': int(sender) if sender < model.config.num_heads else None,
      'total': percent.of(total[layer, sender, :, 0]).to_dict(),
      'direct': percent.of(direct[layer, sender, :, 0]).to_dict(),
      'p_answer': float(said[layer, sender].prob.mean()),
      'top1': float(said[layer, sender].says.mean()),
      'pi_subject': float((total[layer, sender, :, 1] - pi[:, 1]).mean()),
    }
    for layer, sender in places
  ]
  arrays = {
    'direct': (direct - pi).mean(2),
    'total': (total - pi).mean(2),
    'total_by_subject': by_subject,
  }
  for name in receivers:
    receiver = parse_receiver(name, model.config)
    through = effects_through(model, receiver, clean, donor, prompts, readout)
    arrays[f'through.{name}'] = (through[..., 0] - pi[:, 0]).mean(-1)
  held_out = _held_out(by_subject[:, :, :-1], pi[:, 0].mean(), names, seed)
  return {'listed': listed, 'held_out': held_out}, arrays


def argument_heads(total: np.ndarray, count: int) -> list[tuple[int, int]]:
  """Returns the heads that lower pi(Y) most if replaced, [L, N + 1, 2]."""
  heads = total[:, :-1, 0]
  order = np.argsort(heads, axis=None)[:count]
  found = (np.unravel_index(i, heads.shape) for i in order)
  return [(int(layer), int(head)) for layer, head in found]


def movers_results(
  model: gj.Decoder,
  prompts: Prompts,
  clean: Trace,
  readout: Readout,
  heads: Sequence[tuple[int, int]],
  some: np.ndarray,
  seed: int,
) -> tuple[dict, dict[str, np.ndarray]]:
  """Returns True if the argument heads attend to the subject, and write it.

  Args:
    model: Stacked.
    prompts: n of them.
    clean: Their run.
    readout: Readout of the same prompts.
    heads: Layer and number of the argument heads.
    some: int [m], prompts whose sources are looked up.
    seed: Random seed of the resamples.

  Returns:
    Results; and arrays 'attention' and 'correlation' [L, N] and 'sources'
    [L, N, 4], means over prompts.
  """
  found = movers_lib.movers(model, clean, prompts, seed)
  correlations = found.correlations()
  asked = prompts.take(some)
  sources = movers_lib.source_attribution(
    model, asked, clean.take(some), readout.take(some)
  )
  n = len(prompts)
  rows = []
  for layer, head in heads:
    r = correlations[layer][head]
    part = sources[layer, head]  # [m, 4]
    rows.append(
      {
        'name': f'L{layer}H{head}',
        'attention': cluster_bootstrap_mean(
          found.attention[layer, head], prompts.units
        ).to_dict(),
        'write': cluster_bootstrap_mean(
          found.write[layer, head], prompts.units
        ).to_dict(),
        'correlation': r.to_dict(),
        # The population covariance over unbiased deviations.
        'correlation_as_published': r.value * (n - 1) / n,
        'sources': {
          name: cluster_bootstrap_mean(part[:, i], asked.units).to_dict()
          for i, name in enumerate(movers_lib.SOURCES)
        },
      }
    )
  arrays = {
    'attention': found.attention.mean(-1),
    'correlation': np.array([[e.value for e in row] for row in correlations]),
    'sources': sources.mean(2),
  }
  everyone = float(found.attention.mean())
  return {'heads': rows, 'mean_attention': everyone}, arrays


def _held_out(heads: np.ndarray, before: float, names, seed: int) -> dict:
  """Returns the strongest head's effect on subjects that did not choose it,
  percent.

  Args:
    heads: float [U, L, N], changes of pi(Y).
    before: Mean pi(Y).
    names: Names of all senders.
    seed: Random seed of the halves.
  """
  U = len(heads)
  half = np.random.default_rng(seed).permutation(U) < U // 2
  effects, chosen = np.zeros(U), []
  for own in (half, ~half):
    mean = heads[~own].mean(0)
    layer, head = np.unravel_index(mean.argmin(), mean.shape)
    effects[own] = 100 * heads[own, layer, head] / before
    chosen.append(names[layer][head])
  total = cluster_bootstrap_mean(effects, range(U), seed)
  return {'total': total.to_dict(), 'chosen': list(dict.fromkeys(chosen))}


class _Percent:
  """Changes in percent of mean pi(Y), resampling subjects."""

  def __init__(self, pi, units, seed, resamples=1000):
    self._which, names = number_units(units)
    self._counts = draw(len(names), np.random.default_rng(seed), resamples)
    self._pi = pi
    self._before = self._sums(pi)

  def of(self, patched) -> Estimate:
    """100 (mean patched - mean clean) / mean clean."""
    resampled = 100 * (self._sums(patched) / self._before - 1)
    value = path_patching.change_in_percent(patched, self._pi)
    return estimate(float(value), resampled, len(patched))

  def _sums(self, values):
    return self._counts @ np.bincount(self._which, weights=values)


def _outcomes_of(model, prompts, clean, donor, places) -> dict:
  """(layer, sender) -> what is said when it is replaced."""
  layers = sorted({int(layer) for layer, _ in places})
  streams = path_patching.total_streams(
    model, clean, donor, prompts, layers=layers
  )
  found = {}
  for layer, each in zip(layers, streams, strict=True):
    for at, sender in places:
      if at == layer:
        found[at, sender] = outcomes(model, each[sender], prompts.answers)
  return found


def _split(prompts, sizes) -> int:
  """Returns how many subjects have more than one token there."""
  return len({s for s, k in zip(prompts.subjects, sizes, strict=True) if k > 1})
