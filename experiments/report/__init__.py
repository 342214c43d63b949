"""Reports: one HTML file that needs no network, with figures to hover over.

page.write_report   sections of text, tables and figures, as a page
index               one page over several runs
figures             one look for all figures; colours by name
heatmaps.heatmap    effects in colour; hover for numbers, click for details
details             what a click on any other figure shows
sae_figures         frontiers, training curves, frequencies of latents
"""

from experiments.report.figures import colours, styled
from experiments.report.page import Section, Table, write_report
from experiments.report.sae_figures import (
  frequency_histograms,
  frontier,
  training_curves,
)
