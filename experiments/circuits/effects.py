"""Effects of components and edges on the metric, by exact path patching.

Three effects of a component are measured on each question:

  carried   its value of the edited run, in a run without the edit: what goes on
            from there, by all ways
  lost      the edited run, the component held as it is without the edit: what
            of the effect that takes away
  direct    its value of the edited run, with all other components held as they
            are without the edit: what it writes to the logits itself. Only at
            the last token

For an edge from a sender to a receiver, the receiver is run with the sender's
value of the edited run and all others held; what comes out of it is put into a
run without the edit. An edge to the logits is the direct effect.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from experiments.circuits.components import (
  CLEAN,
  FREE,
  GIVEN,
  GROUPS,
  Component,
  states_of,
)
from experiments.circuits.tracing import Rows, Tracer, reaches_last

# Ends of edges that are no components.
LATENT, LOGITS = 'latent', 'logits'


class Edge(NamedTuple):
  """From what is changed to what reads it.

  Attributes:
    sender: A component, or LATENT.
    receiver: A component, or LOGITS.
  """

  sender: Component | str
  receiver: Component | str

  def __str__(self):
    return f'{self.sender} > {self.receiver}'


def component_effects(
  tracer: Tracer, components: Sequence[Component], description: str = 'Paths'
) -> dict[str, np.ndarray]:
  """Returns 'carried', 'lost' and 'direct', float64 [C, Q] each.

  'direct' is 0 for components that are not at the last token.
  """
  carried = _each(
    tracer, [([c], GIVEN) for c in components], FREE, False, description
  )
  kept = _each(
    tracer, [([c], CLEAN) for c in components], FREE, True, description
  )
  last = [c for c in components if c.group == 'last']
  direct = np.zeros_like(carried)
  direct[[c.group == 'last' for c in components]] = _each(
    tracer, [([c], GIVEN) for c in last], CLEAN, False, description
  )
  return {'carried': carried, 'lost': tracer.total - kept, 'direct': direct}


def set_effects(
  tracer: Tracer,
  sets: Sequence[Sequence[Component]],
  others: int,
  description: str = 'Sets',
) -> np.ndarray:
  """Returns effects of the edit with sets of components held, float64 [n, Q].

  Args:
    tracer: The edit's tracer.
    sets: n sets.
    others: FREE holds each set as it is without the edit; CLEAN holds all
      components but the set.
    description: What the progress bar says.
  """
  state = CLEAN if others == FREE else FREE
  return _each(
    tracer, [(some, state) for some in sets], others, True, description
  )


def possible_edges(
  tracer: Tracer, components: Sequence[Component]
) -> list[Edge]:
  """Returns edges among components that information can go along."""
  edges = [Edge(LATENT, c) for c in components]
  if any(
    reaches_last(tracer.edit.positions, question)
    for question in tracer.questions
  ):
    edges.append(Edge(LATENT, LOGITS))
  for sender in components:
    edges += [
      Edge(sender, receiver)
      for receiver in components
      if _reads(receiver, sender)
    ]
    if sender.group == 'last':
      edges.append(Edge(sender, LOGITS))
  return edges


def edge_effects(
  tracer: Tracer, edges: Sequence[Edge], description: str = 'Edges'
) -> np.ndarray:
  """Returns effects of edges on the metric, float64 [E, Q]."""
  Q = len(tracer.questions)
  effects = np.zeros((len(edges), Q))
  several = max(1, tracer.rows_per_batch // Q)
  with tqdm.tqdm(total=len(edges), desc=description, unit='edge') as progress:
    for direct in (True, False):
      mine = [
        i for i, e in enumerate(edges) if (e.receiver == LOGITS) == direct
      ]
      for start in range(0, len(mine), several):
        some = mine[start : start + several]
        rows = _first_runs(tracer, [edges[i] for i in some])
        given = None
        if not direct:
          given, _ = tracer.capture(rows)
          rows = tracer.rows([([edges[i].receiver], GIVEN) for i in some])
        effects[some] = tracer.effect(rows, given).reshape(len(some), Q)
        progress.update(len(some))
  return effects


def _first_runs(tracer: Tracer, edges: Sequence[Edge]) -> Rows:
  """Returns rows with all but the receiver held, the sender as edited."""
  states = []
  for sender, receiver in edges:
    senders = [] if sender == LATENT else [sender]
    states.append(states_of(tracer.config, senders, GIVEN, CLEAN))
    if receiver != LOGITS:
      states[-1][receiver.index(tracer.config)] = FREE
  Q = len(tracer.questions)
  return Rows(
    question=np.tile(np.arange(Q), len(edges)),
    edited=np.repeat([edge.sender == LATENT for edge in edges], Q),
    states=np.repeat(states, Q, axis=0),
  )


def _reads(receiver: Component, sender: Component) -> bool:
  """Returns True if the receiver's input has the sender's output in it.

  A head reads tokens up to its own, an MLP its own only; what is in one block
  is in the order of computation.
  """
  if sender.layer == receiver.layer:
    later = sender.head is not None and receiver.head is None
  else:
    later = sender.layer < receiver.layer
  at = GROUPS.index(sender.group), GROUPS.index(receiver.group)
  return later and (at[0] == at[1] if receiver.head is None else at[0] <= at[1])


def _each(
  tracer: Tracer,
  chosen: Sequence[tuple[Sequence[Component], int]],
  others: int,
  edited: bool,
  description: str,
) -> np.ndarray:
  """Returns effects of every choice, a few at a time, [n, Q]."""
  Q = len(tracer.questions)
  effects = np.zeros((len(chosen), Q))
  several = max(1, 8 * tracer.rows_per_batch // Q)
  with tqdm.tqdm(total=len(chosen), desc=description, unit='set') as progress:
    for start in range(0, len(chosen), several):
      some = chosen[start : start + several]
      rows = tracer.rows(some, others, edited)
      made = tracer.effect(rows).reshape(len(some), Q)
      effects[start : start + len(some)] = made
      progress.update(len(some))
  return effects
