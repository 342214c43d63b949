"""Latents of known and unknown entities: the part of a report about them.

`sections` takes what `latents.results` keeps: the dict of results.json and the
arrays beside it. The figures can be made one by one, too.
"""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.charts import Section, style
from experiments.entity_recognition.layer_figures import layer_curves
from experiments.entity_recognition.scatter import GREY, scatter
from experiments.entity_recognition.tables import (
  chosen_table,
  detector_table,
  meaning_table,
  token,
)
from experiments.entity_recognition.types_figure import type_heatmap
from experiments.latents import describe_random
from experiments.latents.class_look import LABEL_COLOURS


def detectors(results: Mapping) -> go.Figure:
  """AUROC on test of the best latents and of what they are compared with."""
  shown = compared(results)
  types = results['types']
  colours = style.colours(types)
  figure = go.Figure()
  rows = len(shown)
  # The mean at the top of each detector's band, then the types.
  shifts = np.linspace(-0.3, 0.3, len(types) + 1)
  for name, shift in zip(['mean', *types], shifts, strict=True):
    is_mean = name == 'mean'
    found = [one['mean'] if is_mean else one['types'][name] for one in shown]
    colour = 'black' if is_mean else colours[name]
    figure.add_trace(
      go.Scatter(
        name='mean over types' if is_mean else style.text(name),
        x=[one['value'] for one in found],
        y=[row + shift for row in range(rows)],
        error_x={
          'type': 'data',
          'symmetric': False,
          'array': [one['high'] - one['value'] for one in found],
          'arrayminus': [one['value'] - one['low'] for one in found],
          'thickness': 2 if is_mean else 1,
          'width': 3,
        },
        mode='markers',
        marker={
          'color': colour,
          'size': 9 if is_mean else 6,
          'symbol': 'diamond' if is_mean else 'circle',
        },
        hovertext=[
          style.text(
            f'{detector["name"]}, {"mean over types" if is_mean else name}'
          )
          + f'<br>AUROC {one["value"]:.3f} [{one["low"]:.3f}, '
          + f'{one["high"]:.3f}]<br>n = {one["n_positive"]:,} '
          + f'{detector["positive"]}, {one["n_negative"]:,} others'
          for detector, one in zip(shown, found, strict=True)
        ],
        hoverinfo='text',
      )
    )
  figure = style.styled(
    figure,
    x='AUROC of known against unknown entities, test',
    y='',
    height=140 + 64 * rows,
  )
  figure.update_yaxes(
    tickvals=list(range(rows)),
    ticktext=[style.text(one['name']) for one in shown],
    range=[rows - 0.5, -0.5],
    showgrid=False,
  )
  figure.add_vline(x=0.5, line={'color': GREY, 'dash': 'dash', 'width': 1})
  return figure


def compared(results: Mapping) -> list[Mapping]:
  """Detectors to compare: of the chosen latents, the best of each label."""
  best = {
    (label, chosen[0]['id']) for label, chosen in results['chosen'].items()
  }
  return [
    one
    for one in results['detectors']
    if one['kind'] != 'latent'
    or (one['about']['label'], one['about']['latent']) in best
  ]


def examples(results: Mapping) -> go.Figure:
  """The best latents at every token of example texts; hover for numbers.

  Rows are labelled with the ids of the texts, if these are not just numbers.
  """
  best = {label: chosen[0]['id'] for label, chosen in results['chosen'].items()}
  texts = results['examples']
  longest = max(len(one['tokens']) for one in texts)
  figure = make_subplots(
    rows=len(best),
    cols=1,
    subplot_titles=[
      style.text(f'{label} latent {id}') for label, id in best.items()
    ],
    vertical_spacing=0.4 / (2 + len(texts)),
  )

  def padded(values, filling):
    return list(values) + [filling] * (longest - len(values))

  tokens = [
    padded([style.text(token(t)) for t in one['tokens']], '') for one in texts
  ]
  for row, (label, id) in enumerate(best.items(), 1):
    values = [padded(one['activations'][id], None) for one in texts]
    figure.add_trace(
      go.Heatmap(
        z=values,
        text=tokens,
        texttemplate='%{text}',
        textfont={'size': 12},
        colorscale=[[0, 'white'], [1, LABEL_COLOURS[label]]],
        zmin=0,
        zmax=max(max(one['activations'][id]) for one in texts) or 1,
        showscale=False,
        xgap=1,
        ygap=3,
        hovertemplate='%{text}<br>activation %{z:.4g}<extra></extra>',
        hoverongaps=False,
      ),
      row=row,
      col=1,
    )
  figure = style.styled(
    figure, x='', y='', height=80 + len(best) * (60 + 34 * len(texts))
  )
  figure.update_xaxes(
    showticklabels=False, ticks='', showgrid=False, showline=False
  )
  labels = [str(one['id']) for one in texts]
  figure.update_yaxes(
    tickvals=list(range(len(texts))),
    ticktext=[style.text('' if x.isdecimal() else x) for x in labels],
    ticks='',
    showgrid=False,
    showline=False,
    autorange='reversed',
  )
  figure.update_layout(showlegend=False, margin={'l': 20})
  return figure


