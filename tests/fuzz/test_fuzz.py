"""No damage to a file makes a loader give wrong values, crash or hang.

`make test` runs the same few cases each time. `make test-all` goes on for
FUZZ_SECONDS per loader (60), from the seed FUZZ_SEED (0).
"""

import os

import pytest

from tests.fuzz.driver import fuzz
from tests.fuzz.targets import TARGETS

SECONDS = float(os.environ.get('FUZZ_SECONDS', '60'))
SEED = int(os.environ.get('FUZZ_SEED', '0'))


def check(target, folder, **options):
  if target.name == 'gguf':
    pytest.importorskip('gguf')
  failures = fuzz(target, folder, **options)
  assert not failures, '\n'.join([f'{len(failures)} failures', *failures[:30]])


@pytest.mark.parametrize('target', TARGETS, ids=lambda target: target.name)
def test_the_same_cases(target, tmp_path):
  check(target, tmp_path / 'files')


@pytest.mark.slow
@pytest.mark.parametrize('target', TARGETS, ids=lambda target: target.name)
def test_as_many_as_there_is_time_for(target, tmp_path):
  check(target, tmp_path / 'files', seconds=SECONDS, first_seed=SEED)
