"""The study's stages: recall, a closer look at one setting, and the price.

Each takes prompts and returns results for JSON, and arrays.
"""

import functools

import numpy as np

from experiments.factual_recall import (
  dissection_step,
  knowing,
  mitigation,
  movers,
  patching_step,
  path_patching,
  plain_text,
  regression,
  restraint,
)
from experiments.factual_recall.function_application import function_application
from experiments.factual_recall.last_writes import (
  averages_by_chance,
  last_layer_writes,
)
from experiments.factual_recall.opening import Study
from experiments.factual_recall.price import TextReads, read_text
from experiments.factual_recall.price import price as measure_price
from experiments.factual_recall.task_prompts import Prompts, corrupt
from experiments.factual_recall.trace import (
  Readout,
  mean_readout,
  outcomes,
  trace,
)
from experiments.inputs.sae_fit import check_fit
from experiments.stats.evenly import take_evenly
from experiments.stats.resampling import mean_by_unit
import gemma_jax as gj

# So many MLPs, those with the largest total effect, are looked at closely
# besides the last one.
_CLOSELY = 2


class Context:
  """Holds what stages share; weights are read when the first of them asks.

  Attributes:
    study: The study, checked.
  """

  def __init__(self, study: Study):
    self.study = study

  @functools.cached_property
  def model(self) -> gj.Decoder:
    """Returns the weights."""
    return self.study.reader.load()

  @functools.cached_property
  def unigram(self) -> np.ndarray:
    """int64 [V], how often each token occurs in the plain text."""
    return plain_text.unigram_counts(self.study.tokenizer, self.study.text)

  @functools.cached_property
  def mean(self) -> tuple[np.ndarray, float]:
    """Returns the mean of all tokens' readouts."""
    return mean_readout(self.model)

  @functools.cached_property
  def averages(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns the average token, and others for other tokens' counts."""
    seed = self.study.settings.seed
    return averages_by_chance(self.model, self.unigram, seed)

  @functools.cached_property
  def untouched(self) -> TextReads:
    """Returns what the model and its mask say of plain text, for the price."""
    study = self.study
    rows = plain_text.text_rows(
      study.tokenizer,
      study.text,
      context=min(64, study.reader.config.max_positions),
      tokens=study.settings.text_tokens,
      config=study.reader.config,
      documents=plain_text.has_documents(
        study.settings.text, study.settings.model
      ),
    )
    return read_text(self.model, rows)

  @functools.cached_property
  def saes(self) -> dict:
    """Layer -> SAE; ValueError if one is of another model."""
    study = self.study
    found = {
      layer: each.load(study.reader) for layer, each in study.saes.items()
    }
    check_fit(
      self.model,
      study.tokenizer,
      list(found.values()),
      [line for line in study.text.splitlines() if line.strip()],
      str(study.reader.folder),
    )
    return found


def recall(context: Context, prompts: Prompts) -> tuple[dict, dict]:
  """Path patching, movers, regressions and the last layer of one setting."""
  settings, tokenizer = context.study.settings, context.study.tokenizer
  model, seed = context.model, settings.seed
  rows = {'rows_per_batch': settings.rows_per_batch}
  everything = trace(model, prompts, **rows)
  readout = Readout.of(model, prompts.answers, prompts.names, context.mean)
  said = outcomes(model, everything.final, prompts.answers)
  first = patching_step.first_results(
    prompts, said, readout.pi(everything.final)
  )
  print(
    f'  P(answer) {first["p_answer"]["value"]:.3f}, top-1 '
    f'{first["top1"]["value"]:.1%}, pi(Y) {first["pi_answer"]["value"]:.2f}, '
    f'pi(N) {first["pi_subject"]["value"]:.2f}; {first["split_answers"]} '
    f'answers and {first["split_subjects"]} subjects of {first["subjects"]} '
    'are more than one token',
    flush=True,
  )
  held = _held_facts(prompts)
  prompts, readout = prompts.take(held), readout.take(held)
  clean = everything.take(held)
  some = _subset(prompts, settings.closely, seed)
  patched, clean_of = prompts.take(some), clean.take(some)
  reference = settings.mode == 'reference'
  corrupted = corrupt(tokenizer, patched, seed, published=reference)
  if reference:
    donor = path_patching.published_donors(
      model, patched, corrupted, tokenizer.pad_id
    )
  else:
    donor = path_patching.donors(
      trace(model, corrupted, **rows), settings.donor == 'mean'
    )
  patching, arrays = patching_step.patching_results(
    model,
    patched,
    clean_of,
    donor,
    readout.take(some),
    receivers=settings.receivers,
    seed=seed,
  )
  heads = patching_step.argument_heads(arrays['total'], settings.heads)
  moved, more = patching_step.movers_results(
    model, prompts, clean, readout, heads, some, seed
  )
  arrays |= more
  mlps, intercepts = _regressions(
    context, prompts, clean, readout, arrays['total']
  )
  arrays['intercepts'] = intercepts
  path = restraint.trajectory(model, clean, prompts, readout)
  arrays['trajectory'] = path.pi.mean(1)
  arrays['log_prob_lens'] = path.log_prob.mean(1)
  undone = mitigation.mitigate(
    model, clean, prompts, with_other=settings.rest, seed=seed
  )
  arrays['prob_before'] = _by_subject(undone.arms['none'].prob, prompts)
  arrays['prob_after'] = _by_subject(undone.arms['both'].prob, prompts)
  found = {
    'first': first,
    'studied': len(prompts),
    'patching': patching,
    'argument_heads': heads,
    'movers': moved,
    'regression': mlps,
    'trajectory': path.to_results(seed),
    'last_writes': last_layer_writes(
      model,
      clean,
      context.unigram,
      units=prompts.units,
      intercepts=intercepts,
      tokenizer=tokenizer,
      averages=context.averages,
      seed=seed,
    ),
    'mitigation': undone.to_results(seed),
    'subjects': list(dict.fromkeys(prompts.units)),
    'maps': _maps(arrays, readout.pi(clean.final)[:, 0].mean()),
  }
  return found, {k: np.asarray(x, np.float32) for k, x in arrays.items()}


def _maps(arrays, before: float) -> dict:
  """Small arrays that figures show, effects in percent of mean pi(Y)."""
  names = ('attention', 'correlation', 'sources', 'trajectory')
  names += ('log_prob_lens', 'prob_before', 'prob_after')
  effects = {
    name: 100 * arrays[name][..., 0] / before for name in ('total', 'direct')
  }
  through = {
    name: 100 * each / before
    for name, each in arrays.items()
    if name.startswith('through.')
  }
  return effects | through | {name: arrays[name] for name in names}


def _regressions(context, prompts, clean, readout, total):
  """Results of all MLPs' regressions, and their intercepts [L, D]."""
  model, settings = context.model, context.study.settings
  seed, L = settings.seed, model.config.num_layers
  order = np.argsort(-np.abs(total[:, -1, 0]))
  closely = {int(layer) for layer in order[:_CLOSELY]} | {L - 1}
  layers, intercepts = [], []

  def decompose(layer, rest):
    return regression.decompose(
      model,
      clean,
      prompts,
      layer,
      with_other=rest,
      readout=readout,
      seed=seed,
    )

  for layer in range(L):
    found = decompose(layer, settings.rest)
    intercepts.append(found.fit.intercept)
    results = found.to_results()
    del results['intercept'], results['subjects']
    del (
      results['control']['intercept'],
      results['control']['subject_intercepts'],
    )
    if layer in closely:
      applied = function_application(
        model,
        clean,
        prompts,
        readout,
        layer,
        found.fit.intercept,
        found.subject_intercepts,
        control_intercept=found.control.intercept,
        seed=seed,
      )
      results['function'] = applied.to_results()
      other = decompose(layer, not settings.rest)
      name = 'without_rest' if settings.rest else 'with_rest'
      results[name] = {
        key: getattr(other, key).to_dict()
        for key in ('r2', 'r2_held_out', 'r2_control')
      }
      results['function']['texts'] = context.study.tokenizer.token_strings(
        applied.tokens.tolist()
      )
    layers.append(results)
  return layers, np.stack(intercepts)


def inspect(context: Context, prompts: Prompts, heads: list[list[int]]) -> dict:
  """Knockouts, extraction, and known against unknown subjects."""
  settings, model = context.study.settings, context.model
  clean = trace(model, prompts, rows_per_batch=settings.rows_per_batch)
  said = outcomes(model, clean.final, prompts.answers)
  sorts = knowing.classes(prompts, said.says)
  held = _held_facts(prompts)
  few = lambda of: of[
    _subset(prompts.take(of), settings.closely, settings.seed)
  ]
  some = few(held)
  found = dissection_step.dissect(
    model,
    prompts.take(some),
    clean.take(some),
    context.study.tokenizer,
    reference=settings.mode == 'reference',
    seed=settings.seed,
  )
  found['not_held'] = None
  if len(held) < len(prompts):
    others = few(np.setdiff1d(np.arange(len(prompts)), held))
    found['not_held'] = dissection_step.extraction_rates(
      model, prompts.take(others), clean.take(others)
    )
  found['known_and_unknown'] = None
  if sorts.enough:
    seed = settings.seed
    moved = movers.movers(model, clean, prompts, seed)
    signals = knowing.mechanism_signals(
      model,
      clean,
      prompts,
      moved,
      [tuple(each) for each in heads],
      context.mean,
    )
    streams = knowing.subject_streams(model, prompts)
    scores, chosen = knowing.detectors(
      streams, prompts, sorts, context.saes, seed
    )
    found['known_and_unknown'] = knowing.compare(
      signals, scores, prompts, sorts, seed
    ) | {'chosen': chosen}
  else:
    found['too_few'] = {
      'known': int(sorts.known.sum()),
      'unknown': int((~sorts.known).sum()),
      'needed': knowing.FEWEST,
    }
  return found


def price(context: Context, intercept: np.ndarray) -> dict:
  """Perplexity and calibration of plain text without the restraint."""
  seed = context.study.settings.seed
  return measure_price(context.model, context.untouched, intercept, seed=seed)


def _held_facts(prompts: Prompts) -> np.ndarray:
  """Returns the prompts to study: those of facts that the training text holds.

  Where nobody knows what it holds, all of them, as published.
  """
  known = [prompts.task.facts[i].known for i in prompts.subjects]
  return np.flatnonzero([each is not False for each in known])


def _subset(prompts: Prompts, most: int, seed: int) -> np.ndarray:
  """Returns some prompts, of every subject as many as of any other, if there is
  room.

  Subjects come first: with fewer places than subjects, some have none.
  """
  rng = np.random.default_rng(seed)
  return np.sort(take_evenly(prompts.subjects.tolist(), most, rng))


def _by_subject(values, prompts: Prompts) -> np.ndarray:
  return mean_by_unit(values, prompts.units)[0]
