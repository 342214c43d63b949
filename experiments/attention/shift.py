r"""Do latents that know an entity move attention to it?

  make demo
  python -m experiments.attention.shift --out=out/shift

  python -m experiments.attention.shift --out=out/shift_2b \
    --model=google/gemma-2-2b --sae=gemma-scope-2b-pt-res --run=out/2b \
    --entities=wikidata --alpha=100

The experiment of arXiv 2411.14257, section 6, with the base model and the
beginnings of statements, "The city X is located in". How much does the last
token attend to the entity, in every head, if the model knows the entity and if
not? And what does that become when the latent that fires on known entities is
added to the last token of an unknown one, and the other way round?

Attention is measured as such, weighted by the length of the value that it
moves, and by the length of what that value adds to the layer's output; to the
entity's last token and to all of its tokens.

Any large vector that is added changes attention. So a latent is compared with
matched random latents (--num_random) at the same norm: a head is marked if the
latent moves it further than they move any head, each relative to what random
latents do there. --mode=reference adds the published test, which takes every
head of every prompt for an independent sample, and its coefficient where it is
known.

How much is added: --alpha is the coefficient of a decoder row; otherwise --dose
is its norm in units of the stream's. --out gets flags.txt, results.json,
examples.jsonl (the prompts), effects.safetensors (attention before and after,
per prompt and head), report.html, and attention/, from which the same command
goes on.
"""

from collections.abc import Mapping, Sequence
import os

from absl import flags
import numpy as np

from experiments.attention import (
  KEYS,
  MEASURES,
  compare_classes,
  first_changed,
  make_cases,
  measure_shift,
  shift_figures,
  summarise_shift,
)
from experiments.charts import style
from experiments.inputs import study_inputs
from experiments.latents import CLASSES
from experiments.runs import POSITIVE, SIGNED, define_number, outputs, whole
from experiments.steering import OPPOSITE, POSITIONS, stream_norms
from gemma_jax.whole_files import save_tensors

# Base model -> coefficient, of either latent: arXiv 2411.14257, section 6.
PUBLISHED = {'gemma-2-2b': 100.0, 'gemma-2-9b': 100.0}


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines this program's flags; returns their names."""
  before = set(values)
  study_inputs.define_flags(values, model='base', num_random=100)
  common = {'flag_values': values}
  define_number(
    'questions', 100, 'Prompts per entity type and class.', whole(2), **common
  )
  define_number(
    'alpha',
    None,
    "Coefficient of either latent's decoder row. Default: by --dose; in "
    'reference mode the published one, if there is one for the model.',
    SIGNED,
    **common,
  )
  define_number(
    'dose',
    0.5,
    "Norm of what is added, in units of the stream's mean norm there.",
    POSITIVE,
    **common,
  )
  flags.DEFINE_enum(
    'positions',
    'entity_last',
    list(POSITIONS),
    'Which tokens of a prompt are steered.',
    **common,
  )
  define_number(
    'rows_per_batch',
    2048,
    'Prompts times directions that run at once.',
    whole(),
    **common,
  )
  return study_inputs.finish_flags(values, before)


def run(values: flags.FlagValues, names: Sequence[str]) -> int:
  """Does what parsed flags say; returns the exit code."""
  try:
    about = study_inputs.open_subject(values, names)
    for target in about.targets.values():
      if first_changed(target) >= about.reader.config.num_layers:
        raise ValueError(
          f'{target.id} is written by the last layer; no attention comes after '
          'it. Name another latent.'
        )
    cases = make_cases(
      about.tokenizer,
      about.people.of('test', 'known'),
      about.people.of('test', 'unknown'),
      lead=False,
      per_class=values.questions,
      swapped=values.mode == 'reference',
      seed=values.seed,
    )
    about.begin()
    results, shifts = _measure(about, cases)
    _write_effects(about.out, shifts)
    outputs.write_lines(
      about.out / 'examples.jsonl',
      (case.to_dict() for shift in shifts.values() for case in shift.cases),
    )
    about.write(
      'attention.shift',
      results,
      'Do latents that know an entity move attention to it?',
      summary(results),
      shift_figures.shift_sections(results, shifts),
    )
  except (OSError, ValueError, ImportError) as error:
    return outputs.failed(error)
  return 0


