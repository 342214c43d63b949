"""What steering did, from the results and records of `experiments.steering`."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from experiments import charts
from experiments.charts import Line, Section, style
from experiments.latents.class_look import LABEL_COLOURS, TITLES
from experiments.steering import arms as arms_lib
from experiments.steering import tables
from experiments.steering.kl_matched import MATCHED
from experiments.steering.outcome_look import (
  ORIGINAL_COLOUR,
  OUTCOME_COLOURS,
  classes_of,
)
from experiments.steering.outcomes import OUTCOMES, REFUSAL
from experiments.steering.summary import ALL
from experiments.steering.tables import signed

_BROKEN, _LOG_REFUSAL = 'broken answers', 'log P(refusal)'
_GREYS = dict(zip(arms_lib.RANDOM_LINES, ('#777777', '#AAAAAA'), strict=True))
# What is not the target's own, and the target's own directions.
_CURVES = {
  'latent': '#0072B2',
  'mean difference': '#CC79A7',
  **_GREYS,
  _BROKEN: OUTCOME_COLOURS['broken'],
}


def sections(
  results: Mapping, examples: Sequence[Mapping], per_class: int = 4
) -> list[Section]:
  """Returns the report's sections about steering.

  Args:
    results: The results of `steering.steer`.
    examples: The records of answers that it returns.
    per_class: Number of questions of each class whose answers are shown.
  """
  return [
    Section(
      title='Refusals when latents are added',
      text=[
        *tables.amounts(results),
        *map(tables.verdict, results['specificity']),
        _BARS,
      ],
      figures=[refusals(results)],
      tables=[
        tables.specificity_table(results),
        *([tables.control_table(results)] if results['controls'] else []),
      ],
    ),
    Section(
      title='What is said instead',
      text=[_OUTCOME_WORDS],
      figures=[outcome_stacks(results)],
      tables=[tables.effect_table(results)],
    ),
    *(
      [
        Section(
          title='Dose and response',
          text=[_DOSE_WORDS],
          figures=list(dose_response(results)),
        ),
        Section(
          title='At matched divergence',
          text=[_MATCHED_WORDS],
          figures=[
            matched(results, on)
            for on in ('text', 'unflipped', 'same_decision')
            if _matched_panels(results, on)
          ],
          tables=[tables.matched_table(results)],
        ),
      ]
      if results['dose_response']
      else []
    ),
    Section(
      title='Answers side by side',
      text=[_EXAMPLE_WORDS],
      tables=[tables.example_table(results, examples, per_class)],
    ),
  ]


_BARS = (
  'Shares of questions that the model declines, with 95 % intervals (Wilson). '
  'Points without intervals are random arms, one each, added at the same norm, '
  'layer and tokens. A latent has an effect of its own where it lies outside '
  'its random arms. A dose is specific where adding the latent changes '
  'refusals by half or more, the opposite sign does not, and no random latent '
  'or direction of the same norm changes them as far.'
)
_OUTCOME_WORDS = (
  'An answer is a refusal; or correct; or a hallucination, another value of '
  "what was asked for; or broken, which has no answer's form (no words, words "
  'in circles, a number where a name was asked for). Random arms are averaged. '
  'In the table, differences are those of refusals to the original, question '
  "by question: Newcombe's interval, an interval from resampling entities, and "
  "McNemar's exact test; q is p adjusted by Benjamini and Hochberg over single "
  'types.'
)
_DOSE_WORDS = (
  'The dose is the norm of what is added over the mean norm of the stream it '
  'is added to; negative is the opposite direction, 0 the original. The bands '
  'of random latents and of random directions are their ranges, other bands '
  'are 95 % intervals. The '
  'dashed vertical line is the dose used above; the black line is the share of '
  "answers that are broken: they have no answer's form. Below, how far each "
  'moves the model: the KL divergence of the steered model from the original '
  "along the original's answer, KL(original || steered) in nats per token, "
  'with intervals from resampling entities; and the log-probability of the '
  'tokens that begin refusals, which changes before answers do.'
)
_MATCHED_WORDS = (
  'The same norm is much along one direction and little along another. Here '
  'directions are compared where they move the model equally far: the change '
  'of refusals against KL divergence, each point one dose; of random latents '
  'and random directions it is their mean. Divergence is that on ordinary '
  'text, that on questions whose decision does not change, and that on the '
  "same questions after the answer's first token. On the whole answer it would "
  'be mostly the changed decision itself, so the table has it as a description '
  'only. In the table, changes are read between measured points at common '
  'levels of divergence, and nothing is read beyond a line; the last column is '
  'the range of single random arms, and how many reach the level. Intervals '
  'resample entities, and of random lines the arms too.'
)
_EXAMPLE_WORDS = (
  'Questions whose answer changes come first. The random arm is the first one.'
)


def refusals(results: Mapping):
  """Draws refusals by type, one panel per class, all random arms as points."""
  original = results['arms'][0]
  panels, groups = {}, {}
  for name in classes_of(results):
    panels[TITLES[name]] = panel = []
    for scope in original['counts'][name]:
      label = f'{scope} (n = {original["counts"][name][scope]["n"]})'
      for group, colour, dots in _columns(results, name, scope):
        groups.setdefault(group, colour)
        panel += [charts.Dot(label, group=group, **dot) for dot in dots]
  return charts.dots(
    panels,
    x_title='refused',
    groups=groups,
    percent=True,
    range=(-0.02, 1.02),
  )


def _columns(results, name, scope) -> Iterator[tuple[str, str, list[dict]]]:
  """Yields each arm's name and colour, and its value; controls likewise."""
  for arm in results['arms']:
    ablated = arm['kind'] == arms_lib.WEIGHT_ABLATION
    if ablated and arm['weights'] != 'exact':
      continue
    if not ablated and arm['kind'] not in (arms_lib.ORIGINAL, arms_lib.STEERED):
      continue
    colour = LABEL_COLOURS.get(arm['target'], ORIGINAL_COLOUR)
    cell = arm['counts'][name][scope]
    share = cell[REFUSAL]
    said = (
      f'{share["count"]} of {share["n"]} refused, '
      + ', '.join(f'{o} {cell[o]["count"]}' for o in OUTCOMES[1:])
      + f'\npublished detector {cell["reference_refusal"]["count"]}'
    )
    bounds = {key: share[key] for key in ('value', 'low', 'high')}
    yield (
      arm['name'],
      style.mixed(colour, '#000000', 0.35) if ablated else colour,
      [{**bounds, 'hover': said}],
    )
    for control in results['controls'] if not ablated else ():
      if control['target'] != arm['target'] or not control['chosen']:
        continue
      rates = control['classes'][name][scope]['rates']
      directions = control['kind'] == arms_lib.RANDOM_DIRECTION
      yield (
        f'{control["kind"]}s for {control["target"]}',
        style.mixed(colour, '#FFFFFF', 0.65 if directions else 0.4),
        [{'value': rate, 'hover': one} for one, rate in rates.items()],
      )


