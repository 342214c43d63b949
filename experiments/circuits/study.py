"""Tracing one edit of a latent: its effect, the circuit, its verification.

Components are ranked and the circuit is chosen on validation questions; every
number that is reported is of test questions.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from experiments.circuits.circuit_results import (
  Asked,
  among,
  describe_attribution,
  describe_components,
  describe_edges,
  describe_projection,
)
from experiments.circuits.components import components_where
from experiments.circuits.effects import (
  component_effects,
  edge_effects,
  possible_edges,
)
from experiments.circuits.logit_attribution import attribute, last_token
from experiments.circuits.tracing import LatentEdit, Tracer
from experiments.circuits.verification import find_set, ranked, verify
from experiments.stats.intervals import Estimate, cluster_bootstrap_mean
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True)
class TracingOptions:
  """Says how an edit is traced.

  Attributes:
    goal: Share of the effect that a circuit keeps, and takes with it.
    smallest_effect: Smallest effect that is traced, in logits.
    graph_nodes: Most components of the circuit that edges are measured among.
    num_random: Number of random sets that the circuit is compared with.
    projected_heads: Number of heads whose output is shown as tokens.
    examples: Number of questions that each of them is shown for.
    mode: 'default' or 'reference', see `attribution.project`.
    rows_per_batch: Number of rows that are run at once.
    seed: Random seed of all draws.
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
  edit: LatentEdit,
  choosing: Asked,
  reporting: Asked,
  options: TracingOptions,
  *,
  controls: Sequence[LatentEdit] = (),
) -> tuple[dict, dict[str, np.ndarray]]:
  """Finds what carries the effect of an edit.

  Args:
    model: The chat model, stacked.
    tokenizer: The model's tokenizer.
    edit: The edit.
    choosing: Validation questions.
    reporting: Test questions.
    options: How it is traced.
    controls: Edits of random latents, whose total effect alone is measured.

  Returns:
    Numbers for results.json; and effects of every question by name.
  """
  length = max(q.length for a in (choosing, reporting) for q in a.questions)

  def tracer(asked, edit):
    return Tracer(
      model,
      asked.questions,
      asked.pairs,
      edit,
      rows_per_batch=options.rows_per_batch,
      length=length,
    )

  first, test = tracer(choosing, edit), tracer(reporting, edit)
  estimate = lambda x, asked=reporting: cluster_bootstrap_mean(
    x, asked.entities, options.seed
  )
  before = estimate(first.total, choosing)
  random = [tracer(reporting, each).total for each in controls]
  results = {
    'name': edit.name,
    'label': edit.label,
    'latent': str(edit.id),
    'positions': edit.positions,
    'entity_class': reporting.questions[0].entity_class,
    'questions': len(reporting.questions),
    'validation_questions': len(choosing.questions),
    'clean': estimate(test.clean_metric).to_dict(),
    'total': estimate(test.total).to_dict(),
    'validation_total': before.to_dict(),
    'random_latents': among(test.total, random),
    'traced': _is_effect(before, options.smallest_effect),
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
  found = find_set(first, order, options.goal)
  results['choice'] = {
    'goal': options.goal,
    'reached': found.reached,
    'curve': found.curve,
    'validation_part': {
      str(c): float(x) for c, x in zip(order, part, strict=True)
    },
  }
  effects = component_effects(test, order, 'Components')
  results['components'] = describe_components(
    effects, order, found, reporting, estimate, options.seed
  )
  arrays |= effects
  verified, more = verify(
    test,
    found.components,
    candidates,
    reporting.entities,
    num_random=options.num_random,
    seed=options.seed,
  )
  results['verification'] = verified
  arrays |= more
  nodes = found.components[: options.graph_nodes]
  edges = possible_edges(first, nodes)
  chosen = edge_effects(first, edges, 'Edges, validation')
  measured = edge_effects(test, edges, 'Edges')
  results['edges'] = describe_edges(
    edges, chosen, measured, reporting, estimate, options.seed
  )
  arrays['edges'] = measured
  parts = {
    edited: last_token(
      model,
      reporting.questions,
      edit,
      edited=edited,
      rows_per_batch=options.rows_per_batch,
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
      mode=options.mode,
      examples=options.examples,
    )
    for head in heads[: options.projected_heads]
  ]
  return results, arrays


def _is_effect(total: Estimate, smallest: float) -> bool:
  """Returns True if the effect is large enough, and its sign certain."""
  bounds = np.array([total.low, total.high])
  one_sided = bool((bounds > 0).all() or (bounds < 0).all())
  return one_sided and abs(total.value) >= smallest
