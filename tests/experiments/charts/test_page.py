"""In a browser: the page opens from a disk, and does what it should."""

import html
import re

import numpy as np
import plotly.graph_objects as go
import pytest

from experiments.charts import (
  Section,
  Table,
  heatmap,
  read_contents,
  style,
  write_report,
)

# Ends scripts, breaks lines of scripts, is markup, a link and a template.
HOSTILE = (
  '</script><script>window.hacked = 1</script>'
  '<img src=x onerror="window.hacked = 1">\'"&amp;<b>\u2028\u2029'
  '<a href="javascript:window.hacked = 1">here</a> %{z} {{ 1 }} \x00\ud800'
)
# What browsers show of it: they leave out the character 0.
SHOWN = HOSTILE.replace('\ud800', '\\ud800').replace('\x00', '')


def cells(rows, columns, format):
  return [[format(i, j) for j in range(columns)] for i in range(rows)]


def hostile_heatmap():
  return heatmap(
    np.eye(3),
    x=[HOSTILE, 'b', 'c'],
    y=['p', 'q', HOSTILE],
    x_title=HOSTILE,
    y_title='layer',
    colour_title='effect',
    hover=cells(3, 3, lambda i, j: HOSTILE),
    details=cells(3, 3, lambda i, j: HOSTILE if i == j else ''),
  )


def named_figure(title):
  line = go.Scatter(
    x=[1, 2],
    y=[3, 4],
    name=style.text(HOSTILE),
    hovertext=[style.text(HOSTILE)] * 2,
    hoverinfo='text',
  )
  figure = style.styled(go.Figure(line), x='x', y='y')
  return figure.update_layout(title_text=style.text(title))


@pytest.fixture(scope='module')
def hostile(tmp_path_factory):
  path = tmp_path_factory.mktemp('a b#c%20') / 'report.html'
  sections = [
    Section(
      title=HOSTILE,
      text=[HOSTILE],
      figures=[hostile_heatmap(), named_figure(HOSTILE)],
      tables=[Table(columns=[HOSTILE, 'b'], rows=[[HOSTILE, HOSTILE * 50]])],
      code=HOSTILE,
    )
  ]
  write_report(path, HOSTILE, [HOSTILE], sections)
  return path


ROWS = [
  [f'resid_post.{i}/{7 * i}', value, f'{name} x']
  for i, (value, name) in enumerate(
    [
      ('97.0 % [90, 99], n = 40', 'b'),
      ('not known', 'a'),
      ('-3', 'c'),
      ('1,234 of 2,000', 'd'),
      ('0.5', 'e'),
      ('', 'f'),
      ('+12 [1, 30]', 'g'),
      ('\u22127.25', 'h'),
      ('1e-3', 'i'),
      ('4', 'needle in a haystack'),
      ('4.0', 'k'),
    ]
  )
]
NUMBERS = [97, None, -3, 1234, 0.5, None, 12, -7.25, 1e-3, 4, 4.0]


@pytest.fixture(scope='module')
def long(tmp_path_factory):
  """Many sections, of which the last are far below."""
  path = tmp_path_factory.mktemp('long') / 'report.html'
  sections = [
    Section(title='Dose & response', figures=[named_figure('KL, by dose')] * 2),
    Section(title='Répétition', figures=[hostile_heatmap()] * 3),
    Section(
      title='Table',
      tables=[
        Table(columns=['latent', 'rate', 'name'], rows=ROWS),
        Table(columns=['', ''], rows=[['seed', '0']] * 20),
      ],
    ),
    *(Section(title='Contents', figures=[named_figure('')]) for _ in range(8)),
  ]
  write_report(path, 'Long', ['One.', 'Two.'], sections)
  return path


def open_page(browser, path, hash=''):
  browser.open(path, hash)
  browser.until('document.querySelector(".plot .main-svg")')


def is_quiet(browser):
  """No error, no message, and nothing asked for but the page itself."""
  asked = [url for url in browser.requests() if not url.startswith('data:')]
  return not browser.troubles() and len(asked) == 1


def cell(browser, figure, row, column, rows=3, columns=3):
  """Where a cell of a heatmap is in the window."""
  return browser.run(
    f"""(() => {{
      const plot = document.querySelectorAll('figure')[{figure}];
      plot.scrollIntoView();
      const box = plot.querySelector('.nsewdrag').getBoundingClientRect();
      return [box.left + ({column} + .5) / {columns} * box.width,
              box.bottom - ({row} + .5) / {rows} * box.height];
    }})()"""
  )


