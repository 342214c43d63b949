"""A page as large as a report of 26 layers and 400 prompts opens quickly."""

import random

import numpy as np
import plotly.graph_objects as go
import pytest

from experiments.charts import Section, Table, heatmap, write_report
from tests.experiments.charts.test_page import cell, cells, is_quiet, open_page

LAYERS, TOKENS, PROMPTS = 26, 12, 400


@pytest.fixture(scope='module')
def large(tmp_path_factory):
  numbers = np.random.default_rng(0)
  words = random.Random(0)
  effects = numbers.normal(size=(PROMPTS, LAYERS, TOKENS)).round(3)
  prompts = [
    f'The player {"".join(words.sample("abcdefghijklmnop", 8)).title()} plays'
    for _ in range(PROMPTS)
  ]
  labels = {
    'x': [f'token {i}' for i in range(TOKENS)],
    'y': [f'resid_post.{i}' for i in range(LAYERS)],
    'x_title': 'token',
    'y_title': 'site and layer',
    'colour_title': 'share of the effect',
  }
  said = cells(LAYERS, TOKENS, lambda i, j: f'[{i}, {j}], n = {PROMPTS}')
  details = cells(
    LAYERS,
    TOKENS,
    lambda i, j: '\n'.join(
      f'{effects[p, i, j]:+.3f}  {prompts[p]}' for p in range(PROMPTS)
    ),
  )
  sites = ('resid_pre', 'attn_out', 'mlp_out')
  mean = effects.mean(0)
  patching = heatmap(
    {site: mean for site in sites},
    hover={site: said for site in sites},
    significant={site: np.abs(mean) > 0.08 for site in sites},
    **labels,
  )
  detailed = heatmap(mean, hover=said, details=details, **labels)
  scatter = go.Figure(
    [
      go.Scatter(
        x=numbers.random(3000),
        y=numbers.random(3000),
        mode='markers',
        hovertext=[f'resid_post.{i % LAYERS}/{i}' for i in range(3000)],
      )
      for _ in range(4)
    ]
  )
  curves = go.Figure(
    [
      go.Scatter(x=np.arange(LAYERS), y=numbers.random(LAYERS), name=str(i))
      for i in range(12)
    ]
  )
  answers = Table(
    columns=['effect', 'prompt', 'original', 'steered'],
    rows=[
      [f'{effects[p, 0, 0]}', prompt, 'It is ' + 'so ' * 25, 'I do not know.']
      for p, prompt in enumerate(prompts)
    ],
  )
  sections = [
    Section(title='Detailed', figures=[detailed], tables=[answers]),
    Section(title='Patching', figures=[patching] * 3),
    Section(title='Latents', figures=[scatter] * 2),
    Section(title='Layers', figures=[curves] * 6, tables=[answers]),
    Section(title='Knockouts', figures=[detailed, patching]),
  ]
  path = tmp_path_factory.mktemp('large') / 'report.html'
  write_report(path, 'Large', ['It is large.'], sections)
  return path


def test_a_large_page_opens_within_3_seconds(browser, large):
  """Until the first figure, with the details of 400 prompts, is drawn."""
  assert large.stat().st_size > 15e6
  seconds = []
  for _ in range(3):  # others may use the machine
    open_page(browser, large)
    seconds.append(browser.run('performance.now()') / 1000)
  print(f'{large.stat().st_size / 1e6:.0f} MB, opened in {seconds} s')
  assert min(seconds) < 3
  browser.click(*cell(browser, 0, 3, 4, LAYERS, TOKENS))
  browser.until('document.querySelector(".details")')
  details = browser.run('document.querySelector(".details pre").textContent')
  assert details.startswith('resid_post.3, token 4\nshare of the effect: ')
  assert len(details.splitlines()) == 3 + PROMPTS
  assert is_quiet(browser)
