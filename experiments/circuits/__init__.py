"""From a latent to a refusal: which heads and MLPs carry the effect?

`components.py` says what can be held in place, `metric.py` what is measured,
`effects.py` what paths are, `verification.py` what makes a set a circuit,
`attribution.py` how logits are taken apart, `polarity.py` what the model does
without evidence; `study.py` puts them together.
"""

from experiments.circuits.attribution import (
  attribute,
  last_token,
  project,
  top_tokens,
)
from experiments.circuits.components import (
  CLEAN,
  FREE,
  GIVEN,
  GROUPS,
  Component,
  components_where,
)
from experiments.circuits.effects import (
  LATENT,
  LOGITS,
  Edge,
  component_effects,
  edge_effects,
  possible_edges,
  set_effects,
)
from experiments.circuits.metric import (
  Beginnings,
  Pairs,
  choose_pairs,
  find_beginnings,
)
from experiments.circuits.study import Settings, trace
from experiments.circuits.tracing import LatentEdit, Tracer, ablated, steered
from experiments.circuits.verification import find_set, ranked, verify