def test_hostile_text_is_shown_and_not_run(browser, hostile):
  open_page(browser, hostile)
  figure = '[...document.querySelectorAll("figure")]'
  browser.until(f'{figure}.every((f) => f.querySelector(".main-svg"))')
  page = browser.run('document.body.innerText')
  shown = SHOWN.split('\u2028')[0]
  # Of titles, summaries, paragraphs, tables, code.
  assert page.count(shown) > 50 + 6
  for query in ('h1', 'h2', 'p', 'td', 'body > section > pre'):
    text = browser.run(f'document.querySelector({query!r}).textContent')
    assert text.startswith(SHOWN), query
  assert browser.run('document.title').startswith(shown)
  # In figures: titles of axes, labels of ticks, and the legend.
  drawn = browser.run(
    '[...document.querySelectorAll("figure text")].map((t) => t.textContent)'
  )
  assert sum(shown in text for text in drawn) >= 2
  assert any(text.startswith(shown[:20]) for text in drawn)
  assert browser.run('typeof window.hacked') == 'undefined'
  assert browser.run('document.images.length') == 0
  links = 'document.querySelectorAll("a:not([href^=\'#\'])").length'
  assert browser.run(links) == 0
  assert is_quiet(browser)


def test_hover_shows_numbers_and_a_click_details(browser, hostile):
  open_page(browser, hostile)
  at = cell(browser, 0, 1, 1)
  browser.move(at[0] - 5, at[1])
  browser.move(*at)
  browser.until('document.querySelector(".hovertext text")')
  said = browser.run('document.querySelector(".hovertext").textContent')
  assert said.startswith('q, beffect: 1</script><script>window.hacked')
  assert 'onerror' in said and 'click for more' in said
  browser.click(*at)
  browser.until('document.querySelector(".details")')
  panel = 'document.querySelector(".details pre")'
  details = browser.run(f'{panel}.textContent')
  # JavaScript keeps halves of surrogate pairs and 0, as JSON does.
  assert details.startswith('q, b\neffect: 1\n\n' + HOSTILE[:150])
  assert browser.run(f'{panel}.childElementCount') == 0
  assert browser.run('typeof window.hacked') == 'undefined'
  # Another cell, one without details, and the button.
  browser.click(*cell(browser, 0, 2, 2))
  browser.until(f'{panel}.textContent.startsWith("</script>")')
  browser.click(*cell(browser, 0, 0, 1))
  browser.until(f'!{panel}')
  browser.click(*cell(browser, 0, 0, 0))
  browser.until(panel)
  browser.run('document.querySelector(".details button").click()')
  assert browser.run(f'{panel} === null')
  assert is_quiet(browser)


def test_the_policy_stops_what_the_template_would_let_through(
  browser, hostile, tmp_path
):
  page = hostile.read_text(encoding='utf-8')
  assert 'unsafe-eval' not in page.split('<title>')[0]
  inserted = (
    '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">'
    '<iframe src="https://example.com"></iframe>'
  )
  (tmp_path / 'page.html').write_text(
    page.replace('<body>', f'<body>{inserted}'), encoding='utf-8'
  )
  open_page(browser, tmp_path / 'page.html')
  assert browser.run('typeof window.hacked') == 'undefined'
  assert not any('example.com' in url for url in browser.requests())
  assert len(browser.troubles()) >= 3  # so that troubles are seen, too


def test_the_policy_covers_what_default_src_leaves_open(hostile):
  head = hostile.read_text(encoding='utf-8').split('<title>')[0]
  policy = html.unescape(re.search(r'Policy" content="([^"]*)"', head)[1])
  rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(';')}
  for rule in ('default-src', 'base-uri', 'form-action'):
    assert rules[rule] == ["'none'"]
  assert rules['img-src'] == ['data:', 'blob:']
  assert all(source.startswith("'sha256-") for source in rules['script-src'])


def test_no_button_sends_figures_away(browser, hostile):
  open_page(browser, hostile)
  buttons = browser.run(
    '[...document.querySelectorAll(".modebar-btn")].map((b) => b.dataset.title)'
  )
  assert 'Download plot as a PNG' in buttons
  assert not any(
    word in title.lower()
    for title in buttons
    for word in ('cloud', 'share', 'plotly', 'edit')
  )


IDS = ['dose-response', 'répétition', 'table', 'contents-2', 'contents-3']
FIGURES = ['dose-response-kl-by-dose', 'dose-response-kl-by-dose-2']


def test_contents(long):
  contents = read_contents(long)
  assert contents['title'] == 'Long'
  assert contents['summary'] == ['One.', 'Two.']
  sections = contents['sections']
  assert [section['id'] for section in sections[:5]] == IDS
  assert sections[0]['figures'] == FIGURES
  assert sections[1]['figures'][2] == 'répétition-figure-3'
  assert sections[0]['title'] == 'Dose & response'
  ids = [section['id'] for section in sections]
  ids += [figure for section in sections for figure in section['figures']]
  assert len(ids) == len(set(ids))


def test_contents_of_no_page(tmp_path):
  (tmp_path / 'page.html').write_text('<!DOCTYPE html><p>no')
  with pytest.raises(ValueError, match='page.html does not say what is in it'):
    read_contents(tmp_path / 'page.html')
  with pytest.raises(OSError, match='other.html'):
    read_contents(tmp_path / 'other.html')


