r"""Do latents that know an entity move attention to it?

  make demo
  python -m experiments.attention.shift --out=out/shift

  python -m experiments.attention.shift --out=out/shift_2b \
    --model=google/gemma-2-2b --sae=gemma-scope-2b-pt-res --run=out/2b \
    --entities=wikidata --alpha=100

The experiment of arXiv 2411.14257, section 6, with the base model and the
beginnings of statements, "The city X is located in". How much does the last
token attend to the entity, in every head, if the model knows the entity and if
not? How does that change when the latent that fires on known entities is added
to the last token of an unknown one, and the other way round?

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
import dataclasses
import os
from typing import Annotated

import numpy as np

from experiments.attention import (
  KEYS,
  MEASURES,
  Case,
  Shift,
  compare_classes,
  first_changed,
  make_cases,
  measure_shift,
  shift_figures,
  summarise_shift,
)
from experiments.charts import style
from experiments.inputs.settings import BaseStudy, ControlledLatents
from experiments.inputs.study_inputs import StudyInputs, open_inputs
from experiments.latents import CLASSES, Target
from experiments.runs import (
  Count,
  KeepFlags,
  Positive,
  Signed,
  outputs,
  start,
  whole,
)
from experiments.steering import OPPOSITE, Positions, stream_norms
from gemma_jax.whole_files import save_tensors

# Base model -> coefficient, of either latent: arXiv 2411.14257, section 6.
PUBLISHED = {'gemma-2-2b': 100.0, 'gemma-2-9b': 100.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(BaseStudy, ControlledLatents):
  """Holds what is added to which prompts, and what it is compared with.

  Attributes:
    questions: Prompts per entity type and class.
    num_random: Number of random latents that each latent is compared with.
      They are matched to it if there is a run.
    alpha: Coefficient of either latent's decoder row. Default: as --dose says;
      in reference mode the published one, if there is one for the model.
    dose: Norm of what is added, in units of the mean norm of the residual
      stream there.
    positions: Tokens of a prompt that are steered.
    rows_per_batch: Prompts times directions that are run at once.
  """

  questions: Annotated[int, whole(2)] = 100
  num_random: Annotated[int, whole(0, 10_000)] = 100
  alpha: Signed | None = None
  dose: Positive = 0.5
  positions: Positions = 'entity_last'
  rows_per_batch: Count = 2048


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Measures attention, writes the results; returns the summary."""
  given = open_inputs(settings, keep_flags)
  for target in given.targets.values():
    if first_changed(target) >= given.reader.config.num_layers:
      raise ValueError(
        f'{target.id} is written by the last layer; no attention comes after '
        'it. Name another latent.'
      )
  cases = make_cases(
    given.tokenizer,
    given.people.of('test', 'known'),
    given.people.of('test', 'unknown'),
    lead=False,
    per_class=settings.questions,
    swapped=settings.mode == 'reference',
    seed=settings.seed,
  )
  given.begin()
  results, shifts = _measure(given, cases)
  _write_effects(given.out, shifts)
  outputs.write_lines(
    given.out / 'examples.jsonl',
    (case.to_dict() for shift in shifts.values() for case in shift.cases),
  )
  return given.write(
    'attention.shift',
    results,
    'Do latents that know an entity move attention to it?',
    summary(results),
    shift_figures.sections(results, shifts),
  )


def summary(results: Mapping) -> list[str]:
  """Says what was added, how many heads differ, and how many latents move."""
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


def _measure(
  given: StudyInputs, cases: Sequence[Case]
) -> tuple[dict, dict[str, Shift]]:
  """Returns all numbers, and what they were computed from, by class."""
  settings, model = given.settings, given.load()
  shifts, added = {}, {}
  for entity_class in CLASSES:
    mine = [case for case in cases if case.entity_class == entity_class]
    target = given.targets.get(OPPOSITE[entity_class])
    alpha = 0.0
    if target is not None:
      site, layer = target.id.site, target.id.layer
      norm = stream_norms(model, mine, site, [layer], settings.positions)[layer]
      alpha, source = _alpha(settings, target, norm.value)
      added[target.label] = {
        'id': str(target.id),
        'alpha': alpha,
        'source': source,
        'direction_norm': target.norm,
        'stream_norm': norm.to_dict(),
        'dose': alpha * target.norm / norm.value,
        'positions': settings.positions,
        'num_controls': len(target.controls),
        'asked_controls': settings.num_random,
      }
    shifts[entity_class] = measure_shift(
      model,
      mine,
      target,
      alpha=alpha,
      positions=settings.positions,
      rows_per_batch=settings.rows_per_batch,
      folder=given.out / 'attention' / entity_class,
      identity=dict(given.about),
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
      shifts['known'], shifts['unknown'], seed=settings.seed
    ),
    'changes': [
      entry
      for shift in shifts.values()
      if shift.target is not None
      for entry in summarise_shift(
        shift, seed=settings.seed, reference=settings.mode == 'reference'
      )
    ],
  }
  return results, shifts


def _alpha(
  settings: Settings, target: Target, stream_norm: float
) -> tuple[float, str]:
  """Returns the coefficient, and where it comes from."""
  if settings.alpha is not None:
    return settings.alpha, 'given'
  name = os.path.basename(os.path.normpath(settings.model))
  if settings.mode == 'reference' and name in PUBLISHED:
    return PUBLISHED[name], 'published'
  return settings.dose * stream_norm / target.norm, f'dose {settings.dose:g}'


def _primary(entries) -> Mapping:
  """Returns the entry of attention to the last token."""
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
  """Writes arrays per prompt, in the order of examples.jsonl."""
  arrays = {}
  for name, shift in shifts.items():
    arrays[f'{name}.before'] = np.asarray(shift.before, np.float32)
    if shift.target is not None:
      # Axes: prompt, latent then its controls, layer, measure, keys, head.
      arrays[f'{name}.after'] = np.asarray(shift.after, np.float32)
  save_tensors(out / 'effects.safetensors', arrays)


if __name__ == '__main__':
  start(Settings, work)
