"""Trains JumpReLU SAEs on a model's activations, and measures them.

  python -m experiments.sae_training.train --out=out/sae   # MiniWorld

  python -m experiments.sae_training.train --model=google/gemma-2-2b \\
    --dtype=bfloat16 --site=resid_post --layer=12 --width=16384 \\
    --recipe=paper --sparsity=2e-4,4e-4,6e-4,1e-3,2e-3 --text=pile.jsonl \\
    --context=1024 --tokens=4000000000 --out=out/sae_12

Text runs through the model up to the last layer that is needed; activations go
into a bucket on the device and from there, shuffled, to the trainer. None are
stored. --sparsity=a,b,c trains one SAE each on the same activations, and
--layer=3,7 several layers at once, all from one run of the model.

Then the whole model is loaded (the truncated one has been freed) and every SAE
is measured on text that was held out: reconstruction, sparsity, frequencies,
what the model loses with the reconstruction in place, uniformity. --out gets

  flags.txt, results.json, report.html   see experiments/runs/outputs.py
  metrics.jsonl, tensorboard/            training, as it went
  checkpoints/                           from which the same command goes on
  gemma_scope/, sae_lens/, latents/      see experiments/sae_training/results.py
  tokens/                                the text, tokenised
  run.json                               what the checkpoints belong to

The same command once more goes on from the last checkpoint; when training is
finished it measures and exports again, to the same bytes on one kind of device.

How long to train: a 16k SAE of Gemma Scope saw 4 billion tokens. --recipe=fast,
the default, trains usable ones on a million. Too dense: raise --sparsity, or
give the L0 you want as --target_l0. Many dead latents: lower --learning_rate or
--width.
"""

from collections.abc import Sequence
import dataclasses
import gc
import json

from experiments.inputs import corpus
from experiments.runs import KeepFlags, outputs, start
from experiments.sae_training import memory, page
from experiments.sae_training import results as sae_results
from experiments.sae_training.sae_evaluation import (
  EvaluationText,
  measure_metrics,
  measure_splicing,
  measure_uniformity,
)
from experiments.sae_training.settings import Settings
from experiments.sae_training.study import (
  TrainingPlan,
  load,
  prepare,
  train_saes,
  training_records,
)
from sae.jumprelu import JumpReLUSAE


def measure(
  plan: TrainingPlan,
  saes: Sequence[Sequence[JumpReLUSAE]],
  names: Sequence[Sequence[str]],
) -> list[sae_results.Measured]:
  """Measures SAEs [S][R], which have names, on the whole model."""
  settings = plan.settings
  text = EvaluationText(
    rows=plan.evaluation.rows,
    num_tokens=settings.eval_tokens,
    batch_size=settings.harvest_batch,
  )
  with memory.explain_out_of_memory(plan.estimate, 'evaluation'):
    model = load(plan.reader, plan.reader.config.num_layers, plan.mesh)
    where = model, plan.site, plan.layers, saes
    metrics = measure_metrics(*where, text)
    means = [row[0].mean for row in metrics]
    spliced = measure_splicing(*where, means, text)
    uniformity = [[None] * len(row) for row in saes]
    if settings.uniformity_tokens:
      uniformity = measure_uniformity(
        *where, text, num_tokens=settings.uniformity_tokens
      )
  return [
    sae_results.Measured(
      sae=sae,
      name=names[s][r],
      label=names[s][r].rpartition('/')[2],
      training=dataclasses.asdict(plan.config.runs[r]),
      metrics=metrics[s][r],
      spliced=spliced[s][r],
      uniformity=uniformity[s][r],
    )
    for s, row in enumerate(saes)
    for r, sae in enumerate(row)
  ]


def finish(plan: TrainingPlan, found: Sequence[sae_results.Measured]):
  """Writes exports, results.json and report.html."""
  settings = plan.settings
  config = dataclasses.asdict(plan.config)
  about = plan.training.about
  files = sae_results.export(
    plan.out,
    found,
    context=settings.context,
    dataset=about.get('file'),
    metadata={'config': json.loads(json.dumps(config)), 'text': about},
  )
  latents = sae_results.write_latents(plan.out, found)
  entries = [
    sae_results.entry(measured) | {'files': file | {'latents': path}}
    for measured, file, path in zip(found, files, latents, strict=True)
  ]
  results = {
    'experiment': 'sae_training.train',
    'model': corpus.about_model(settings, plan.reader),
    'site': plan.site,
    'layers': list(plan.layers),
    'config': config,
    'training_tokens': plan.config.num_steps * plan.config.batch_size,
    'tokens_left_over': settings.tokens % plan.config.batch_size,
    'data': {'train': about, 'eval': plan.evaluation.about},
    'context': settings.context,
    'definitions': sae_results.DEFINITIONS,
    'memory_estimate': plan.estimate.to_dict(),
    'versions': outputs.versions(),
    'saes': entries,
  }
  outputs.write_results(plan.out, results)
  page.write_report(
    plan.out,
    results,
    title=f'SAEs of {plan.site}, layer {", ".join(map(str, plan.layers))}',
    runs=training_records(plan),
  )


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Trains SAEs, measures and exports them; returns the summary."""
  plan = prepare(settings, keep_flags)
  trained = train_saes(plan)
  saes, names = trained.saes, trained.names
  del trained
  gc.collect()  # the truncated model, before the whole one comes
  found = measure(plan, saes, names)
  finish(plan, found)
  return '\n'.join(
    sae_results.in_words(one, f'{one.name}: layer {one.sae.origin.layer}')
    for one in found
  )


if __name__ == '__main__':
  start(Settings, work)
