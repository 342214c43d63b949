"""A store of activations on disk, and what fills it.

  store = open_store('out/harvest')

`store.py` has its format, `prompt_files.py` reads prompts of one's own.
"""

from experiments.harvest.prompt_files import FilePrompt, read_prompt_file
from experiments.harvest.store import DTYPES, Store, open_store, rows_done
from experiments.harvest.store_writing import write_store
