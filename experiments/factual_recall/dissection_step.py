"""Dissecting recall, all parts, as results and arrays."""

import numpy as np

from experiments.factual_recall.attributes import attribute_tokens
from experiments.factual_recall.dissection import (
  ANSWER,
  GROUPS,
  NON_SUBJECT_NOR_FIRST,
  SAID,
  SUBJECT,
  said_and_answer,
)
from experiments.factual_recall.enrichment import attributes_rate
from experiments.factual_recall.extraction import (
  extraction,
  extraction_after_early_patching,
)
from experiments.factual_recall.knockout_windows import knock_out_windows
from experiments.factual_recall.sublayer_ablation import rate_without_sublayers
from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.trace import Trace
from experiments.stats.intervals import cluster_bootstrap_mean
import gemma_jax as gj

# Layers without a sublayer, as published.
_WINDOW = 10


def dissect(
  model: gj.Decoder,
  prompts: Prompts,
  clean: Trace,
  tokenizer: gj.Tokenizer,
  *,
  reference: bool = False,
  seed: int = 0,
) -> dict:
  """Attention knockouts, extraction, early patching, attributes rate.

  Args:
    model: Stacked.
    prompts: n of them.
    clean: Their run.
    tokenizer: The model's.
    reference: True if defects of the published code are kept.
    seed: Random seed of resamples and controls.
  """
  targets = said_and_answer(model, prompts, clean)
  cut = knock_out_windows(model, prompts, clean, targets, seed=seed)
  arrays = cut.pop('arrays')
  extracted = extraction(model, prompts, clean, targets, reference=reference)
  early = extraction_after_early_patching(model, prompts, clean, targets)
  for each in (extracted, early):
    each.pop('arrays')
  found = {
    'n': len(prompts),
    'knockout': cut,
    'extraction': extracted,
    'early_patching': early,
    'attributes': None,
  }
  if any(fact.attributes for fact in prompts.task.facts):
    found['attributes'] = _attributes(
      model, prompts, tokenizer, reference, seed
    )
  contrast = _contrast(prompts, arrays, model.config.num_layers)
  if contrast is not None:
    found['subject_less_non_subject'] = contrast
  return found


def extraction_rates(model: gj.Decoder, prompts: Prompts, clean: Trace) -> dict:
  """Returns how often each output extracts the answer, in any layer."""
  targets = said_and_answer(model, prompts, clean)
  found = extraction(model, prompts, clean, targets, groups=(SUBJECT,))
  return {
    name: rates['raw'][ANSWER]['any'] for name, rates in found['rates'].items()
  }


def _attributes(model, prompts, tokenizer, reference, seed) -> dict:
  """Returns how many attributes a subject's token holds, and by what."""
  tokens = attribute_tokens(tokenizer, prompts)
  L = model.config.num_layers
  width = min(_WINDOW, L // 2)  # a small model has not ten layers to spare
  found = attributes_rate(model, prompts, tokens, seed=seed)
  found.pop('arrays')
  found['without'] = {}
  for site in ('mlp_out', 'attn_out'):
    without = rate_without_sublayers(
      model,
      prompts,
      tokens,
      site=site,
      width=width,
      reference=reference,
      seed=seed,
    )
    without.pop('arrays', None)
    found['without'][site] = without
  return found


def _contrast(prompts, arrays, L) -> dict | None:
  """Mean change of P without the subject less that without all else, percent.

  Over windows around the upper half of the layers, where the paper has it.
  """
  change = 100 * np.expm1(
    arrays[f'log_prob/{SAID}'] - arrays[f'clean/{SAID}']
  )  # [G, L, n]
  upper = change[:, L // 2 :].mean(1)
  difference = (
    upper[GROUPS.index(SUBJECT)] - upper[GROUPS.index(NON_SUBJECT_NOR_FIRST)]
  )
  there = np.isfinite(difference)
  if not there.any():
    return None
  units = [prompts.units[row] for row in np.flatnonzero(there)]
  return {
    'layers': f'{L // 2} to {L - 1}',
    'estimate': cluster_bootstrap_mean(difference[there], units).to_dict(),
  }
