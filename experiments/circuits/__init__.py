"""From a latent to a refusal: the heads and MLPs that carry the effect.

`components.py` says what can be held in place, `metric.py` what is measured,
`effects.py` what paths are, `verification.py` what makes a set a circuit,
`logit_attribution.py` how logits are taken apart, `refusal_default.py` what the
model does without evidence; `study.py` puts them together.
"""

from experiments.circuits.components import Component
from experiments.circuits.effects import Edge
from experiments.circuits.metric import Beginnings, Pairs
from experiments.circuits.study import TracingOptions, trace
from experiments.circuits.tracing import LatentEdit, Tracer, ablated, steered