def outcome_stacks(results: Mapping):
  """Draws shares of outcomes per arm, over all types; a panel per class."""
  rows = list(_averaged(results))
  return charts.bars(
    {
      TITLES[name]: [
        charts.Bar(
          title,
          np.mean([arm['counts'][name][ALL][o]['value'] for arm in many]),
          group=o,
        )
        for title, many in rows
        for o in OUTCOMES
      ]
      for name in classes_of(results)
    },
    value_title='share of answers',
    groups=OUTCOME_COLOURS,
    horizontal=True,
    stacked=True,
    percent=True,
    range=(0, 1),
  )


def _averaged(results) -> Iterator[tuple[str, list]]:
  """Yields arms of the stacks in order, random ones of a kind together."""
  random = {}
  for arm in results['arms']:
    if arm['kind'] in arms_lib.RANDOM_KINDS:
      random.setdefault((arm['kind'], arm['target']), []).append(arm)
    elif arm['kind'] not in arms_lib.SWEEP_KINDS:
      yield arm['name'], [arm]
  for (kind, target), many in random.items():
    yield f'{len(many)} {kind}s for {target}, mean', many


def dose_response(results: Mapping) -> Iterator:
  """Yields, per target, refusals against dose, and divergence."""
  for response in results['dose_response']:
    title = f'{response["target"]} latent'
    look = {
      'x_title': 'dose, in mean norms of the stream',
      'groups': _CURVES,
      'x_reference': {'dose used above': response['dose']},
    }
    panels = {'refused': {}, 'KL, nats per token': {}, _LOG_REFUSAL: {}}
    for name in classes_of(results):
      for found, curves in zip(
        panels.values(), (_refused, _diverged, _log_refusal), strict=True
      ):
        found[f'{title}, {TITLES[name]}'] = list(curves(response, name))
    refused, diverged, log_refusal = panels.items()
    yield charts.lines(
      refused[1],
      y_title=refused[0],
      percent=True,
      y_range=(-0.02, 1.04),
      **look,
    )
    yield charts.lines(diverged[1], y_title=diverged[0], y_log=True, **look)
    if drawn := {
      name: lines for name, lines in log_refusal[1].items() if lines
    }:
      yield charts.lines(drawn, y_title=log_refusal[0], **look)


