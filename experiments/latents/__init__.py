"""Latents that know: found, tested, controlled, described.

  groups = Groups(types=('player', 'movie', 'city', 'song'))
  sums = stream_scores(model, saes, rows, numbers, groups.count)
  findings = analyse(model, tokenizer, saes, sums, groups, data)
  results, arrays = to_results(findings), to_arrays(findings)

`class_sums.py` and `scores.py` say what is computed from sums, `selection.py`
which latents are chosen; `controls.py`, `probes.py` and `permutation.py` have
what they are compared with, `interpretation.py` what they are about;
`analysis.py` puts all of it together, and `results.py` says what is kept.
"""

from experiments.latents.analysis import Findings, analyse
from experiments.latents.class_sums import SPLITS, ClassSums, Groups, class_sums
from experiments.latents.controls import (
  RandomLatents,
  describe_random,
  difference_of_means,
  entity_frequency,
  matched_random,
  zero_score_random,
)
from experiments.latents.criteria import CRITERIA, scores_of
from experiments.latents.detectors import Detector, SplitData, name_tokens
from experiments.latents.firing import Firing, stream_firing
from experiments.latents.held_out_rates import (
  detection,
  difference,
  firing_rates,
)
from experiments.latents.interpretation import (
  promoted_tokens,
  read_examples,
  top_entities,
)
from experiments.latents.labelled import (
  CLASSES,
  LabelledEntities,
  check_classes,
)
from experiments.latents.permutation import SelectionNull, permutation_null
from experiments.latents.probes import Probe, linear_probe, token_probe
from experiments.latents.ranking import LatentId, rank
from experiments.latents.results import (
  read_arrays,
  to_arrays,
  to_results,
  write_arrays,
)
from experiments.latents.scores import (
  METRICS,
  layer_curve,
  mean_ranks,
  null_p_values,
  separation,
  welch_t,
)
from experiments.latents.selection import Chosen, Selection, select, text_filter
from experiments.latents.settings import AnalysisOptions
from experiments.latents.targets import Target
