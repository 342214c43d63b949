"""Numbers of a traced edit, as results.json has them."""

from collections.abc import Callable, Sequence
import dataclasses

import numpy as np

from experiments.circuits.components import Component
from experiments.circuits.effects import Edge
from experiments.circuits.logit_attribution import (
  Attribution,
  LastToken,
  project,
  top_tokens,
)
from experiments.circuits.metric import Pairs
from experiments.circuits.verification import Found
from experiments.stats.intervals import Estimate
from experiments.stats.multiplicity import max_t_permutation
from experiments.stats.resampling import mean_by_unit
from experiments.steering import Question
import gemma_jax as gj

# Estimates the mean of a value per question.
Estimator = Callable[[np.ndarray], Estimate]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
  """Questions and the tokens of their metric.

  Attributes:
    questions: Q questions.
    pairs: The two tokens of each.
  """

  questions: Sequence[Question]
  pairs: Pairs

  @property
  def entities(self) -> list[str]:
    """Returns the entity of each question, [Q]."""
    return [f'{q.type}/{q.entity}' for q in self.questions]


def among(total: np.ndarray, random: Sequence[np.ndarray]) -> dict:
  """Returns where the total stands among those of random latents."""
  means = [float(each.mean()) for each in random]
  as_far = sum(abs(mean) >= abs(total.mean()) for mean in means)
  return {
    'n': len(means),
    'means': means,
    'p': (1 + as_far) / (1 + len(means)),
  }


def describe_components(
  effects: dict[str, np.ndarray],
  order: Sequence[Component],
  found: Found,
  asked: Asked,
  estimate: Estimator,
  seed: int = 0,
) -> list[dict]:
  """Describes every candidate, in the order of the validation questions.

  Args:
    effects: What `component_effects` returned for the reported questions.
    order: The candidates.
    found: The circuit.
    asked: The questions; p-values are of means over each entity's.
    estimate: Estimates a mean.
    seed: Random seed of the permutations.
  """
  part = (effects['carried'] + effects['lost']) / 2  # [C, Q]
  by_entity, _ = mean_by_unit(part.T, asked.entities)
  test = max_t_permutation(by_entity, seed=seed)
  chosen = set(found.components)
  return [
    _named(component)
    | {
      'in_circuit': component in chosen,
      'carried': estimate(effects['carried'][i]).to_dict(),
      'lost': estimate(effects['lost'][i]).to_dict(),
      'part': estimate(part[i]).to_dict(),
      'direct': estimate(effects['direct'][i]).to_dict()
      if component.group == 'last'
      else None,
      'p': float(test.p_adjusted[i]),
    }
    for i, component in enumerate(order)
  ]


def describe_edges(
  edges: Sequence[Edge],
  chosen: np.ndarray,
  measured: np.ndarray,
  asked: Asked,
  estimate: Estimator,
  seed: int = 0,
) -> list[dict]:
  """Describes every edge; those that hold on the test questions are verified.

  Args:
    edges: E edges.
    chosen: float64 [E, Q'], effects on the validation questions.
    measured: float64 [E, Q], effects on the questions that are reported.
    asked: The questions that are reported.
    estimate: Estimates a mean.
    seed: Random seed of the permutations.
  """
  by_entity, _ = mean_by_unit(measured.T, asked.entities)
  test = max_t_permutation(by_entity, seed=seed)
  return [
    {
      'sender': str(edge.sender),
      'receiver': str(edge.receiver),
      'effect': estimate(measured[i]).to_dict(),
      'validation_effect': float(chosen[i].mean()),
      'p': float(test.p_adjusted[i]),
      'verified': bool(
        test.significant[i] and chosen[i].mean() * measured[i].mean() > 0
      ),
    }
    for i, edge in enumerate(edges)
  ]


def describe_attribution(
  before: Attribution,
  after: Attribution,
  effects: dict[str, np.ndarray],
  order: Sequence[Component],
  estimate: Estimator,
) -> dict:
  """Describes parts of the metric at the last token, and how they change.

  Args:
    before, after: The parts without and with the edit.
    effects: What `component_effects` returned; direct effects are compared.
    order: The components that it was of.
    estimate: Estimates a mean.
  """

  def entry(name, old, new):
    return {
      'name': name,
      'clean': estimate(old).to_dict(),
      'change': estimate(new - old).to_dict(),
    }

  parts = [
    entry('embedding', before.embedding, after.embedding),
    entry('edit', before.edit, after.edit),
  ]
  layers, heads = before.heads.shape[1:]
  for layer in range(layers):
    parts += [
      entry(
        f'z.{layer}/{n}', before.heads[:, layer, n], after.heads[:, layer, n]
      )
      for n in range(heads)
    ]
    parts.append(
      entry(f'mlp_out.{layer}', before.mlps[:, layer], after.mlps[:, layer])
    )
  last = [i for i, c in enumerate(order) if c.group == 'last']
  attributed = [
    (
      after.mlps[:, c.layer] - before.mlps[:, c.layer]
      if c.head is None
      else after.heads[:, c.layer, c.head] - before.heads[:, c.layer, c.head]
    ).mean()
    for c in (order[i] for i in last)
  ]
  direct = effects['direct'][last].mean(axis=1)
  varies = len(last) > 2 and np.ptp(attributed) > 0 and np.ptp(direct) > 0
  gap = max(
    float(np.abs(each.sum - each.metric).max()) for each in (before, after)
  )
  return {
    'parts': parts,
    'metric': estimate(before.metric).to_dict(),
    'metric_change': estimate(after.metric - before.metric).to_dict(),
    'largest_gap': gap,
    'correlation_with_direct': float(np.corrcoef(attributed, direct)[0, 1])
    if varies
    else None,
  }


def describe_projection(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  parts: dict[bool, LastToken],
  asked: Asked,
  component: Component,
  *,
  mode: str,
  examples: int,
) -> dict:
  """Describes a head's output in tokens, for a few questions and on average.

  Args:
    model: The weights.
    tokenizer: The model's tokenizer.
    parts: True if a run was edited -> its parts.
    asked: The questions.
    component: The head.
    mode: See `project`.
    examples: Number of questions.
  """
  logits = {
    edited: project(model, one, component.layer, component.head, mode)
    for edited, one in parts.items()
  }
  change = logits[True].mean(axis=0) - logits[False].mean(axis=0)
  return _named(component) | {
    'mode': mode,
    'promoted': top_tokens(tokenizer, change, 10),
    'suppressed': [
      (token, -value) for token, value in top_tokens(tokenizer, -change, 10)
    ],
    'questions': [
      {
        'question': question.text,
        'answer': question.answer,
        'clean': top_tokens(tokenizer, logits[False][i], 10),
        'edited': top_tokens(tokenizer, logits[True][i], 10),
      }
      for i, question in enumerate(asked.questions[:examples])
    ],
  }


def _named(component: Component) -> dict:
  return {
    'name': str(component),
    'site': component.site,
    'layer': component.layer,
    'head': component.head,
    'tokens': component.group,
  }