def sections(
  results: Mapping, arrays: Mapping[str, np.ndarray]
) -> list[Section]:
  """The sections of a report about latents.

  Args:
    results: As `latents.to_results` makes it, or read from results.json.
    arrays: As `latents.to_arrays` makes them.
  """
  known, unknown = (results['chosen'][c][0] for c in ('known', 'unknown'))
  selection = results['selection']
  parts = [
    Section(
      title='Latents that fire on known or on unknown entities',
      text=[
        _best(known),
        _best(unknown),
        f'Latents were chosen on the {selection["split"]} entities, by the '
        'lowest separation over entity types; the figure and the table show '
        f'those of test. {selection["text_filter"]["note"]}',
        'In the second figure blue latents fire on known entities, red ones on '
        'unknown; a dot is where the interval of the difference leaves out 0.',
        *(f'Warning: {warning}' for warning in results['warnings']),
        *(f'Left out: {skipped}' for skipped in results['skipped']),
      ],
      figures=[scatter(results, arrays), type_heatmap(results)],
      tables=[chosen_table(results)],
    ),
    Section(
      title='In which layers',
      text=[
        'For each type the mean of the best five latents, with bars from the '
        'lowest to the highest of them; MaxMin is the best score that a single '
        'latent has on every type. On the '
        f'{selection["split"]} entities, without the filter of plain text.',
        *_null_text(results),
      ],
      figures=[layer_curves(results, c) for c in ('known', 'unknown')],
    ),
    Section(
      title='Against other detectors',
      text=[
        'AUROC on test for telling known from unknown entities, with 95 % '
        'intervals; 0.5 is chance. The bars of random latents, which do not '
        'separate the classes on train, reach from the lowest to the highest '
        f'of them. {_random(results)} The linear probe and the difference of '
        'means read the same site and layer as the latent; the tokens of a '
        'name need no model. Where tokens are balanced over all entities, '
        'those that are rare among the known of train are common among those '
        'of test, and the AUROC of tokens falls below 0.5.',
      ],
      figures=[detectors(results)],
      tables=[detector_table(compared(results))],
    ),
    Section(
      title='What these latents are about',
      text=[
        'The entities of test on which the latents are most active, and the '
        'tokens whose logits their decoder rows raise and lower most: '
        + (
          'd (1 + w) @ W_U, with the gain of the final norm.'
          if results['settings']['final_norm_gain']
          else 'd @ W_U, without the gain of the final norm.'
        ),
      ],
      tables=[meaning_table(results)],
    ),
  ]
  if results['examples']:
    parts.append(
      Section(
        title='Token by token',
        text=[
          'Activations of the best latents on example prompts, without BOS. '
          'Each colour scale ends at the highest activation shown.'
        ],
        figures=[examples(results)],
      )
    )
  return parts


def _best(chosen: Mapping) -> str:
  """The best latent of a label in a sentence."""
  label, lowest = chosen['label'], chosen['test']['lowest']
  other = 'unknown' if label == 'known' else 'known'
  rates = chosen['test']['types'][lowest['type']]
  return (
    f'The best {label} latent is {chosen["id"]}. On the type it does worst on, '
    f'{lowest["type"]}, it fires on {_of(rates[label], label)} and on '
    f'{_of(rates[other], other)} of test.'
  )


def _random(results: Mapping) -> str:
  """In what random latents are like the chosen ones, a sentence per label."""
  return ' '.join(
    f'Those of the {label} latent are {describe_random(random)}.'
    for label, random in results['random'].items()
  )


def _of(rate: Mapping, label: str) -> str:
  """A rate in a sentence."""
  return (
    f'{100 * rate["value"]:.1f} % of {rate["n"]:,} {label} entities '
    f'({100 * rate["low"]:.1f} to {100 * rate["high"]:.1f} %)'
  )


def _null_text(results: Mapping) -> list[str]:
  null = results['null']
  if null is None:
    return []
  found = [
    f'The {label} latent that was chosen scores {null[label]["observed"]:.3f}; '
    f'in 95 % of the shuffles the best of all latents stays below '
    f'{null[label]["null_95"]:.3f} (p = {null[label]["p_value"]["value"]:.2g}).'
    for label in ('known', 'unknown')
  ]
  return [
    'Could that be chance? The whole selection was repeated '
    f'{null["num_permutations"]:,} times with labels shuffled within each '
    f'type. {" ".join(found)} The band has the shuffles layer by layer.'
  ]
