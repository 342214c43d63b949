"""What steering did, from the results and records of `experiments.steering`."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.charts import Section, style
from experiments.charts.style import error_bars, headed
from experiments.latents.class_look import LABEL_COLOURS, TITLES
from experiments.steering import arms as arms_lib
from experiments.steering import tables
from experiments.steering.dose_figures import dose_response
from experiments.steering.kl_matched_figures import (
  matched_figure,
  matched_table,
)
from experiments.steering.outcome_look import (
  ORIGINAL_COLOUR,
  OUTCOME_COLOURS,
  classes_of,
)
from experiments.steering.outcomes import OUTCOMES, REFUSAL
from experiments.steering.summary import ALL
from experiments.steering.tables import percent

# Of a random arm, beside that of its target.
_FADED = 0.45


def sections(
  results: Mapping, examples: Sequence[Mapping], per_class: int = 4
) -> list[Section]:
  """The report's sections about steering.

  Args:
    results: What `steering.steer` returns.
    examples: The records that it returns.
    per_class: How many questions of each class to show answers to.
  """
  both = len(classes_of(results)) > 1
  return [
    Section(
      title='Refusals when latents are added',
      text=[*tables.amounts(results), _BARS],
      figures=[refusal_bars(results)],
      tables=[tables.control_table(results)] if results['controls'] else [],
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
          figures=[dose_response(results)],
        ),
        Section(
          title='At matched divergence',
          text=[_MATCHED_WORDS],
          figures=[
            matched_figure(results),
            *([matched_figure(results, off_target=True)] if both else []),
          ],
          tables=[matched_table(results)],
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
  'Bars are shares of questions that the model declines, with 95 % intervals '
  '(Wilson). Points are random arms, one each, added at the same norm, layer '
  'and tokens; the dash is their mean. A latent has an effect of its own where '
  'its bar lies outside its points.'
)
_OUTCOME_WORDS = (
  'An answer is a refusal; or correct; or wrong, which is a hallucination; or '
  'none of these (no words, words in circles, no number where one was asked '
  'for). Random arms are averaged. In the table, differences are those of '
  "refusals to the original, question by question: Newcombe's interval, an "
  "interval from resampling entities, and McNemar's exact test; q is p "
  'adjusted by Benjamini and Hochberg over single types.'
)
_DOSE_WORDS = (
  'The dose is the norm of what is added over the mean norm of the stream it '
  'is added to; negative is the opposite direction, 0 the original. Bands are '
  'the range of random latents. The dotted vertical line is the dose used '
  "above; the thin dotted curve is the share of answers that are 'other'. "
  'Below, how far each moves the model: the KL divergence of the steered model '
  "from the original along the original's answer, KL(original || steered) in "
  'nats per token, with 95 % intervals from resampling entities.'
)
_MATCHED_WORDS = (
  'The same norm is much along one direction and little along another. Here '
  'directions are compared where they move the model equally far: the change '
  'of refusals against KL divergence, each point one dose; of random latents '
  'and random directions it is the mean of a few. The first figure has the '
  'divergence on the same questions, of which the change of answers is itself '
  'a part; the second that on questions about the other class, off target. In '
  'the table, changes are read between the measured points at common levels '
  'of divergence, and nothing is read beyond a line; the last column is the '
  'range of single random arms, and how many reach the level. Intervals '
  'resample entities.'
)
_EXAMPLE_WORDS = (
  'Questions whose answer changes come first. The random arm is the first one.'
)


def refusal_bars(results: Mapping) -> go.Figure:
  """Refusals by type, one panel per class, all random arms as points."""
  arms = {arm['name']: arm for arm in results['arms']}
  shown = [
    arm
    for arm in results['arms']
    if arm['kind'] in (arms_lib.ORIGINAL, arms_lib.STEERED)
    or (arm['kind'] == arms_lib.WEIGHT_ABLATION and arm['weights'] == 'exact')
  ]
  columns = []  # what stands beside each other within a type
  for arm in shown:
    columns.append((arm['name'], arm, None))
    if arm['kind'] == arms_lib.STEERED:
      columns += [
        (f'{c["kind"]}s for {c["target"]}', arm, c)
        for c in results['controls']
        if c['target'] == arm['target']
      ]
  classes = classes_of(results)
  figure = make_subplots(
    rows=len(classes),
    cols=1,
    shared_xaxes=True,
    vertical_spacing=0.12,
    subplot_titles=[TITLES[name] for name in classes],
  )
  width = 0.86 / len(columns)
  for row, name in enumerate(classes, start=1):
    scopes = list(arms['original']['counts'][name])
    for j, (title, arm, control) in enumerate(columns):
      at = np.arange(len(scopes)) + (j - (len(columns) - 1) / 2) * width
      look = {
        'name': style.text(title),
        'legendgroup': title,
        'showlegend': row == 1,
      }
      add = lambda trace, row=row: figure.add_trace(trace, row=row, col=1)
      if control is None:
        add(_bars(arm, name, scopes, at, width, look))
      else:
        for trace in _points(control, name, scopes, at, width, look):
          add(trace)
    figure.update_xaxes(
      tickvals=list(range(len(scopes))),
      ticktext=[_with_n(arms['original'], name, scope) for scope in scopes],
      showticklabels=True,
      row=row,
      col=1,
    )
  figure = style.styled(figure, x='', y='refused', height=340 * len(classes))
  figure.update_yaxes(range=[0, 1.02], tickformat='.0%')
  return headed(figure)


def outcome_stacks(results: Mapping) -> go.Figure:
  """Shares of outcomes per arm, over all types; one panel per class."""
  classes = classes_of(results)
  figure = make_subplots(
    rows=1,
    cols=len(classes),
    shared_yaxes=True,
    horizontal_spacing=0.06,
    subplot_titles=[TITLES[name] for name in classes],
  )
  rows = list(_averaged(results))
  names = [style.text(name) for name, _ in rows]
  for column, name in enumerate(classes, start=1):
    for outcome, colour in OUTCOME_COLOURS.items():
      shares = [
        float(
          np.mean([arm['counts'][name][ALL][outcome]['value'] for arm in many])
        )
        for _, many in rows
      ]
      figure.add_trace(
        go.Bar(
          name=outcome,
          legendgroup=outcome,
          showlegend=column == 1,
          x=shares,
          y=names,
          orientation='h',
          marker={'color': colour},
          hovertemplate=f'%{{y}}<br>{outcome} %{{x:.1%}}<extra></extra>',
        ),
        row=1,
        col=column,
      )
  figure = style.styled(
    figure, x='share of answers', y='', height=130 + 26 * len(rows)
  )
  figure.update_layout(barmode='stack')
  figure.update_xaxes(range=[0, 1], tickformat='.0%')
  figure.update_yaxes(autorange='reversed')
  return headed(figure)


def _averaged(results) -> Iterator[tuple[str, list]]:
  """Arms of the stacks in order, random ones of a kind together."""
  random = {}
  for arm in results['arms']:
    if arm['kind'] in arms_lib.RANDOM_KINDS:
      random.setdefault((arm['kind'], arm['target']), []).append(arm)
    elif arm['kind'] not in arms_lib.SWEEP_KINDS:
      yield arm['name'], [arm]
  for (kind, target), many in random.items():
    yield f'{len(many)} {kind}s for {target}, mean', many


def _bars(arm, name, scopes, at, width, look) -> go.Bar:
  cells = [arm['counts'][name][scope] for scope in scopes]
  e = [cell[REFUSAL] for cell in cells]
  faded = arm['kind'] == arms_lib.WEIGHT_ABLATION
  return go.Bar(
    **look,
    x=at,
    y=[each['value'] for each in e],
    width=width * 0.92,
    marker={
      'color': LABEL_COLOURS.get(arm['target'], ORIGINAL_COLOUR),
      'pattern': {'shape': '/' if faded else ''},
    },
    error_y=error_bars(e),
    hovertext=[
      style.text(
        f'{arm["name"]}: {each["count"]} of {each["n"]} refused '
        f'[{percent(each["low"])}, {percent(each["high"])}]'
      )
      + '<br>'
      + ', '.join(f'{o} {cell[o]["count"]}' for o in OUTCOMES[1:])
      + f'<br>published detector {cell["reference_refusal"]["count"]}'
      for each, cell in zip(e, cells, strict=True)
    ],
    hoverinfo='text',
  )


def _points(control, name, scopes, at, width, look) -> Iterator[go.Scatter]:
  """All arms of a control, spread over their column; and their mean."""
  x, y, said = [], [], []
  for place, scope in zip(at, scopes, strict=True):
    rates = control['classes'][name][scope]['rates']
    spread = np.linspace(-0.35, 0.35, len(rates)) if len(rates) > 1 else [0]
    x += [place + width * s for s in spread]
    y += rates.values()
    said += [style.text(f'{n}: {percent(r)}') for n, r in rates.items()]
  colour = LABEL_COLOURS[control['target']]
  directions = control['kind'] == arms_lib.RANDOM_DIRECTION
  yield go.Scatter(
    **look,
    x=x,
    y=y,
    mode='markers',
    marker={
      'color': colour,
      'opacity': _FADED,
      'size': 5,
      'symbol': 'x' if directions else 'circle',
    },
    hovertext=said,
    hoverinfo='text',
  )
  yield go.Scatter(
    x=at,
    y=[control['classes'][name][scope]['mean'] for scope in scopes],
    mode='markers',
    marker={
      'symbol': 'line-ew',
      'size': 14,
      'line': {'width': 2, 'color': colour},
    },
    legendgroup=look['legendgroup'],
    showlegend=False,
    hoverinfo='skip',
  )


def _with_n(arm, name, scope) -> str:
  return style.text(f'{scope} (n = {arm["counts"][name][scope]["n"]})')
