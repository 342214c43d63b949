r"""Where is what a model knows of an entity, on the way to its answer?

  python -m experiments.patching --out=out/patching

  python -m experiments.patching --out=out/patching_2b \
    --model=google/gemma-2-2b --entities=wikidata --run=out/recognition_2b

  python -m experiments.patching --out=out/patching_9b \
    --model=google/gemma-2-9b --dtype=bfloat16 --entities=wikidata \
    --run=out/recognition_9b --verify=40 --pairs_per_batch=16

Activation patching, section 6 of arXiv 2411.14257. Two statements of the same
relation and length, about a known and about an unknown entity ("The city X is
located in"); one activation of one run is put into the other; how far does the
difference of the logits of the two answers move towards that of the donor?
Denoising puts the known entity's activations into the unknown one's run,
noising the opposite. What is patched: the stream, attention's and the MLP's
output by layer and token, and heads' outputs at the last token and at all
tokens. In the bundled world the answer must be at the name's tokens in early
layers and at the last token in late ones; and as its names are known as pairs
of words only, one wrong word must take the answer away (noising), while one
right word cannot give it (denoising).

Exact sweeps share their work: layers below a patch and tokens before it are
never run again. Gradient attribution guesses all cells from one backward pass;
how well it ranks them is reported, and with --verify=K only the K cells of each
map that it ranks highest, by half of the pairs, are run, and tested on the
other half. --compare runs one sweep without sharing too,
and prints operations, seconds and the largest difference.

Known and unknown entities are those of --run, the folder of an
`entity_recognition` run, or of --labels. Only test entities are taken, each in
one pair; --mode=reference takes answers and relations as published.

--out gets flags.txt, results.json, report.html, pairs.jsonl (texts, answers,
both runs' differences), effects.safetensors (each pair's share of the way in
every cell), and sweeps/, from which the same command goes on.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Annotated

import tqdm

from experiments.inputs.settings import BaseStudy
from experiments.inputs.study_inputs import StudyInputs, open_inputs
from experiments.latents import read_arrays, write_arrays
from experiments.patching import figures
from experiments.patching.cells import DIRECTIONS, MAPS, Map, map_shape
from experiments.patching.comparison import compare
from experiments.patching.pairs import make_pairs, token_labels
from experiments.patching.study import study_pairs
from experiments.patching.summary import pair_shares, summarise
from experiments.runs import Count, KeepFlags, outputs, start, whole
from experiments.runs.stages import stage
from experiments.stats.multiplicity import ALPHA
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(BaseStudy):
  """Says which pairs of entities are taken, and how they are patched.

  Attributes:
    types: Entity types to use. Default: all there are.
    pairs: Most pairs of each type.
    name_tokens: Number of tokens that a name has. Default: the commonest number
      of each type.
    relation_tokens: Number of tokens that follow the name.
    verify: Number of cells of each map that are run exactly, the first by
      attribution over half of the pairs; the other half tests them. Default:
      all cells.
    pairs_per_batch: Pairs that are run at once.
    compare: Maps that are also swept without sharing work, for the first type.
  """

  types: tuple[str, ...] | None = None
  pairs: Annotated[int, whole(2)] = 32
  name_tokens: Count | None = None
  relation_tokens: Count = 3
  verify: Count | None = None
  pairs_per_batch: Count = 32
  compare: tuple[Map, ...] = tuple(MAPS)


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Patches, writes the results; returns the summary."""
  given = open_inputs(settings, keep_flags)
  kinds = settings.types or given.people.types
  for kind in kinds:
    if kind not in given.people.types:
      raise ValueError(
        f'--types has {kind!r}; there are {", ".join(given.people.types)}.'
      )
  model = given.load()
  pairs, dropped = _all_pairs(settings, given, model, kinds)
  given.begin()
  results, shares = _results(settings, given, model, pairs, dropped)
  return given.write(
    'patching',
    results,
    'Where does the model keep what it knows of an entity?',
    summary(results),
    figures.sections(results, shares, _texts(pairs)),
  )


def summary(results: Mapping) -> list[str]:
  """Says where the answer is by layer, the top heads, what one map cost."""
  lines = []
  for kind, found in results['types'].items():
    one = found['denoising']
    differences = one['differences']
    lines.append(
      f'{kind}: {found["dropped"]["pairs"]} pairs; difference of logits '
      f'{_estimate(differences["known"])} for known and '
      f'{_estimate(differences["unknown"])} for unknown entities.'
    )
    if not one['defined']:
      lines.append(
        f'{kind}: the two runs do not differ for certain, so shares of the '
        'way between them mean nothing.'
      )
    for direction in DIRECTIONS:
      one = found[direction]
      heads = [
        f'{head["name"]} {head["moved"]["value"]:+.2f}'
        for head in one['top_heads']['z_last'][:3]
        if head['p_adjusted'] <= ALPHA
      ]
      lines.append(
        f'{kind}, {direction}: the stream moves the answer most at '
        f'{_path(one["flow"], found["tokens"])}; heads at the last token '
        f'(max-T, {ALPHA:.0%}): {", ".join(heads) or "none"}.'
      )
  costs = results['costs'] or {'maps': ()}
  for row in costs['maps'][:1]:
    share = row['operations'] / row['minimal_operations']
    lines.append(
      f'{row["map"]}: {row["operations"]:.3g} operations in '
      f'{row["seconds"]:.3f} s, {share:.2f} times the formula of the minimum; '
      f'without sharing {row["naive_operations"]:.3g} in '
      f'{row["naive_seconds"]:.3f} s '
      f'({row["naive_seconds"] / row["seconds"]:.1f} times as long); they '
      f'differ by {row["largest_difference"]:.1e} at most. The report has the '
      'other maps.'
    )
  return lines


