"""The browser of these tests."""

import pytest

from tests.experiments.charts.browser import Browser


@pytest.fixture(scope='session')
def browser(tmp_path_factory):
  """A headless Chromium; tests skip where there is none."""
  running = Browser(tmp_path_factory.mktemp('chromium'))
  yield running
  running.close()
