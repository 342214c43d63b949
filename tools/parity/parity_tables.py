"""A comparison as text for people and as JSON for programs."""

from collections.abc import Iterator
import dataclasses
from importlib import metadata
import math

from gemma_jax import config_fields
from gemma_jax.families import family_of
from tools.parity import verdict
from tools.parity.compare import COMPUTING_ORDER, Comparison, Difference, Greedy
from tools.parity.run import Check, num_parameters

_PACKAGES = ('jax', 'flax', 'torch', 'transformers', 'safetensors', 'numpy')
# Differently tokenized texts that are printed; all are in the JSON.
_SHOWN_TEXTS = 5
_COLUMNS = f'{"max abs":>10}{"relative":>11}{"cosine":>14}'


def report(check: Check, comparison: Comparison, verbose: bool) -> str:
  """Returns all lines: what was run, the tables, the gates, the verdict."""
  gates = verdict.judge(comparison)
  lines = [_header(check), '']
  if verbose:
    lines += [*_every_site(comparison), '']
  lines += [*_worst_sites(comparison), '', *_predictions(comparison)]
  lines += [*_tokens(comparison), '']
  lines += [
    f'{"PASS" if gate.passed else "FAIL"}  {gate.name:<10}{gate.text}'
    for gate in gates
  ]
  failed = [gate.name for gate in gates if not gate.passed]
  lines += ['', f'First divergence: {_divergence(comparison)}']
  lines.append(
    f'Verdict: FAIL ({", ".join(failed)})' if failed else 'Verdict: PASS'
  )
  return '\n'.join(lines)


def as_json(check: Check, comparison: Comparison) -> dict:
  """Returns every number of a run, and what is needed to repeat it."""
  gates = verdict.judge(comparison)
  predictions = comparison.predictions
  targets = predictions.targets
  greedy = dataclasses.asdict(comparison.greedy)
  kls = {
    'hf_to_ours': predictions.kl,
    'hf_float32_to_ours': predictions.truth_ours,
    'hf_float32_to_hf': predictions.truth_theirs,
  }
  first = verdict.first_divergence(comparison)
  result = {
    'verdict': 'PASS' if all(gate.passed for gate in gates) else 'FAIL',
    'gates': [dataclasses.asdict(gate) for gate in gates],
    'first_divergence': first
    and _row(first.layer, first.site, first.difference)
    | {'before': first.before},
    'sites': [_row(*entry) for entry in verdict.all_sites(comparison)],
    'logits': _row(None, 'logits', predictions.logits)
    | {'hf_scale': predictions.scale},
    'loss': {
      'ours': predictions.loss_ours / targets if targets else None,
      'hf': predictions.loss_theirs / targets if targets else None,
      'targets': targets,
    },
    'kl': {
      name: {'mean': kl.mean, 'max': kl.largest, 'positions': kl.count}
      for name, kl in kls.items()
      if kl.count
    },
    'greedy': greedy,
    'options': dataclasses.asdict(check.options),
    'checkpoint': str(check.origin),
    'family': check.config.family,
    'parameters': num_parameters(check.config),
    'streamed': check.streamed,
    'rows': sum(len(batch.tokens) for batch in check.batches),
    'tokens': sum(int(batch.real.sum()) for batch in check.batches),
    'tokenizer': _tokenizer(comparison),
    'config': config_fields(check.config),
    'versions': {name: metadata.version(name) for name in _PACKAGES},
  }
  return _finite(result)


def _header(check: Check) -> str:
  config = check.config
  rows = sum(len(batch.tokens) for batch in check.batches)
  tokens = sum(int(batch.real.sum()) for batch in check.batches)
  versions = ', '.join(f'{p} {metadata.version(p)}' for p in _PACKAGES[:4])
  return (
    f'{check.origin}: {family_of(config).title}, {num_parameters(config):,} '
    f'parameters, {config.num_layers} layers, d_model {config.d_model}, '
    f'{check.options.dtype}{", streamed" if check.streamed else ""}\n'
    f'{tokens:,} tokens in {rows} rows\n{versions}'
  )


def _every_site(comparison: Comparison) -> Iterator[str]:
  yield f'{"layer":>5}  {"site":<14}{_COLUMNS}'
  for layer, site, difference in verdict.all_sites(comparison):
    yield f'{layer:>5}  {site:<14}{_cells(difference)}'


