"""Draws charts and writes pages; knows no study.

A figure is rows and one call: no study makes a trace of plotly.

heatmap     effects in colour, centred at 0, in panels
entry_map   a heat map of entries of results
dots        a forest plot: values with intervals, one row per label
lines       curves with bands, in panels
bars        grouped bars with intervals
scatter     points of two values each, in panels
graph       nodes in lanes, and the links between them
histogram   distributions over the same bins, with observed values
table       rows of text, numbers and estimates
page        sections as one HTML file that asks for nothing
index       one page over several runs
footer      what the numbers of a page were computed with
style       one look for all figures; colours by name
rows        labelled values with intervals, which dots and bars draw
panels      panels side by side under one legend
points      where the points of lines are drawn
references  lines and bands to compare with, such as chance
details     what a point says under the mouse, and after a click
"""

from experiments.charts import style
from experiments.charts.bars import Bar, bars
from experiments.charts.dots import Dot, dots
from experiments.charts.entry_map import entry_map
from experiments.charts.footer import footer
from experiments.charts.graph import Link, Node, graph
from experiments.charts.heatmap import heatmap
from experiments.charts.histogram import histogram
from experiments.charts.lines import Line, lines
from experiments.charts.page import Section, read_contents, write_report
from experiments.charts.scatter import Point, scatter
from experiments.charts.style import colours, styled
from experiments.charts.table import Table, table
