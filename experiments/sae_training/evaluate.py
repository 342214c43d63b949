"""Measures any SAE on its model: does it fit, how sparse, what is lost?

  python -m experiments.sae_training.evaluate --model=google/gemma-2-2b \\
    --sae=gemma-scope-2b-pt-res --sae_id=layer_12/width_16k/average_l0_82 \\
    --text=pile.jsonl --context=1024 --tokens=2000000 --out=out/check

  python -m experiments.sae_training.evaluate --sae=out/sae/gemma_scope \\
    --sae_id=layer_2/width_256/average_l0_12 --out=out/check   # of a training

--sae is a release or path that `sae.loading.load_sae` takes: Gemma Scope,
SAELens, Llama Scope. That the SAE fits the model (layer, width of the site) is
checked before weights of the model are read; what its files say of site, layer
and model is taken, and a model of another name gets a warning. If the SAE
explains less than a constant would (FVU above 1), the reason almost always is
that it belongs to another site, layer or model: the run stops there, unless
--force. Numbers do not tell neighbours apart, though: an SAE of MiniWorld's
layer 4, FVU 0.08 at home, has 0.18 on layer 3. The L0 is compared with the one
its maker states. --out gets flags.txt, results.json, report.html and latents/,
as training writes them.
"""

from collections.abc import Sequence
import pathlib
import sys

from absl import flags

from experiments.inputs import corpus, sae_source_flags
from experiments.runs import MANY, define_number, memory, mesh_flags, outputs
from experiments.sae_training import page
from experiments.sae_training import results as sae_results
from experiments.sae_training.sae_evaluation import (
  EvaluationText,
  check_losses,
  measure_metrics,
  measure_splicing,
  measure_uniformity,
)
from experiments.sae_training.study import load
import gemma_jax as gj
from sae.formats.loading import load_sae
from sae.jumprelu import JumpReLUSAE
from sae.metrics.evaluation import Metrics

# On text like that of its training, the L0 is within this of its label.
_L0_BAND = 0.15


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines this program's flags; returns their names."""
  names = corpus.define_flags(values)
  names += mesh_flags.define_flags(values)
  names += sae_source_flags.define_flags(values)
  before = set(values)
  common = {'flag_values': values}
  flags.DEFINE_string('out', None, 'Folder for results.', **common)
  define_number('tokens', 20_000, 'Tokens to measure it on.', MANY, **common)
  flags.DEFINE_bool(
    'force', False, 'Go on where the SAE does not fit (FVU above 1).', **common
  )
  return sorted([*names, *set(values) - before])


def evaluate(
  values: flags.FlagValues, names: Sequence[str]
) -> sae_results.Measured:
  """Does what parsed flags say.

  Raises:
    ValueError, OSError, ImportError, OutOfMemory: it cannot be, or
      the SAE does not fit.
  """
  for name in ('out', 'sae'):
    if values[name].value is None:
      raise ValueError(f'--{name} is needed; see --help.')
  out = pathlib.Path(values.out)
  reader = corpus.open_model(values)
  site = layer = None
  if values.site:
    site, layer = gj.parse_site(values.site, reader.config)
  if None not in (layer, values.layer) and layer != values.layer:
    raise ValueError(
      f'--site={values.site} is of layer {layer}, --layer is {values.layer}.'
    )
  layer = values.layer if layer is None else layer
  sae = load_sae(values.sae, values.sae_id, site=site, layer=layer)
  check_fits(sae, reader.config, str(reader.folder))
  site, layer = sae.origin.site, sae.origin.layer
  mesh = mesh_flags.make_mesh(values)
  estimate = memory.estimate_evaluation(
    reader.config,
    site=site,
    width=sae.width,
    dtype=reader.dtype,
    context=values.context,
    harvest_batch=values.harvest_batch,
    uniformity=bool(values.uniformity_tokens),
    **mesh_flags.sizes(mesh),
  )
  said = memory.check_memory(
    estimate, memory.available_bytes(), refuse=values.check_memory
  )
  print(said, flush=True)
  source = corpus.evaluation_text(values, reader, out / 'tokens', values.tokens)
  check_losses(source.rows, values.tokens)
  outputs.write_flags(out, values, names)
  text = EvaluationText(
    rows=source.rows,
    num_tokens=values.tokens,
    batch_size=values.harvest_batch,
  )
  with memory.explain_out_of_memory(estimate, 'evaluation'):
    model = load(reader, reader.config.num_layers, mesh)
    where = model, site, [layer], [[sae]]
    ((metrics,),) = measure_metrics(*where, text)
    warnings = judge(sae, metrics, corpus.model_name(values), values.force)
    for warning in warnings:
      print(f'Warning: {warning}', file=sys.stderr)
    ((spliced,),) = measure_splicing(*where, [metrics.mean], text)
    uniformity = None
    if values.uniformity_tokens:
      ((uniformity,),) = measure_uniformity(
        *where, text, num_tokens=values.uniformity_tokens
      )
  found = sae_results.Measured(
    sae=sae,
    name=str(sae.origin.sae_id or pathlib.Path(values.sae).name),
    label=f'L0 {metrics.l0:.0f}',
    training={},
    metrics=metrics,
    spliced=spliced,
    uniformity=uniformity,
  )
  _write(out, values, reader, found, source.about, warnings)
  return found