def _worst_sites(comparison: Comparison) -> Iterator[str]:
  """Per site, the largest error of any layer in each column."""
  yield f'{"site":<14}{_COLUMNS}  worst layer'
  for site in COMPUTING_ORDER:
    layers = [sites[site] for sites in comparison.layers]
    relative, layer = verdict.worst(
      (d.relative, number) for number, d in enumerate(layers)
    )
    max_abs, _ = verdict.worst((d.max_abs, 0) for d in layers)
    distance, _ = verdict.worst((1 - d.cosine, 0) for d in layers)
    yield f'{site:<14}{_numbers(max_abs, relative, 1 - distance)}  {layer}'
  yield f'{"logits":<14}{_cells(comparison.predictions.logits)}'


def _predictions(comparison: Comparison) -> Iterator[str]:
  predictions, greedy = comparison.predictions, comparison.greedy
  if targets := predictions.targets:
    ours, theirs = predictions.loss_ours, predictions.loss_theirs
    yield (
      f'loss      ours {ours / targets:.6f}, HF {theirs / targets:.6f} nats '
      f'per token ({targets:,} tokens)'
    )
  for name, kl in (
    ('HF || ours', predictions.kl),
    ('HF float32 || ours', predictions.truth_ours),
    ('HF float32 || HF', predictions.truth_theirs),
  ):
    if kl.count:
      yield (
        f'KL        {name}: mean {kl.mean:.2e}, largest {kl.largest:.2e} nats'
      )
  yield (
    f'greedy    {greedy.equal:,} of {greedy.tokens:,} tokens equal; '
    f'{greedy.exact} of {greedy.rows} generations equal to the end'
  )
  if greedy.first:
    yield f'          first different: {_disagreement(greedy)}'


def _tokens(comparison: Comparison) -> Iterator[str]:
  """Yields the texts that are tokenized differently, the first few of them."""
  if (found := comparison.tokenization) is None:
    return
  same = found.texts - len(found.different) - found.merged_bos
  yield f'tokens    {same} of {found.texts} hostile texts equal'
  if found.mended:
    yield f"          HF's tokenizer was mended first: {found.mended}"
  for text, ours, theirs in found.different[:_SHOWN_TEXTS]:
    yield (
      f'          {_short(text)}: ours {_short(ours)}, HF {_short(theirs)}'
    )


def _tokenizer(comparison: Comparison) -> dict | None:
  if (found := comparison.tokenization) is None:
    return None
  keys = ('text', 'ours', 'hf')
  texts = [dict(zip(keys, one, strict=True)) for one in found.different]
  return dataclasses.asdict(found) | {'different': texts}


def _short(value) -> str:
  """Returns a text or ids for one line: its end is left out if it is long."""
  text = repr(value)
  return text if len(text) <= 60 else f'{text[:57]}...'


def _disagreement(greedy: Greedy) -> str:
  first = greedy.first
  return (
    f'prompt {first["prompt"]}, step {first["step"]}: HF chose '
    f'{first["hf_token"]}, ours {first["our_token"]}, which HF has '
    f'{first["margin"]:.2g} lower'
  )


def _divergence(comparison: Comparison) -> str:
  found = verdict.first_divergence(comparison)
  if found is None:
    return 'none'
  difference = found.difference
  where = f'layer {found.layer} ' if found.layer is not None else ''
  text = (
    f'{where}{found.site}, relative error {difference.relative:.1e} '
    f'({found.before:.1e} just before)'
  )
  if difference.cut_edges:
    text += f', {difference.cut_edges:,} pairs cut on one side only'
  if (place := difference.first) is not None:
    text += (
      f',\n  first at prompt {place.prompt} ({place.padding}-padded), position '
      f'{place.position}, token {place.token} ({place.relative:.1e})'
    )
  return text


def _cells(difference: Difference) -> str:
  return _numbers(difference.max_abs, difference.relative, difference.cosine)


def _numbers(max_abs: float, relative: float, cosine: float) -> str:
  return f'{max_abs:>10.2e}{relative:>11.2e}{cosine:>14.10f}'


def _row(layer: int | None, site: str, difference: Difference) -> dict:
  first = difference.first
  return {
    'layer': layer,
    'site': site,
    'max_abs': difference.max_abs,
    'relative': difference.relative,
    'cosine': difference.cosine,
    'values': difference.values,
    'cut_edges': difference.cut_edges,
    'first_above_gate': first and dataclasses.asdict(first),
  }


def _finite(value):
  """Returns the value with NaN and infinities as strings: JSON has none."""
  if isinstance(value, dict):
    return {key: _finite(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return str(value)
  return value
