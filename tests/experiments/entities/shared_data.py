"""Real inputs beside the checkout; where it is alone, tests of them skip."""

import pathlib

import pytest

SHARED = pathlib.Path(__file__).parents[4] / 'shared' / 'data'
needs_shared = pytest.mark.skipif(
  not SHARED.is_dir(), reason=f'There is no {SHARED}.'
)
