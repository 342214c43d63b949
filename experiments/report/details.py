"""What a page shows below a figure when one of its points is clicked."""

from collections.abc import Sequence

# Read by the page's script.
_META = {'details': True}


def on_click(texts: Sequence) -> dict:
  """Arguments of a trace, such as go.Scatter, with texts for a click.

  Args:
    texts: Of the points, shaped as they are: a list, or rows of a heatmap. It
      is shown as it is, with its line breaks; where it is '', nothing is.
  """
  return {'customdata': texts, 'meta': _META}
