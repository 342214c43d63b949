"""Harvesting: prompts to tokens, through the model, to numbers or a store.

  rows = make_rows(tokenizer, prompts, tokens='entity')
  sums = stream_scores(model, saes, rows, rows.groups(groups), num_groups)

`rows.py` and `choices.py` say which token of which prompt is read, and
`streaming.py` what is summed there; `gathering.py` has activations in memory
and `store.py` on disk.
"""

from experiments.harvesting.choices import CHOICES, DENOMINATORS, draw
from experiments.harvesting.gathering import (
  gather,
  latent_activations,
  latents_at_positions,
)
from experiments.harvesting.kept_sums import read_sums, write_sums
from experiments.harvesting.prompt_files import FilePrompt, read_prompt_file
from experiments.harvesting.rows import Dropped, HarvestRows, join, make_rows
from experiments.harvesting.store import (
  DTYPES,
  Store,
  open_store,
  rows_done,
  write_store,
)
from experiments.harvesting.streaming import ACTIVE, GroupSums, stream_scores