def check_fits(sae: JumpReLUSAE, config: gj.ModelConfig, model: str):
  """Raises ValueError unless the model has what the SAE reads."""
  origin = sae.origin
  if not 0 <= origin.layer < config.num_layers:
    raise ValueError(
      f'{origin} reads layer {origin.layer}; {model} has layers 0 to '
      f'{config.num_layers - 1}. It is an SAE of another model.'
    )
  width = gj.site_width(config, origin.site)
  if sae.d_in != width:
    raise ValueError(
      f'{origin} reads activations of width {sae.d_in}; {origin.site} of '
      f'{model} has {width}. It is an SAE of another model or site.'
    )


def judge(
  sae: JumpReLUSAE, metrics: Metrics, model: str, force: bool
) -> list[str]:
  """What looks wrong with an SAE on a model of that name, in words.

  Raises:
    ValueError: FVU is above 1, and not `force`.
  """
  warnings = []
  if not metrics.fvu <= 1:
    said = (
      f'{sae.origin} has FVU {metrics.fvu:.4g} and L0 {metrics.l0:.4g} on '
      f'{metrics.num_tokens:,} tokens: a constant would reconstruct better. '
      'Probable causes, in this order: it was trained on another layer or site '
      '(Gemma Scope counts layers from 0, and its residual SAEs read '
      'resid_post); on another model (pt or it, 2b or 9b); on scaled '
      'activations, with a scale that its files do not hold; on text unlike '
      'this'
    )
    if not force:
      raise ValueError(f'{said}. Pass --force to measure it all the same.')
    warnings.append(f'{said}.')
  its = sae.origin.model
  if its is not None and its.rpartition('/')[2] != model.rpartition('/')[2]:
    warnings.append(
      f'{sae.origin} is of the model {its}; this one is {model}. If they are '
      'the same, say so with --model_name.'
    )
  label = sae.origin.l0
  if label and not abs(metrics.l0 / label - 1) <= _L0_BAND:
    warnings.append(
      f'L0 is {metrics.l0:.4g}, and {label:g} by the label: not within '
      f'{_L0_BAND:.0%}. Other text, another context length, or another model '
      'would do that.'
    )
  return warnings


def _write(out, values, reader, found, about, warnings):
  origin, metrics = found.sae.origin, found.metrics
  (latents,) = sae_results.write_latents(out, [found])
  label = origin.l0
  results = {
    'experiment': 'sae_training.evaluate',
    'model': corpus.about_model(values, reader),
    'sae': {
      'path': values.sae,
      'sae_id': values.sae_id,
      'origin': str(origin),
      'model': origin.model,
      'l0_label': label,
      'l0_over_label': metrics.l0 / label if label else None,
    },
    'warnings': warnings,
    'data': {'eval': about},
    'context': values.context,
    'definitions': sae_results.DEFINITIONS,
    'versions': outputs.versions(),
    'saes': [sae_results.entry(found) | {'files': {'latents': latents}}],
  }
  outputs.write_results(out, results)
  page.write_report(out, results, title=f'{origin}')


def run(values: flags.FlagValues, names: Sequence[str]) -> int:
  """Evaluates; returns the exit code."""
  try:
    found = evaluate(values, names)
  except (
    OSError,
    ValueError,
    ImportError,
    memory.OutOfMemory,
  ) as error:
    return outputs.failed(error)
  loss = found.spliced.fidelity.delta_loss
  label = found.sae.origin.l0
  print(
    f'{found.sae.origin}: L0 {found.metrics.l0:.1f}'
    f'{f" (label {label:g})" if label else ""}, FVU {found.metrics.fvu:.4f}, '
    f'delta loss {loss.value:.4f} [{loss.low:.4f}, {loss.high:.4f}], '
    f'n = {found.metrics.num_tokens:,}'
  )
  print(f'Written: {pathlib.Path(values.out) / outputs.REPORT_FILE}')
  return 0


if __name__ == '__main__':
  outputs.start(define_flags, run)