@pytest.mark.parametrize('id', [*IDS, FIGURES[1], 'répétition-figure-3'])
def test_addresses(browser, long, id):
  """At once, after all that is near is drawn, and by clicks."""
  open_page(browser, long, f'#{id}')
  top = f'document.getElementById({id!r}).getBoundingClientRect().top'
  near = """[...document.querySelectorAll('figure')].every((figure) => {
    const {top, bottom} = figure.getBoundingClientRect();
    return top > innerHeight || bottom < 0 || figure.querySelector('.main-svg');
  })"""
  browser.until(near)
  assert 0 <= browser.run(top) < 40
  browser.run('scrollTo(0, 0)')
  links = f'[...document.links].filter((a) => decodeURI(a.hash) === "#{id}")'
  assert browser.run(f'{links}.length') == (2 if id in IDS else 1)
  browser.run('location.hash = ""')
  browser.run(f'{links}[0].click()')
  browser.until(f'Math.abs({top} - 20) < 20')
  assert browser.run('decodeURI(location.hash)') == f'#{id}'
  assert is_quiet(browser)


def test_figures_are_drawn_when_they_are_near(browser, long):
  open_page(browser, long)
  count = 'document.querySelectorAll(".main-svg").length > 0 && '
  count += '[...document.querySelectorAll("figure")].filter((f) => '
  count += 'f.querySelector(".main-svg")).length'
  total = browser.run('document.querySelectorAll("figure").length')
  assert 1 <= browser.run(count) < total
  browser.run('scrollTo(0, document.body.scrollHeight)')
  browser.until(
    '[...document.querySelectorAll("figure")].at(-1).innerHTML'
    '.includes("main-svg")'
  )
  assert browser.run(count) < total
  browser.run('dispatchEvent(new Event("beforeprint"))')
  assert browser.run(count) == total
  assert is_quiet(browser)


def order(browser, column=0):
  return browser.run(
    '[...document.querySelectorAll("table")[0].tBodies[0].rows]'
    f'.filter((row) => !row.hidden).map((r) => r.cells[{column}].textContent)'
  )


def test_tables_are_sorted(browser, long):
  open_page(browser, long)
  head = 'document.querySelectorAll("table")[0].tHead.rows[0].cells'
  click = lambda column: browser.run(
    f'{head}[{column}].querySelector("button").click()'
  )
  latents = [row[0] for row in ROWS]
  rank = lambda sign: [
    latents[i]
    for i in sorted(
      range(len(ROWS)),
      key=lambda i: (
        NUMBERS[i] is None,
        0 if NUMBERS[i] is None else sign * NUMBERS[i],
      ),
    )
  ]
  for expected in (rank(1), rank(-1), latents):
    click(1)
    assert order(browser) == expected
  # Layers in their order, not by letters.
  shuffled = rank(1)
  assert shuffled != latents
  click(1)
  click(0)
  assert order(browser) == latents
  assert browser.run(f'{head}[1].hasAttribute("aria-sort")') is False
  assert browser.run(f'{head}[0].getAttribute("aria-sort")') == 'ascending'
  right = f'getComputedStyle({head}[%d]).textAlign'
  assert browser.run(right % 1) == 'right'
  assert browser.run(right % 0) == browser.run(right % 2) == 'left'
  # A table of names and values has nothing to sort or search by.
  assert browser.run('document.querySelectorAll("input").length') == 1
  assert is_quiet(browser)


def test_tables_are_searched(browser, long):
  open_page(browser, long)
  browser.run('document.querySelector("input").focus()')
  browser.type('Hay NEEDLE')
  assert order(browser, 2) == ['needle in a haystack x']
  assert (
    browser.run('document.querySelector(".found").textContent') == '1 of 11'
  )
  browser.run('document.querySelector("input").select()')
  browser.type('nothing like it')
  assert order(browser) == []
  browser.run('document.querySelector("input").select()')
  browser.call(
    'Input.dispatchKeyEvent',
    type='keyDown',
    key='Delete',
    windowsVirtualKeyCode=46,
  )
  assert len(order(browser)) == len(ROWS)


@pytest.mark.parametrize(('scheme', 'dark'), [('light', False), ('dark', True)])
def test_dark_and_light(browser, long, scheme, dark):
  feature = {'name': 'prefers-color-scheme', 'value': scheme}
  browser.call('Emulation.setEmulatedMedia', features=[feature])
  open_page(browser, long)
  paper, ink = (
    sum(
      map(
        int,
        browser.run(f'getComputedStyle(document.body).{of}')[4:-1].split(','),
      )
    )
    for of in ('backgroundColor', 'color')
  )
  assert (paper < ink) == dark
  browser.call('Emulation.setEmulatedMedia', features=[])
  assert is_quiet(browser)
