"""Writes a report as one HTML file.

plotly.js is inlined once. The page asks for nothing from anywhere and opens
from a disk. jinja2 escapes its text, and `style.text` that of figures; the
page's policy has browsers run its own scripts only, whatever is in it. Figures
are drawn when they come into view.

Sections and figures have addresses made from their titles, such as
report.html#dose-and-response; `read_contents` returns them, and what the page
says on top.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import hashlib
import html
import os
import pathlib
import re

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from experiments.charts.table import Table
from experiments.runs.outputs import write_text
from gemma_jax import json_files

_MANY = 4  # sections from which on a page lists them
_LONGEST_ID = 60
_CONTENTS = re.compile(
  r'<script type="application/json" id="contents">(.*?)</script>', re.DOTALL
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
  """Holds a part of a page, under a title.

  Attributes:
    title: Title of the section.
    text: Paragraphs.
    figures: Figures, shown after the text.
    tables: Tables, shown after the figures.
    code: Text that is shown last, as typed.
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
    path: Where to write it.
    title: Title of the page.
    summary: Paragraphs at its top.
    sections: Sections in order.
  """
  taken = {'contents'}
  parts = [_part(section, taken) for section in sections]
  contents = {
    'title': title,
    'summary': list(summary),
    'sections': [
      {
        'id': part['id'],
        'title': part['title'],
        'figures': [figure['id'] for figure in part['figures']],
      }
      for part in parts
    ],
  }
  write_page(
    path,
    'page.html.j2',
    scripts={'plotlyjs': get_plotlyjs()},
    contents=contents,
    sections=parts,
    many=_MANY,
  )


def read_contents(path: str | os.PathLike) -> dict:
  """Returns what a page says on top, and where its sections are.

  Returns:
    {'title', 'summary': [paragraphs], 'sections': [{'id', 'title', 'figures':
    [ids]}]}.

  Raises:
    OSError: there is no such file.
    ValueError: it is not a page, or one of an older version.
  """
  page = pathlib.Path(path).read_text(encoding='utf-8')
  found = _CONTENTS.search(page)
  if found is None:
    raise ValueError(
      f'{path} does not say what is in it: it is cut off, no report, or one '
      'of an older version, which a run with its flags.txt would write anew.'
    )
  contents = json_files.parse_json(found[1], f'{path}, its contents,')
  texts, sections = contents.get('summary'), contents.get('sections')
  if not (
    isinstance(contents.get('title'), str)
    and isinstance(texts, list)
    and all(isinstance(text, str) for text in texts)
    and isinstance(sections, list)
    and all(_is_section(section) for section in sections)
  ):
    raise ValueError(
      f'{path} does not say what is in it as a report does. A run with its '
      'flags.txt would write it anew.'
    )
  return contents


def write_page(
  path: str | os.PathLike, template: str, scripts: Mapping[str, str], **given
):
  """Writes a template of this folder as a page that may ask for nothing.

  Args:
    path: Where to write it.
    template: Name of the template's file.
    scripts: What the page runs besides page.js.j2, by the template's names.
    **given: What else the template shows.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('experiments.charts', '.'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  scripts = {
    'script': environment.get_template('page.js.j2').render(),
    **scripts,
  }
  page = environment.get_template(template).render(
    policy=_policy(scripts.values()),
    **scripts,
    **given,
  )
  # Half of a surrogate pair, which JSON may hold and UTF-8 not, is spelled out.
  write_text(path, page.encode('utf-8', 'backslashreplace').decode('utf-8'))


def _is_section(found) -> bool:
  return isinstance(found, Mapping) and all(
    isinstance(found.get(name), str) for name in ('id', 'title')
  )


def _part(section: Section, taken: set[str]) -> dict:
  """Returns a section as the template shows it."""
  id = _unique(_words(section.title) or 'section', taken)
  return {
    'id': id,
    'title': section.title,
    'text': section.text,
    'figures': [
      _figure(figure, f'{id}-figure-{number}', id, taken)
      for number, figure in enumerate(section.figures, 1)
    ],
    'tables': section.tables,
    'code': section.code,
  }


def _figure(figure: go.Figure, numbered: str, section: str, taken) -> dict:
  title = _words(html.unescape(figure.layout.title.text or ''))
  return {
    'id': _unique(f'{section}-{title}' if title else numbered, taken),
    'height': figure.layout.height or 420,
    'json': figure.to_json(engine='json'),  # which has no '<'
  }


def _words(title: str) -> str:
  """Returns a title as a part of an address."""
  words = re.sub(r'\W+', '-', title.lower()).strip('-')
  return words[:_LONGEST_ID].strip('-')


def _unique(id: str, taken: set[str]) -> str:
  """Returns the id, numbered if the page has it already."""
  unique, number = id, 1
  while unique in taken:
    number += 1
    unique = f'{id}-{number}'
  taken.add(unique)
  return unique


def _policy(scripts: Iterable[str]) -> str:
  """Returns the policy: only these scripts run, and nothing is asked for.

  plotly.js makes styles, and pictures for downloads. Traces for WebGL, which
  it compiles functions for, are not drawn.
  """
  hashes = ' '.join(
    f"'sha256-{base64.b64encode(digest).decode()}'"
    for digest in (hashlib.sha256(s.encode()).digest() for s in scripts)
  )
  return (
    f"default-src 'none'; script-src {hashes}; "
    "style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"  # which default-src leaves open
  )
