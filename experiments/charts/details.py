"""What a point says: under the mouse, and below the figure after a click."""

from collections.abc import Sequence
import textwrap

from experiments.charts import style

_LONGEST_LINE = 80  # of a hover text
_MOST_LINES = 12
# Read by the page's script.
_META = {'details': True}


def hover_text(*said: str, clickable: bool = False) -> str:
  """Returns a hover text for plotly: escaped, in few and short lines.

  Args:
    *said: Text with any line breaks; what is empty is left out.
    clickable: True if a click shows more.
  """
  lines = []
  for each in said:
    for line in each.splitlines():
      lines += textwrap.wrap(line, _LONGEST_LINE)
  if len(lines) > _MOST_LINES:
    lines = [*lines[: _MOST_LINES - 1], '…']
  shown = '<br>'.join(map(style.text, lines))
  return f'{shown}<br><i>click for more</i>' if clickable else shown


def on_click(texts: Sequence) -> dict:
  """Returns arguments of a trace, such as go.Scatter, with texts for a click.

  Args:
    texts: Texts of the points, shaped as they are: a list, or the rows of a
      heat map. A text is shown as it is, with its line breaks; nothing is shown
      where it is ''.
  """
  return {'customdata': texts, 'meta': _META}
