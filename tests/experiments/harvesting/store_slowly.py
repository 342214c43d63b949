"""A store to be killed: `python -m tests.experiments.harvesting.store_slowly
FOLDER [BYTES]`.

Prints how many rows are written. BYTES is the largest file it may write.
"""

import resource
import sys
import time

from experiments.harvesting import store, write_store
import tests.conftest  # noqa: F401, the settings of all tests
from tests.experiments import worlds
from tests.experiments.harvesting import small

OPTIONS = {
  'sites': ['resid_post', 'z'],
  'layers': [3, 1],
  'provenance': {'model': 'tiny', 'saes': ['a', 'b']},
  'dtype': 'bfloat16',
  'batch_size': 8,
  'chunk_rows': 8,
}


def main(folder, limit=None):
  finish = store._finish

  def finish_slowly(folder, stop, writing):
    if limit is not None and stop == 24:
      resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    finish(folder, stop, writing)
    print(f'rows {stop}', flush=True)
    time.sleep(0.2)  # so that a kill falls inside

  store._finish = finish_slowly
  try:
    write_store(folder, worlds.model(), small.rows(), **OPTIONS)
  except OSError as error:
    print(f'error {error}', flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
