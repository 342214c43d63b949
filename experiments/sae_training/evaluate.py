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

import dataclasses
import pathlib
import sys

from experiments.inputs import corpus
from experiments.inputs.sae_source import SAESource
from experiments.runs import KeepFlags, Many, outputs, start
from experiments.runs.host_memory import available_bytes
from experiments.sae_training import memory, memory_items, page
from experiments.sae_training import results as sae_results
from experiments.sae_training.sae_evaluation import (
  EvaluationText,
  check_losses,
  measure_metrics,
  measure_splicing,
  measure_uniformity,
)
from experiments.sae_training.settings import Measuring
from experiments.sae_training.study import load
import gemma_jax as gj
from sae.formats.loading import load_sae
from sae.jumprelu import JumpReLUSAE
from sae.metrics.evaluation import Metrics

# On text like that of its training, the L0 is within this of its label.
_L0_BAND = 0.15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Measuring, SAESource):
  """Says which SAE is measured, and on what.

  Attributes:
    tokens: Tokens to measure the SAE on.
    force: Go on if the SAE does not fit (FVU above 1).
  """

  tokens: Many = 20_000
  force: bool = False


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Measures an SAE, writes the results; returns the summary."""
  out = pathlib.Path(settings.out)
  reader = settings.open_model()
  sae = _open_sae(settings, reader)
  site, layer = sae.origin.site, sae.origin.layer
  mesh = settings.make_mesh()
  estimate = memory_items.estimate_evaluation(
    reader.config,
    sae.weights(),
    site=site,
    layers=[layer],
    dtype=reader.dtype,
    context=settings.context,
    harvest_batch=settings.harvest_batch,
    uniformity=bool(settings.uniformity_tokens),
    mesh=mesh,
  )
  said = memory.check_memory(
    estimate, available_bytes(), refuse=settings.check_memory
  )
  print(said, flush=True)
  source = corpus.evaluation_text(
    settings, reader, out / 'tokens', settings.tokens
  )
  check_losses(source.rows, settings.tokens)
  keep_flags()
  text = EvaluationText(
    rows=source.rows,
    num_tokens=settings.tokens,
    batch_size=settings.harvest_batch,
  )
  with memory.explain_out_of_memory(estimate, 'evaluation'):
    model = load(reader, reader.config.num_layers, mesh)
    where = model, site, [layer], [[sae]]
    ((metrics,),) = measure_metrics(*where, text)
    warnings = judge(sae, metrics, settings.exported_name, settings.force)
    for warning in warnings:
      print(f'Warning: {warning}', file=sys.stderr)
    ((spliced,),) = measure_splicing(*where, [metrics.mean], text)
    uniformity = None
    if settings.uniformity_tokens:
      ((uniformity,),) = measure_uniformity(
        *where, text, num_tokens=settings.uniformity_tokens
      )
  found = sae_results.Measured(
    sae=sae,
    name=str(sae.origin.sae_id or pathlib.Path(settings.sae).name),
    label=f'L0 {metrics.l0:.0f}',
    training={},
    metrics=metrics,
    spliced=spliced,
    uniformity=uniformity,
  )
  _write(out, settings, reader, found, source.about, warnings)
  return sae_results.in_words(found, f'{sae.origin}')


def _open_sae(settings: Settings, reader: gj.CheckpointReader) -> JumpReLUSAE:
  """Loads the SAE, checked to fit the model."""
  site, layer = None, settings.layer
  if settings.site:
    site, layer = gj.parse_site(settings.site, reader.config)
    if None not in (layer, settings.layer) and layer != settings.layer:
      raise ValueError(
        f'--site={settings.site} is of layer {layer}, --layer is '
        f'{settings.layer}.'
      )
    layer = settings.layer if layer is None else layer
  sae = load_sae(settings.sae, settings.sae_id, site=site, layer=layer)
  check_fits(sae, reader.config, str(reader.folder))
  return sae


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
  """Returns what looks wrong with an SAE on a model of that name, in words.

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


def _write(out, settings, reader, found, about, warnings):
  origin, metrics = found.sae.origin, found.metrics
  (latents,) = sae_results.write_latents(out, [found])
  label = origin.l0
  results = {
    'experiment': 'sae_training.evaluate',
    'model': corpus.about_model(settings, reader),
    'sae': {
      'path': settings.sae,
      'sae_id': settings.sae_id,
      'origin': str(origin),
      'model': origin.model,
      'l0_label': label,
      'l0_over_label': metrics.l0 / label if label else None,
    },
    'warnings': warnings,
    'data': {'eval': about},
    'context': settings.context,
    'definitions': sae_results.DEFINITIONS,
    'versions': outputs.versions(),
    'saes': [sae_results.entry(found) | {'files': {'latents': latents}}],
  }
  outputs.write_results(out, results)
  page.write_report(out, results, title=f'{origin}')


if __name__ == '__main__':
  start(Settings, work)
