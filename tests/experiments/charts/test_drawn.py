"""In a browser: every chart is drawn, with references, panels and clicks."""

import pytest

from experiments.charts import (
  Bar,
  Dot,
  Line,
  Section,
  bars,
  dots,
  histogram,
  lines,
  write_report,
)
from tests.experiments.charts.test_page import is_quiet, open_page

REFERENCE = {'chance': 0.5, 'random': (0.4, 0.6)}


def by_panel(row):
  rows = [
    row('a', 0.5, 0.4, 0.7, group='known', details='why'),
    row('b', None, group='unknown'),
  ]
  return {'one': rows, 'two': rows}


def some_lines():
  line = Line('a', ['x', 'y', 'z'], [1, None, 3], low=[0, 0, 2], high=[2, 2, 4])
  return {'one': [line], 'two': [Line('b', ['x', 'y'], [1, 2], dash=True)]}


FIGURES = {
  'dots': lambda: dots(by_panel(Dot), x_title='x', reference=REFERENCE),
  'bars': lambda: bars(by_panel(Bar), value_title='x', reference=REFERENCE),
  'bars that lie': lambda: bars(
    by_panel(Bar), value_title='x', reference=REFERENCE, horizontal=True
  ),
  'lines': lambda: lines(
    some_lines(),
    x_title='x',
    y_title='y',
    reference=REFERENCE,
    x_reference=REFERENCE,
    title='Title',
  ),
  'lines on logarithms': lambda: lines(
    [Line('a', [1, 10], [1, 10], low=[0.5, 5], high=[2, 20])],
    x_title='x',
    y_title='y',
    x_log=True,
    y_log=True,
    reference=REFERENCE,
  ),
  'histogram': lambda: histogram(
    {'a': [0, 1, 1], 'b': [2, 3]}, x_title='x', markers={'a': 5, 'paper': 1}
  ),
}


@pytest.mark.parametrize('name', FIGURES)
def test_it_is_drawn(browser, tmp_path, name):
  figure = FIGURES[name]()
  path = tmp_path / 'page.html'
  write_report(path, name, [], [Section(title=name, figures=[figure])])
  open_page(browser, path)
  shapes = 'document.querySelectorAll(".shapelayer path").length'
  browser.until(f'{shapes} === {len(figure.layout.shapes)}')
  text = browser.run('document.querySelector(".plot").textContent')
  shown = [
    each.name
    for each in (*figure.data, *figure.layout.shapes)
    if each.showlegend
  ]
  assert shown and all(each in text for each in shown)
  assert is_quiet(browser)
