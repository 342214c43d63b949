"""The report of an entity-recognition run."""

from collections.abc import Iterator, Mapping, Sequence
import pathlib

import numpy as np

from experiments import steering
from experiments.charts import Section, Table, footer, write_report
from experiments.entity_recognition import figures, repurposed, tables
from experiments.entity_recognition.summary import answer
from experiments.runs import outputs


def write_page(
  out: pathlib.Path,
  results: Mapping,
  arrays: Mapping[str, np.ndarray],
  answers: Sequence[Mapping],
  formats: Sequence[str] = (),
):
  """Writes report.html, and every figure on its own where formats are given.

  Args:
    out: Folder of the run.
    results: The results, as results.json has them.
    arrays: Arrays of the latents.
    answers: A record per question and arm.
    formats: Formats of files in figures/: 'png', 'pdf', 'svg'.

  Raises:
    ImportError: kaleido is not installed, or finds no Chrome.
  """
  first, *more = answer(results)
  sections = [
    *figures.sections(results['latents'], arrays),
    *steering.sections(results['steering'], answers),
    *more_sections(results['steering']),
    footer(results, _given(results)),
  ]
  write_report(
    out / outputs.REPORT_FILE,
    'Which latents know what the model knows?',
    [
      'Does the model know whether it knows an entity, and does it act on it? '
      + first,
      *more,
    ],
    sections,
  )
  if formats:
    export(out / 'figures', sections, formats)


def more_sections(steering: Mapping) -> Iterator[Section]:
  """Yields what chat tuning made of the latents, and detectors' cosines."""
  rows = [
    [
      cell['target'],
      cell['class'],
      kind,
      str(cell[kind]['arms']),
      tables.estimate(cell[kind]['refused']),
      tables.estimate(cell[kind]['p_refusal'])
      if cell[kind]['p_refusal']['value'] is not None
      else '',
    ]
    for cell in steering['repurposed']['steering']
    for kind in ('original', 'steered', 'wrong sign', 'random latent')
    if kind in cell
  ]
  yield Section(
    title='The same latents in the base model',
    text=[
      'Did chat tuning put what was there to a new use? The latents and doses '
      'of the chat model, in the base model, on the same questions in the same '
      'template. Intervals resample entities, and of random latents these too.',
      *repurposed.sentences(steering['repurposed']),
    ],
    tables=[
      Table(
        columns=[
          'target',
          'entities',
          'arm',
          'arms',
          'refused',
          'P(refusal)',
        ],
        rows=rows,
      )
    ],
  )
  if steering['cosines']:
    yield Section(
      title='Detectors and the controller',
      text=[
        'The controller is what the chat model has at the last token of '
        'questions that it declines, less what it has at those that it '
        'answers. A direction that detects unknown entities perfectly, at the '
        'last token of a name, may be nearly orthogonal to it. Both point '
        'towards refusing; intervals resample entities.',
      ],
      tables=[
        Table(
          columns=['detector', 'layer', 'cosine'],
          rows=[
            [
              one['name'],
              str(one['layer']),
              tables.estimate(one['cosine'])
              if one['cosine']['low'] is not None
              else f'{one["cosine"]["value"]:.3f}',
            ]
            for one in steering['cosines']
          ],
        )
      ],
    )


def export(
  folder: pathlib.Path, sections: Sequence[Section], formats: Sequence[str]
):
  """Writes figures as pictures, numbered in the order of the page.

  Raises:
    ImportError: kaleido is not installed, or finds no Chrome.
  """
  import plotly.io

  folder.mkdir(parents=True, exist_ok=True)
  shown = [figure for section in sections for figure in section.figures]
  for number, figure in enumerate(shown, 1):
    for suffix in formats:
      try:
        plotly.io.write_image(figure, folder / f'figure_{number}.{suffix}')
      except (ValueError, RuntimeError) as error:
        raise ImportError(
          f'Figures cannot be written as {suffix}: {error}. They need '
          "`pip install 'knowledge-awareness-jax[figures]'` and Chrome; "
          'report.html is written already and needs neither.'
        ) from error


def _given(results: Mapping) -> Iterator[tuple[str, str]]:
  """Yields what the numbers were computed from, for the footer."""
  for name, one in results['models'].items():
    yield f'{name} model', f'{one["folder"]}, {one["dtype"]}'
  yield 'SAEs', ', '.join(results['saes'])
  for kind, row in results['labels']['types'].items():
    yield f'{kind}: labelled', ', '.join(f'{k} {v}' for k, v in row.items())
  for part, count in results['latents']['entities'].items():
    yield (
      f'{part} entities, known/unknown',
      ', '.join(
        f'{kind} {row["known"]}/{row["unknown"]}' for kind, row in count.items()
      ),
    )
  for name, about in results['harvest'].items():
    dropped = sum(about['dropped'].values())
    yield f'{name}: prompts read', f'{about["read"]:,}, {dropped:,} dropped'