def _path(flow, tokens) -> str:
  """Returns where most of the answer is: runs of layers with the same token.

  Layers of which no cell was run are left out.
  """
  runs, before = [], None
  for step in flow:
    if step['token'] is not None:
      if step['token'] != before:
        runs.append([])
      runs[-1].append(step)
    before = step['token']
  said = []
  for steps in runs:
    first, last, token = (
      steps[0]['layer'],
      steps[-1]['layer'],
      steps[0]['token'],
    )
    most = max(step['moved']['value'] for step in steps)
    layers = f'.{first}' + (f' to {last}' if last > first else '')
    said.append(f'{tokens[token]!r} in resid_pre{layers} (up to {most:.2f})')
  return ', '.join(said)


def _all_pairs(settings: Settings, given: StudyInputs, model, kinds):
  """Returns type -> pairs, and type -> what was dropped."""
  known, unknown = (
    given.people.of('test', label) for label in ('known', 'unknown')
  )
  pairs, dropped = {}, {}
  for kind in kinds:
    pairs[kind], dropped[kind] = make_pairs(
      model,
      given.tokenizer,
      known[kind],
      unknown[kind],
      count=settings.pairs,
      name_tokens=settings.name_tokens,
      relation_tokens=settings.relation_tokens,
      reference=settings.mode == 'reference',
      seed=settings.seed,
    )
  return pairs, dropped


def _results(settings: Settings, given: StudyInputs, model, pairs, dropped):
  """Returns numbers for results.json, and each pair's share in every cell."""
  found, shares, examples = {}, {}, []
  for kind, each in pairs.items():
    arrays = _swept(settings, given, model, kind, each)
    labels = token_labels(given.tokenizer, each)
    found[kind] = {
      'dropped': dropped[kind],
      **summarise(arrays, labels, settings.seed),
    }
    shares |= {f'{kind}/{k}': v for k, v in pair_shares(arrays).items()}
    for i, pair in enumerate(each):
      examples.append(
        {
          'type': kind,
          **pair.to_dict(),
          'known_difference': arrays['denoising/donor'][i],
          'unknown_difference': arrays['denoising/base'][i],
        }
      )
  write_arrays(given.out / 'effects.safetensors', shares)
  outputs.write_lines(given.out / 'pairs.jsonl', examples)
  costs = _compared(settings, given, model, pairs) if settings.compare else None
  return {
    'directions': list(DIRECTIONS),
    'types': found,
    'costs': costs,
  }, shares


def _swept(settings: Settings, given: StudyInputs, model, kind, pairs):
  """Returns the arrays of a type, computed or found."""
  identity = _identity(given, pairs) | {
    'verify': settings.verify,
    'chosen_on': 'all' if settings.verify is None else 'the first half',
    'pairs_per_batch': settings.pairs_per_batch,
  }
  folder = given.out / 'sweeps' / kind
  file = 'arrays.safetensors'

  def make(path):
    total = _cells(settings, model.config, pairs)
    with tqdm.tqdm(total=total, desc=f'Patching {kind}', unit='cell') as bar:
      arrays = study_pairs(
        model,
        pairs,
        verify=settings.verify,
        pairs_per_batch=settings.pairs_per_batch,
        progress=bar.update,
      )
    write_arrays(path / file, arrays)

  stage(folder, identity, make)
  return read_arrays(folder / file)


def _compared(settings: Settings, given: StudyInputs, model, pairs) -> dict:
  """Returns what sweeps of the first type cost, computed or found."""
  kind, each = next(iter(pairs.items()))
  each = each[: settings.pairs_per_batch]
  folder = given.out / 'sweeps' / 'costs'
  file = 'costs.json'

  def make(path):
    costs = compare(model, each, settings.compare)
    outputs.write_json(path / file, costs | {'type': kind})

  stage(folder, _identity(given, each) | {'maps': settings.compare}, make)
  return outputs.read_json(folder / file)


def _identity(given: StudyInputs, pairs) -> dict:
  """Returns what the sweeps of pairs depend on."""
  return {
    'model': given.about,
    'pairs': [pair.to_dict() for pair in pairs],
    'mode': given.settings.mode,
  }


def _cells(settings: Settings, config: gj.ModelConfig, pairs) -> int:
  """Returns how many cells a type's sweeps have, in both directions."""
  sizes = [
    math.prod(map_shape(config, name, len(pairs[0].known.ids))) for name in MAPS
  ]
  if settings.verify is not None:
    sizes = [min(size, settings.verify) for size in sizes]
  batches = -(-len(pairs) // settings.pairs_per_batch)
  return len(DIRECTIONS) * batches * sum(sizes)


def _texts(pairs) -> dict[str, list[str]]:
  """Returns type -> a line about each pair, for clicks on figures."""
  return {
    kind: [
      f'{p.known.text} → {p.answers[0]} | {p.unknown.text} → {p.answers[1]}'
      for p in each
    ]
    for kind, each in pairs.items()
  }


def _estimate(found: Mapping) -> str:
  if found['value'] is None:
    return 'not defined'
  if found['low'] is None:
    return f'{found["value"]:.2f}'
  return f'{found["value"]:.2f} [{found["low"]:.2f}, {found["high"]:.2f}]'


if __name__ == '__main__':
  start(Settings, work)
