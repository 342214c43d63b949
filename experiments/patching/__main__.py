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

from collections.abc import Mapping, Sequence

from absl import flags
import tqdm

from experiments.inputs import study_inputs as subject_lib
from experiments.inputs.study_inputs import StudyInputs
from experiments.latents import read_arrays, write_arrays
from experiments.patching import (
  DIRECTIONS,
  MAPS,
  Settings,
  compare,
  figures,
  make_pairs,
  study_pairs,
  summarise,
)
from experiments.patching.pairs import token_labels
from experiments.patching.summary import pair_shares
from experiments.runs import define_number, outputs, whole
from experiments.runs.stages import stage
from experiments.stats.multiplicity import ALPHA
import gemma_jax as gj


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines this program's flags; returns their names."""
  before = set(values)
  subject_lib.define_flags(values, model='base', saes=False, latents=False)
  common = {'flag_values': values}
  flags.DEFINE_list('types', None, 'Types of entities. Default: all.', **common)
  define_number('pairs', 32, 'Most pairs per type.', whole(2), **common)
  define_number(
    'name_tokens',
    None,
    "Tokens of names. Default: the commonest number of each type's.",
    whole(),
    **common,
  )
  define_number(
    'relation_tokens', 3, 'Tokens of what follows the name.', whole(), **common
  )
  define_number(
    'verify',
    None,
    'Cells of each map to run exactly, the first by attribution over half of '
    'the pairs; the other half tests them. Default: all.',
    whole(),
    **common,
  )
  define_number('pairs_per_batch', 32, 'Pairs run at once.', whole(), **common)
  flags.DEFINE_list(
    'compare',
    list(MAPS),
    'Maps to sweep without sharing work too, for the first type.',
    **common,
  )
  return subject_lib.finish_flags(values, before)


def run(values: flags.FlagValues, names: Sequence[str]) -> int:
  """Does what parsed flags say; returns the exit code."""
  try:
    subject = subject_lib.open_subject(values, names, model='base')
    kinds = _kinds(values, subject)
    model = subject.load()
    pairs, dropped = _all_pairs(values, subject, model, kinds)
    subject.begin()
    settings = Settings(
      verify=values.verify, pairs_per_batch=values.pairs_per_batch
    )
    results, shares = _results(subject, model, pairs, dropped, settings)
    subject.write(
      'patching',
      results,
      'Where does the model keep what it knows of an entity?',
      summary(results),
      figures.sections(results, shares, _texts(pairs)),
    )
  except (OSError, ValueError, ImportError) as error:
    return outputs.failed(error)
  return 0


def summary(results: Mapping) -> list[str]:
  """Pairs, where the answer is by layer, top heads, what one map cost."""
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
  """Where most of the answer is: runs of layers with the same token.

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


def _kinds(values, subject: StudyInputs) -> list[str]:
  """The types that are asked for."""
  kinds = list(values.types or subject.people.types)
  for kind in kinds:
    if kind not in subject.people.types:
      raise ValueError(
        f'--types has {kind!r}; there are {", ".join(subject.people.types)}.'
      )
  unknown = [name for name in values.compare if name not in MAPS]
  if unknown:
    raise ValueError(
      f'--compare has {unknown[0]!r}; maps are {", ".join(MAPS)}.'
    )
  return kinds


def _all_pairs(values, subject: StudyInputs, model, kinds):
  """Type -> pairs, and type -> what was dropped."""
  people = {
    label: subject.people.of('test', label) for label in ('known', 'unknown')
  }
  pairs, dropped = {}, {}
  for kind in kinds:
    pairs[kind], dropped[kind] = make_pairs(
      model,
      subject.tokenizer,
      people['known'][kind],
      people['unknown'][kind],
      count=values.pairs,
      name_tokens=values.name_tokens,
      relation_tokens=values.relation_tokens,
      reference=values.mode == 'reference',
      seed=values.seed,
    )
  return pairs, dropped


def _results(subject: StudyInputs, model, pairs, dropped, settings):
  """Numbers for results.json, and each pair's share in every cell."""
  out, seed = subject.out, subject.values.seed
  found, shares, examples = {}, {}, []
  for kind, each in pairs.items():
    arrays = _swept(subject, model, kind, each, settings)
    labels = token_labels(subject.tokenizer, each)
    found[kind] = {
      'dropped': dropped[kind],
      **summarise(arrays, labels, seed),
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
  write_arrays(out / 'effects.safetensors', shares)
  outputs.write_lines(out / 'pairs.jsonl', examples)
  results = {
    'directions': list(DIRECTIONS),
    'types': found,
    'costs': _compared(subject, model, pairs, settings),
  }
  return results, shares


def _swept(subject: StudyInputs, model, kind, pairs, settings):
  """The arrays of a type, computed or found."""
  identity = _identity(subject, pairs) | {
    'verify': settings.verify,
    'chosen_on': 'all' if settings.verify is None else 'the first half',
    'pairs_per_batch': settings.pairs_per_batch,
  }
  folder = subject.out / 'sweeps' / kind
  file = 'arrays.safetensors'

  def make(path):
    total = _cells(model.config, pairs, settings)
    with tqdm.tqdm(total=total, desc=f'Patching {kind}', unit='cell') as bar:
      arrays = study_pairs(model, pairs, settings, progress=bar.update)
    write_arrays(path / file, arrays)

  stage(folder, identity, make)
  return read_arrays(folder / file)


def _compared(subject: StudyInputs, model, pairs, settings) -> dict | None:
  names = subject.values.compare
  if not names:
    return None
  kind, each = next(iter(pairs.items()))
  each = each[: settings.pairs_per_batch]
  folder = subject.out / 'sweeps' / 'costs'
  file = 'costs.json'

  def make(path):
    costs = compare(model, each, names)
    outputs.write_json(path / file, costs | {'type': kind})

  stage(folder, _identity(subject, each) | {'maps': names}, make)
  return outputs.read_json(folder / file)


def _identity(subject: StudyInputs, pairs) -> dict:
  """What the sweeps of pairs depend on."""
  return {
    'model': subject.about,
    'pairs': [pair.to_dict() for pair in pairs],
    'mode': subject.values.mode,
  }


def _cells(config: gj.ModelConfig, pairs, settings) -> int:
  """How many cells a type's sweeps have, in both directions."""
  T, L, N = len(pairs[0].known.ids), config.num_layers, config.num_heads
  sizes = [L * T] * 3 + [L * N] * 2
  if settings.verify is not None:
    sizes = [min(size, settings.verify) for size in sizes]
  batches = -(-len(pairs) // settings.pairs_per_batch)
  return len(DIRECTIONS) * batches * sum(sizes)


def _texts(pairs) -> dict[str, list[str]]:
  """Type -> a line about each pair, for clicks on figures."""
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
  outputs.start(define_flags, run)
