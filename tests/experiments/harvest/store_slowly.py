"""A store to be killed: `python -m tests.experiments.harvest.store_slowly
FOLDER BYTES`.

Prints how many rows are written. From row 24 on no file may be larger than
BYTES; when that has failed, the limit is lifted and the store goes on.
"""

import resource
import sys
import time

from experiments.harvest import store_writing, write_store
import tests.conftest  # noqa: F401, the settings of all tests
from tests.experiments import worlds
from tests.experiments.activations import small

OPTIONS = {
  'sites': ['resid_post', 'z'],
  'layers': [3, 1],
  'provenance': {'model': 'tiny', 'saes': ['a', 'b']},
  'dtype': 'bfloat16',
  'batch_size': 8,
  'chunk_rows': 8,
  'buckets': (32,),
}


def main(folder, limit):
  finish = store_writing._finish
  unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

  def finish_slowly(folder, stop, writing):
    finish(folder, stop, writing)
    print(f'rows {stop}', flush=True)
    if stop == 24:
      soft = int(limit), unlimited[1]
      resource.setrlimit(resource.RLIMIT_FSIZE, soft)
    time.sleep(0.2)  # so that a kill falls inside

  store_writing._finish = finish_slowly
  try:
    write_store(folder, worlds.model(), small.rows(), **OPTIONS)
  except OSError as error:
    print(f'error {error}', flush=True)
  resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
  write_store(folder, worlds.model(), small.rows(), **OPTIONS)


if __name__ == '__main__':
  main(*sys.argv[1:])
