"""Models without a direction, as checkpoints, and what they still write."""

from experiments.weight_ablation.arms import (
  among_random,
  choose_direction,
  make_arms,
)
from experiments.weight_ablation.checkpoint import save_untied, untie
from experiments.weight_ablation.directions import read_direction
from experiments.weight_ablation.text import compare_on_text
from experiments.weight_ablation.written import SITES, largest_cosines
