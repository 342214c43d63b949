"""Prompts to tokens, through the model, to activations or sums of them.

  rows = make_rows(tokenizer, prompts, tokens='entity')
  sums = stream_scores(model, saes, rows, rows.groups(groups), num_groups)

`harvest_rows.py` and `token_selection.py` say which token of which prompt is
read, `streaming.py` what is summed there, and `gathering.py` has activations in
memory.
"""

from experiments.activations.gathering import (
  gather,
  latent_activations,
  latents_at_positions,
)
from experiments.activations.harvest_rows import (
  Dropped,
  HarvestRows,
  join,
  make_rows,
)
from experiments.activations.streaming import ACTIVE, GroupSums, stream_scores
from experiments.activations.sums_io import read_sums, write_sums
from experiments.activations.token_selection import CHOICES, DENOMINATORS, draw
