"""Real inputs: samples in tests/data, and the whole files where they are."""

import pathlib

import pytest

SAMPLES = pathlib.Path(__file__).parent / 'data'
WHOLE = pathlib.Path(__file__).parents[2] / 'shared' / 'data'
_FOLDERS = {'samples': SAMPLES} | ({'whole': WHOLE} if WHOLE.is_dir() else {})
of_each = pytest.mark.parametrize('data', _FOLDERS.values(), ids=_FOLDERS)
