"""Finds markup: in a figure, which plotly would read as HTML, and in pages."""

from collections.abc import Iterator, Mapping
import html.parser
import re

import plotly.graph_objects as go

HOSTILE = '</script><script>alert(1)</script><b>&"\''
# Never shown, or shown by the page as text.
_NOT_SHOWN = ('customdata', 'legendgroup', 'meta')
_OURS = re.compile('<br>|<i>click for more</i>$')


def markup(figure: go.Figure) -> list[str]:
  """Returns the texts of a figure with tags that are not the charts' own."""
  texts = (_OURS.sub('', text) for text in _texts(figure.to_plotly_json()))
  return [text for text in texts if '<' in text]


def _texts(part) -> Iterator[str]:
  if isinstance(part, str):
    yield part
  elif isinstance(part, Mapping):
    for name, each in part.items():
      if name not in _NOT_SHOWN:
        yield from _texts(each)
  elif isinstance(part, list | tuple):
    for each in part:
      yield from _texts(each)


class Parser(html.parser.HTMLParser):
  """Collects the tags, scripts and text of a page."""

  def __init__(self):
    super().__init__()
    self.tags, self.scripts, self.text, self._in = [], [], [], None

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    self._in = tag
    if tag == 'script':
      self.scripts.append('')

  def handle_endtag(self, tag):
    self._in = None

  def handle_data(self, data):
    if self._in == 'script':
      self.scripts[-1] += data
    else:
      self.text.append(data)
