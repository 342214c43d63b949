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

from collections.abc import Sequence
import time

from absl import flags
import jax

from experiments import inputs
from experiments.activations import DENOMINATORS, stream_scores, write_sums
from experiments.entities import MODES
from experiments.harvest import DTYPES, rows_done, write_store
from experiments.harvest.plan import STORE, HarvestPlan, prepare
from experiments.inputs import corpus, documents, sae_fingerprint
from experiments.inputs.sae_fit import check_fit
from experiments.runs import MANY, SEED, define_number, memory, outputs, whole
from experiments.sae_training import load

SUMS = 'sums.safetensors'


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines this program's flags; returns their names."""
  before = set(values)
  inputs.define_model(values)
  inputs.define_saes(values)
  inputs.define_entities(values)
  common = {'flag_values': values}
  flags.DEFINE_string(
    'out', None, 'Folder for everything that is written.', **common
  )
  flags.DEFINE_enum(
    'mode',
    'default',
    MODES,
    "'reference' does as the published code did, its defects included; here it "
    'sets --pile_denominator and --drop_qid_labels, which can be set apart.',
    **common,
  )
  flags.DEFINE_string(
    'text',
    None,
    'Read the prompts of this .txt or .jsonl file instead of --entities.',
    **common,
  )
  flags.DEFINE_string(
    'text_field', 'text', 'Of .jsonl objects: the prompt.', **common
  )
  flags.DEFINE_string(
    'entity_field',
    'entity',
    'Of .jsonl objects: the name of the entity, or its characters.',
    **common,
  )
  flags.DEFINE_enum(
    'separator', 'line', list(documents.SEPARATORS), 'Of a .txt file.', **common
  )
  flags.DEFINE_enum(
    'prompt',
    'activation',
    ['activation', 'question'],
    'What is said about an entity: "The city \'Paris\'", or every question '
    'about its attributes (for a base model with the beginning of an answer).',
    **common,
  )
  flags.DEFINE_bool(
    'chat',
    False,
    "Prompts are what the user says: put the chat model's template around "
    'them, with its turn opened.',
    **common,
  )
  flags.DEFINE_bool(
    'parse_special',
    False,
    "Whether '<start_of_turn>' and the like written out in --text are those "
    'tokens, or ordinary text.',
    **common,
  )
  flags.DEFINE_string(
    'tokens',
    None,
    'Which token is read: entity (the last of its name), random (the last of a '
    "random word), model (that opens the model's turn), last, or any text, "
    'such as ? (the last of its first occurrence; substring:last for a text '
    'that is a choice itself). Default: entity, and random for --text.',
    **common,
  )
  define_number(
    'window',
    128,
    'Most tokens of a prompt, BOS included; longer ones are cut.',
    whole(2),
    **common,
  )
  flags.DEFINE_enum(
    'pile_denominator',
    None,
    list(DENOMINATORS),
    'Where random words are drawn: inside the window, so that every document '
    'has one; or in the whole document, where those outside the window count '
    'as inactive, as published. Default: by --mode.',
    **common,
  )
  flags.DEFINE_bool(
    'drop_qid_labels',
    None,
    'Leave out raw entities whose label is a bare Q-id. Default: by --mode.',
    **common,
  )
  define_number('seed', 0, 'Of random words.', SEED, **common)
  define_number('limit', None, 'Only so many prompts.', MANY, **common)
  flags.DEFINE_bool('scores', True, 'Sum the latents of SAEs.', **common)
  flags.DEFINE_bool('store', False, 'Write activations to disk.', **common)
  flags.DEFINE_list(
    'site',
    ['resid_post'],
    'With --store, what is written: sites of the model, in the spelling of '
    'this project, TransformerLens or HF, at --layers or else at all layers.',
    **common,
  )
  flags.DEFINE_enum(
    'store_dtype',
    None,
    list(DTYPES),
    "Of stored activations. Default: the model's.",
    **common,
  )
  define_number(
    'batch_size',
    64,
    'Prompts per run of the model. Only speed and memory depend on it.',
    whole(),
    **common,
  )
  return sorted(set(values) - before)


def harvest(plan: HarvestPlan, values: flags.FlagValues) -> dict:
  """Does what a plan says; returns what results.json says."""
  clock = _Clock()
  model = load(plan.reader, plan.num_layers)
  clock.lap('loading')
  if plan.saes:
    check_fit(
      model,
      inputs.read_tokenizer(plan.reader),
      plan.saes,
      plan.texts,
      values.model,
    )
  rows = plan.rows
  about = {
    'model': {
      'path': values.model,
      **corpus.model_identity(plan.reader),
    },
    'saes': [
      {
        'release': sae.origin.release or values.sae,
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
  if values.store:
    done = rows_done(plan.out / STORE)
    tokens['store'] = rows.num_tokens(done)
    write_store(
      plan.out / STORE,
      model,
      rows,
      sites=plan.sites,
      layers=plan.layers,
      provenance=about | {'seed': values.seed, 'chat': values.chat},
      labels=[plan.groups[group] for group in plan.group_of],
      dtype=values.store_dtype,
      batch_size=values.batch_size,
    )
    clock.lap('store')
  if values.scores:
    tokens['scores'] = rows.num_tokens()
    sums = stream_scores(
      model,
      plan.saes,
      rows,
      plan.group_of,
      len(plan.groups),
      batch_size=values.batch_size,
    )
    write_sums(plan.out / SUMS, sums)
    clock.lap('scores')
  return {
    'experiment': 'harvest',
    **about,
    'mode': values.mode,
    'pile_denominator': values.pile_denominator,
    'seed': values.seed,
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
  """Seconds that parts of a run take."""

  def __init__(self):
    self.seconds, self._last = {}, time.perf_counter()

  def lap(self, name: str):
    """Ends a part."""
    now = time.perf_counter()
    self.seconds[name], self._last = now - self._last, now


def run(values: flags.FlagValues, names: Sequence[str]) -> int:
  """Harvests; returns the exit code."""
  try:
    plan = prepare(values, names)
    results = harvest(plan, values)
    outputs.write_results(plan.out, results)
  except (OSError, ValueError, ImportError) as error:
    return outputs.failed(error)
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
      return outputs.failed(
        memory.OutOfMemory(
          'The device ran out of memory. Lower --batch_size, or take fewer '
          '--layers, narrower SAEs (--width) or --dtype=bfloat16. What JAX '
          f'said: {(str(error).splitlines() or [""])[0]}'
        )
      )
    raise
  for line in _summary(results):
    print(line)
  print(f'Written: {plan.out / outputs.RESULTS_FILE}')
  return 0


def _summary(results) -> list[str]:
  """A few lines for the terminal."""
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
  outputs.start(define_flags, run)
