"""Attention to an entity: how much there is, what moves it, what it is for.

  shift = measure_shift(model, cases, target, alpha=100.0, ...)
  study = run_study(model, cases, edges, windows, heads, wanted, watched, ...)

`cases.py` makes the prompts, `entity_attention.py` measures attention, and
`shift_summary.py` says what it is compared with; `edges.py` and `windows.py`
say what can be cut, and `knockouts.py` cuts it.
"""

from experiments.attention.cases import Case, make_cases
from experiments.attention.edges import Edges, without_entity
from experiments.attention.entity_attention import KEYS, MEASURES
from experiments.attention.knockout_runs import run_study, time_both_ways
from experiments.attention.knockout_summary import commonest_answer, summarise
from experiments.attention.refusal_openings import refusal_openings
from experiments.attention.shift_summary import compare_classes, summarise_shift
from experiments.attention.shifts import Shift, first_changed, measure_shift
from experiments.attention.windows import (
  ALL,
  FROM,
  HeadSet,
  Window,
  parse_heads,
  parse_windows,
)
