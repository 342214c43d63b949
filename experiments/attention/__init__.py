"""Attention to an entity: how much there is, what moves it, what it is for.

  cases = make_cases(tokenizer, people.of('test', 'known'), ...)
  shift = measure_shift(model, cases, target, alpha=100.0, ...)
  study = run_study(model, cases, edges, windows, heads, wanted, watched, ...)

`reruns.py` says how work is shared; `entity_attention.py` what is measured of
attention, and `shift_summary.py` what it is compared with; `edges.py` and
`windows.py` say what can be knocked out, `knockouts.py` does it.
"""

from experiments.attention.cases import Case, make_cases
from experiments.attention.edges import Edges, without_entity
from experiments.attention.entity_attention import (
  KEYS,
  MEASURES,
  attention_to_entity,
)
from experiments.attention.knockout_runs import Study, run_study, time_both_ways
from experiments.attention.knockout_summary import commonest_answer, summarise
from experiments.attention.knockouts import knock_out
from experiments.attention.refusals import refusal_openings
from experiments.attention.shift_summary import compare_classes, summarise_shift
from experiments.attention.shifts import Shift, first_changed, measure_shift
from experiments.attention.windows import parse_heads, parse_windows
