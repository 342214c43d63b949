"""Tracing one cause: its effect, what carries it, the circuit, its check.

Components are ranked and the circuit is chosen on validation questions; every
number that is reported is of test questions.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from experiments.circuits.attribution import attribute, last_token
from experiments.circuits.components import components_where
from experiments.circuits.effects import (
  component_effects,
  edge_effects,
  possible_edges,
)
from experiments.circuits.results import (
  Asked,
  among,
  describe_attribution,
  describe_components,
  describe_edges,
  describe_projection,
)
from experiments.circuits.tracing import LatentEdit, Tracer
from experiments.circuits.verification import find_set, ranked, verify
from experiments.stats.intervals import Estimate, cluster_bootstrap_mean
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """How a cause is traced.

  Attributes:
    goal: Share of the effect that a circuit keeps, and takes with it.
    smallest_effect: In logits; a cause that does less is not traced.
    graph_nodes: Most components of the circuit that edges are measured among.
    num_random: Random sets that the circuit is compared with.
    projected_heads: Heads whose output is shown as tokens.
    examples: Questions of each that it is shown for.
    mode: Of the projections, 'default' or 'reference'.
    rows_per_batch: Bounds memory.
    seed: Of all draws.
  """

  goal: float = 0.8
  smallest_effect: float = 0.5
  graph_nodes: int = 10
  num_random: int = 20
  projected_heads: int = 4
  examples: int = 3
  mode: str = 'default'
  rows_per_batch: int = 128
  seed: int = 0

  def __post_init__(self):
    if not 0.5 < self.goal < 1:
      raise ValueError(
        f'goal is {self.goal}; the share of the effect that a circuit keeps '
        'must be between 0.5 and 1.'
      )


def trace(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  cause: LatentEdit,
  choosing: Asked,
  reporting: Asked,
  settings: Settings,
  *,
  controls: Sequence[LatentEdit] = (),
) -> tuple[dict, dict[str, np.ndarray]]:
  """What carries the effect of a cause.

  Args:
    model: The chat model, stacked.
    tokenizer: Its.
    cause: What is changed.
    choosing: Validation questions.
    reporting: Test questions.
    settings: Settings.
    controls: The same with random latents; of them only the total is measured.

  Returns:
    Numbers for results.json; and effects of every question by name.
  """
  length = max(q.length for a in (choosing, reporting) for q in a.questions)

  def tracer(asked, cause):
    return Tracer(
      model,
      asked.questions,
      asked.pairs,
      cause,
      rows_per_batch=settings.rows_per_batch,
      length=length,
    )

  first, test = tracer(choosing, cause), tracer(reporting, cause)
  estimate = lambda x, asked=reporting: cluster_bootstrap_mean(
    x, asked.entities, settings.seed
  )
  before = estimate(first.total, choosing)
  random = [tracer(reporting, each).total for each in controls]
  results = {
    'name': cause.name,
    'label': cause.label,
    'latent': str(cause.id),
    'positions': cause.positions,
    'entity_class': reporting.questions[0].entity_class,
    'questions': len(reporting.questions),
    'validation_questions': len(choosing.questions),
    'clean': estimate(test.clean_metric).to_dict(),
    'total': estimate(test.total).to_dict(),
    'validation_total': before.to_dict(),
    'random_latents': among(test.total, random),
    'traced': _is_effect(before, settings.smallest_effect),
  }
  arrays = {'clean': test.clean_metric, 'total': test.total}
  if random:
    arrays['random_latents'] = np.stack(random)
  if not results['traced']:
    return results, arrays

  candidates = components_where(first.changed())
  order, part = ranked(
    candidates, component_effects(first, candidates, 'Ranking components')
  )
  found = find_set(first, order, settings.goal)
  results['choice'] = {
    'goal': settings.goal,
    'reached': found.reached,
    'curve': found.curve,
    'validation_part': {
      str(c): float(x) for c, x in zip(order, part, strict=True)
    },
  }
  effects = component_effects(test, order, 'Components')
  results['components'] = describe_components(
    effects, order, found, reporting, estimate, settings.seed
  )
  arrays |= effects
  verified, more = verify(
    test,
    found.components,
    candidates,
    reporting.entities,
    num_random=settings.num_random,
    seed=settings.seed,
  )
  results['verification'] = verified
  arrays |= more
  nodes = found.components[: settings.graph_nodes]
  edges = possible_edges(first, nodes)
  chosen = edge_effects(first, edges, 'Edges, validation')
  measured = edge_effects(test, edges, 'Edges')
  results['edges'] = describe_edges(
    edges, chosen, measured, reporting, estimate, settings.seed
  )
  arrays['edges'] = measured
  parts = {
    edited: last_token(
      model,
      reporting.questions,
      cause,
      edited=edited,
      rows_per_batch=settings.rows_per_batch,
    )
    for edited in (False, True)
  }
  before, after = (
    attribute(model, parts[edited], reporting.pairs) for edited in (False, True)
  )
  results['attribution'] = describe_attribution(
    before, after, effects, order, estimate
  )
  arrays['attributed_heads'] = after.heads - before.heads
  arrays['attributed_mlps'] = after.mlps - before.mlps
  heads = [c for c in order if c.head is not None and c.group == 'last']
  results['projections'] = [
    describe_projection(
      model,
      tokenizer,
      parts,
      reporting,
      head,
      mode=settings.mode,
      examples=settings.examples,
    )
    for head in heads[: settings.projected_heads]
  ]
  return results, arrays


def _is_effect(total: Estimate, smallest: float) -> bool:
  """Whether there is something to trace: of a size, and not by chance."""
  bounds = np.array([total.low, total.high])
  one_sided = bool((bounds > 0).all() or (bounds < 0).all())
  return one_sided and abs(total.value) >= smallest
