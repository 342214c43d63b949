r"""Runs prompts through a model and keeps what SAEs, or you, want of them.

  python -m experiments.harvest --out=out/harvest                 # MiniWorld

  python -m experiments.harvest --out=out/harvest --dtype=bfloat16 \
    --model=google/gemma-2-2b --sae=gemma-scope-2b-pt-res --entities=wikidata

  python -m experiments.harvest --out=out/pile --tokens=random \
    --model=google/gemma-2-2b --sae=gemma-scope-2b-pt-res --text=pile_10k.jsonl

  python -m experiments.harvest --out=out/store --noscores --store \
    --model=google/gemma-2-2b --entities=wikidata --site=resid_post,mlp_out \
    --layers=11,12

Prompts are about entities (--entities), or the lines of a file (--text), of
which .jsonl objects may name an entity, a group and an id. One token of each is
read: --tokens=entity, random, model, last, or any text. Equal prompts are run
once; those that cannot be read are counted and listed in results.json. Layers
after the last one that is needed are neither loaded nor run, nor are logits.

--scores sums every SAE's latents over groups: entity types, or those of the
file. It takes one pass of the model, in which nothing but sums is kept.

--store writes activations, layer by layer, to disk. It takes a pass of its own;
killed, the same command goes on where it was.

--out gets

  results.json         rows, what was dropped and why, seconds, ids, versions
  sums.safetensors     with --scores: SITE.LAYER/n, active, total, squares,
                       stream_total, norm_total; their first axis is the group
  store/               with --store; see `experiments/harvest/store.py`
  flags.txt            a flagfile that repeats the run
"""

import time

from experiments import inputs
from experiments.activations import stream_scores, write_sums
from experiments.harvest import rows_done, write_store
from experiments.harvest.plan import STORE, HarvestPlan, prepare
from experiments.harvest.settings import Settings
from experiments.inputs import corpus, sae_fingerprint
from experiments.inputs.sae_fit import check_fit
from experiments.runs import KeepFlags, outputs, start
from experiments.runs.out_of_memory import explain_out_of_memory
from experiments.sae_training import load

SUMS = 'sums.safetensors'


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Harvests, writes the results; returns the summary."""
  plan = prepare(settings, keep_flags)
  with explain_out_of_memory(
    'The device ran out of memory. Lower --batch_size, or take fewer --layers, '
    'narrower SAEs (--width) or --dtype=bfloat16.'
  ):
    results = harvest(plan)
  outputs.write_results(plan.out, results)
  return '\n'.join(_summary(results))


def harvest(plan: HarvestPlan) -> dict:
  """Does what a plan says; returns what results.json says."""
  settings, clock = plan.settings, _Clock()
  model = load(plan.reader, plan.num_layers)
  clock.lap('loading')
  if plan.saes:
    check_fit(
      model,
      inputs.read_tokenizer(plan.reader),
      plan.saes,
      plan.texts,
      settings.model,
    )
  rows = plan.rows
  about = {
    'model': {
      'path': settings.model,
      **corpus.model_identity(plan.reader),
    },
    'saes': [
      {
        'release': sae.origin.release or settings.sae,
        'sae_id': sae.origin.sae_id,
        'site': sae.origin.site,
        'layer': sae.origin.layer,
        'width': sae.width,
        'fingerprint': sae_fingerprint(sae),
      }
      for sae in plan.saes
    ],
  }
  tokens = {}  # that are run
  if settings.store:
    done = rows_done(plan.out / STORE)
    tokens['store'] = rows.num_tokens(done)
    write_store(
      plan.out / STORE,
      model,
      rows,
      sites=plan.sites,
      layers=plan.layers,
      provenance=about | {'seed': settings.seed, 'chat': settings.chat},
      labels=[plan.groups[group] for group in plan.group_of],
      dtype=settings.store_dtype,
      batch_size=settings.batch_size,
    )
    clock.lap('store')
  if settings.scores:
    tokens['scores'] = rows.num_tokens()
    sums = stream_scores(
      model,
      plan.saes,
      rows,
      plan.group_of,
      len(plan.groups),
      batch_size=settings.batch_size,
    )
    write_sums(plan.out / SUMS, sums)
    clock.lap('scores')
  return {
    'experiment': 'harvest',
    **about,
    'mode': settings.mode,
    'pile_denominator': settings.pile_denominator,
    'seed': settings.seed,
    'rows': rows.about(),
    'groups': {
      name: int((plan.group_of == number).sum())
      for number, name in enumerate(plan.groups)
    },
    'seconds': clock.seconds,
    'tokens_per_second': {
      name: count / clock.seconds[name] for name, count in tokens.items()
    },
    'versions': outputs.versions(),
  }


class _Clock:
  """Counts the seconds that parts of a run take."""

  def __init__(self):
    self.seconds, self._last = {}, time.perf_counter()

  def lap(self, name: str):
    """Ends a part."""
    now = time.perf_counter()
    self.seconds[name], self._last = now - self._last, now


def _summary(results) -> list[str]:
  """Returns a few lines for the terminal."""
  rows = results['rows']
  lines = [
    f'{rows["prompts"]:,} prompts, {rows["unique"]:,} of them different and '
    f'read ({", ".join(f"{k} {v:,}" for k, v in results["groups"].items())}).'
  ]
  lines += [
    f'Dropped: {count:,}, {reason}.'
    for reason, count in rows['dropped'].items()
  ]
  lines += [
    f'{name.capitalize()}: {results["seconds"][name]:.1f} s, '
    f'{speed:,.0f} tokens/s.'
    for name, speed in results['tokens_per_second'].items()
  ]
  return lines


if __name__ == '__main__':
  start(Settings, work)