def summary(results: Mapping) -> list[str]:
  """What was added, how many heads differ, and how many a latent moves."""
  lines = []
  for label, added in results['added'].items():
    lines.append(
      f'{label} latent {added["id"]}: alpha {added["alpha"]:.4g} '
      f'({added["source"]}), {added["dose"]:.2f} times the mean norm of the '
      f'stream there, {added["stream_norm"]["value"]:.4g}; '
      f'{added["num_controls"]} random latents at the same norm.'
    )
  classes = _primary(results['classes'])
  by_size = sorted(
    classes['heads'], key=lambda head: -abs(head['difference']['value'])
  )
  lines.append(
    f'Attention to the last token of known against unknown entities: '
    f'{classes["significant"]} of {classes["cells"]} heads differ (max-T '
    f'p <= .05); most {_named(by_size[0], "difference")}.'
  )
  for change in results['changes']:
    if (change['measure'], change['keys']) != (MEASURES[0], KEYS[0]):
      continue
    heads = [h for h in change['heads'] if h['change']['n']]
    most = max(heads, key=lambda h: change['expected'] * h['change']['value'])
    test = change.get('latents_test')
    beyond = (
      f'{test["significant"]} of {len(heads)} heads move further than random '
      f'latents move any'
      if test
      else 'no random latents to compare with'
    )
    mean = change['mean']
    lines.append(
      f'{change["target"]} latent on {change["prompts"]} entities: '
      f'{mean["change"]["value"]:+.4f} '
      f'[{mean["change"]["low"]:+.4f}, {mean["change"]["high"]:+.4f}] in the '
      f'mean over heads'
      + (
        f', p {style.number(mean["p_random"])} among random latents'
        if test
        else ''
      )
      + f'; {beyond}; most as expected {_named(most, "change")}.'
    )
    if 'reference' in change:
      welch = change['reference']
      lines.append(
        f'Published test, heads x prompts as samples: beyond '
        f'{welch["rejections"]} of {welch["of"]} random latents.'
      )
  return lines


def _measure(about, cases):
  """All numbers, and what they were computed from, by class."""
  values, model = about.values, about.load()
  shifts, added = {}, {}
  for entity_class in CLASSES:
    mine = [case for case in cases if case.entity_class == entity_class]
    target = about.targets.get(OPPOSITE[entity_class])
    alpha = 0.0
    if target is not None:
      site, layer = target.id.site, target.id.layer
      norm = stream_norms(model, mine, site, [layer], values.positions)[layer]
      alpha, source = _alpha(values, target, norm.value)
      added[target.label] = {
        'id': str(target.id),
        'alpha': alpha,
        'source': source,
        'direction_norm': target.norm,
        'stream_norm': norm.to_dict(),
        'dose': alpha * target.norm / norm.value,
        'positions': values.positions,
        'num_controls': len(target.controls),
        'asked_controls': values.num_random,
      }
    shifts[entity_class] = measure_shift(
      model,
      mine,
      target,
      alpha=alpha,
      positions=values.positions,
      rows_per_batch=values.rows_per_batch,
      folder=about.out / 'attention' / entity_class,
      identity=dict(about.about),
      description=f'Attention to {entity_class} entities',
    )
  results = {
    'prompts': {
      name: {
        'n': len(shift.cases),
        'entities': len({case.unit for case in shift.cases}),
      }
      for name, shift in shifts.items()
    },
    'added': added,
    'classes': compare_classes(
      shifts['known'], shifts['unknown'], seed=values.seed
    ),
    'changes': [
      entry
      for shift in shifts.values()
      if shift.target is not None
      for entry in summarise_shift(
        shift, seed=values.seed, reference=values.mode == 'reference'
      )
    ],
  }
  return results, shifts


def _alpha(values, target, stream_norm: float) -> tuple[float, str]:
  """The coefficient, and where it comes from."""
  if values.alpha is not None:
    return values.alpha, 'given'
  name = os.path.basename(os.path.normpath(values.model))
  if values.mode == 'reference' and name in PUBLISHED:
    return PUBLISHED[name], 'published'
  return values.dose * stream_norm / target.norm, f'dose {values.dose:g}'


def _primary(entries) -> Mapping:
  """Of the entries of all measures, that of attention to the last token."""
  return next(
    e for e in entries if (e['measure'], e['keys']) == (MEASURES[0], KEYS[0])
  )


def _named(head: Mapping, what: str) -> str:
  found = head[what]
  return (
    f'{head["name"]}, {found["value"]:+.3f} '
    f'[{found["low"]:+.3f}, {found["high"]:+.3f}]'
  )


def _write_effects(out, shifts):
  """Arrays per prompt, in the order of examples.jsonl."""
  arrays = {}
  for name, shift in shifts.items():
    arrays[f'{name}.before'] = np.asarray(shift.before, np.float32)
    if shift.target is not None:
      # Axes: prompt, latent then its controls, layer, measure, keys, head.
      arrays[f'{name}.after'] = np.asarray(shift.after, np.float32)
  save_tensors(out / 'effects.safetensors', arrays)


if __name__ == '__main__':
  outputs.start(define_flags, run)
