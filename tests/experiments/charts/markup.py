"""Finds markup in a figure, which plotly would read as HTML."""

from collections.abc import Iterator, Mapping
import re

import plotly.graph_objects as go

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