def _lines_of(response) -> Iterator[tuple[str, list]]:
  """Yields the directions of a dose response and their points."""
  for name in ('latent', 'mean difference'):
    if points := [p for p in response['points'] if p['line'] == name]:
      yield name, points


def _refused(response, name) -> Iterator[Line]:
  """Yields the shares of refusals against dose; a band is a range of arms."""
  (rate,) = {
    point['counts'][name][ALL][REFUSAL]['value']
    for point in response['points']
    if point['dose'] == 0
  }
  for kind, drawn in _random_lines(response):
    random = [(0.0, dict.fromkeys(('mean', 'low', 'high'), rate))]
    random += [(r['dose'], r['classes'][name]) for r in drawn]
    doses, cells = zip(*random, strict=True)
    mean, low, high = ([c[k] for c in cells] for k in ('mean', 'low', 'high'))
    yield Line(kind, doses, mean, low, high)
  for line, points in _lines_of(response):
    cells = [p['counts'][name][ALL] for p in points]
    doses = [p['dose'] for p in points]
    yield Line.of(
      line,
      doses,
      [cell[REFUSAL] for cell in cells],
      hover=[
        f'{c[REFUSAL]["count"]} refused, alpha {p["alpha"]:.4g}'
        for c, p in zip(cells, points, strict=True)
      ],
    )
    broken = [cell['broken']['value'] for cell in cells]
    yield Line(_BROKEN, doses, broken, dash=line != 'latent')


def _diverged(response, name) -> Iterator[Line]:
  """Yields KL against dose; it is 0 at dose 0, which a logarithm lacks."""
  for kind, drawn in _random_lines(response):
    kl = [r['kl'][name] for r in drawn]
    yield Line(kind, [r['dose'] for r in drawn], kl)
  for line, points in _lines_of(response):
    kl = [p['kl'][name] for p in points]
    yield Line.of(line, [p['dose'] for p in points], kl)


def _random_lines(response) -> Iterator[tuple[str, list]]:
  """Yields the kinds of random arms and their spreads, by dose."""
  for line in arms_lib.RANDOM_LINES:
    if drawn := [r for r in response['random'] if r['line'] == line]:
      yield line, drawn


def _log_refusal(response, name) -> Iterator[Line]:
  """Yields the log-probability of beginning a refusal against dose."""
  for line, points in _lines_of(response):
    values = [p['log_refusal'][name] for p in points]
    if all(value['value'] is not None for value in values):
      yield Line.of(line, [p['dose'] for p in points], values)


def matched(results: Mapping, matched_on: str):
  """Draws the change of refusals against KL, a line per direction.

  Args:
    results: The results of `steering.steer`.
    matched_on: Where KL is measured, one of kl_matched.MATCHED.
  """
  return charts.lines(
    _matched_panels(results, matched_on),
    x_title=f'KL on {MATCHED[matched_on]}, nats/token',
    y_title='change of refusals',
    groups=dict(
      zip(
        arms_lib.LINES,
        ('#0072B2', '#56B4E9', '#CC79A7', *_GREYS.values()),
        strict=True,
      )
    ),
    reference=0,
    percent=True,
    x_log=True,
    y_range=(-1.05, 1.05),
    columns=2,
  )


def _matched_panels(results, matched_on) -> dict[str, list[Line]]:
  """Returns the lines of each target and class that has any."""
  panels = {
    f'{one["target"]} latent, {TITLES[one["class"]]} '
    f'({100 * one["floor"]:.0f} to {100 * one["ceiling"]:+.0f} points '
    'possible)': list(_matched_lines(one))
    for one in results['matched_kl']
    if one['matched_on'] == matched_on
  }
  return {title: lines for title, lines in panels.items() if lines}


def _matched_lines(one) -> Iterator[Line]:
  for line in one['lines']:
    # The original, at 0, is left of any logarithm.
    points = [p for p in line['points'] if (p['kl']['value'] or 0) > 0]
    if not points:
      continue
    yield Line.of(
      line['line'],
      [p['kl']['value'] for p in points],
      [p['change'] for p in points],
      hover=[
        f'dose {p["dose"]:.2f}'
        + (f', mean of {p["arms"]}' if p['arms'] > 1 else '')
        + f'\nrefusals {signed(p["change"])} points'
        for p in points
      ],
    )
