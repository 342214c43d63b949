"""Colours of outcomes and of the unchanged model, and classes asked about."""

from collections.abc import Mapping

from experiments.latents import CLASSES
from experiments.steering.outcomes import OUTCOMES

ORIGINAL_COLOUR = '#4D4D4D'
OUTCOME_COLOURS = dict(
  zip(OUTCOMES, ('#E69F00', '#009E73', '#CC79A7', '#000000'), strict=True)
)


def classes_of(results: Mapping) -> list[str]:
  """Returns the classes of entities that were asked about."""
  counts = results['arms'][0]['counts']
  return [name for name in CLASSES if name in counts]
