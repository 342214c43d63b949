"""A report as one HTML file.

plotly.js is inlined, once; the page asks for nothing from anywhere, and opens
from a disk. Text is escaped by jinja2, and in figures by `figures.text`.
"""

from collections.abc import Sequence
import dataclasses
import os

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from experiments.outputs import write_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """A table of text.

  Attributes:
    columns: Titles.
    rows: As many strings each. Those that look like numbers are set right.
  """

  columns: Sequence[str]
  rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
  """A part of a page, under a title.

  Attributes:
    title: Of the section.
    text: Paragraphs.
    figures: Shown after the text.
    tables: Shown after the figures.
    code: Shown last, as typed.
  """

  title: str
  text: Sequence[str] = ()
  figures: Sequence[go.Figure] = ()
  tables: Sequence[Table] = ()
  code: str = ''


def write_report(
  path: str | os.PathLike,
  title: str,
  summary: Sequence[str],
  sections: Sequence[Section],
):
  """Writes the page.

  Args:
    path: Of the file.
    title: Of the page.
    summary: Paragraphs at its top.
    sections: In order.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('experiments.report', '.'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  write_text(
    path,
    environment.get_template('page.html.j2').render(
      title=title,
      summary=summary,
      sections=[
        {
          'title': section.title,
          'text': section.text,
          'figures': [
            _figure(figure, f'figure-{i}-{j}')
            for j, figure in enumerate(section.figures)
          ],
          'tables': section.tables,
          'code': section.code,
        }
        for i, section in enumerate(sections)
      ],
      plotlyjs=get_plotlyjs(),
    ),
  )


def _figure(figure: go.Figure, name: str) -> str:
  """A <div> and the script that fills it; its JSON has no '<'."""
  return figure.to_html(
    full_html=False,
    include_plotlyjs=False,
    div_id=name,
    default_height=f'{figure.layout.height or 420}px',
    config={'displaylogo': False, 'responsive': True},
  )
