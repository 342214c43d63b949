"""Figures of single studies, drawn with `experiments.charts`.

sae_figures         frontiers, training curves, frequencies of latents
"""

from experiments.report.sae_figures import (
  frequency_histograms,
  frontier,
  training_curves,
)
