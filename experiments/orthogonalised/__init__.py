"""Models without a direction, as checkpoints, and what they still write."""

from experiments.orthogonalised.arms import (
  among_random,
  choose_direction,
  make_arms,
)
from experiments.orthogonalised.checkpoint import save_untied, untie
from experiments.orthogonalised.directions import read_direction
from experiments.orthogonalised.text import compare_on_text
from experiments.orthogonalised.written import SITES, largest_cosines
