"""Does the model decline by default, or answer by default?

Claude is said to decline by default, which features of known entities inhibit
(Lindsey et al. 2025). Another model may answer by default, and decline on
evidence that an entity is unknown. Nothing is assumed here; each is measured:

  entity cut    no token after the entity sees it, in any layer: what the model
                does without evidence is its default
  other cut     the same for as many tokens right before the entity
  circuit cut   only heads of the circuits lose sight of it, at their tokens: if
                they are what reads it, that does the same
  rest cut      all heads but those
  LABEL ablated that latent is 0 from the entity to the end, the SAE's error
                kept; if the known latent inhibits refusals, known entities are
                declined without it; if the unknown one makes them, unknown
                entities are answered without it
  all ablated   both
  random        each of the latent's random controls, ablated in the same way

What the model does is read off its first token: whether the likeliest is one
that its refusals begin with, and the metric.

With the entity cut, questions that differ only in a name, of as many tokens,
are one and the same computation. They count once.
"""

from collections.abc import Collection, Mapping, Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments.attention import without_entity
from experiments.circuits.components import GROUPS, Component, token_groups
from experiments.circuits.metric import Beginnings, Pairs, readout
from experiments.circuits.tracing import LatentEdit, at_gates
from experiments.latents import CLASSES
from experiments.stats.intervals import (
  Estimate,
  cluster_bootstrap_mean,
  number_units,
  wilson,
)
from experiments.stats.paired import mcnemar, paired_difference
from experiments.stats.resampling import first_of_units
from experiments.steering import Question, steered_positions
import gemma_jax as gj

ORIGINAL, CUT, OTHER_CUT = 'as it is', 'entity cut', 'other cut'
CIRCUIT_CUT, REST_CUT, BOTH = 'circuit cut', 'rest cut', 'all ablated'


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Condition:
  """Holds what is done in one pass over all questions.

  Attributes:
    name: Name of the condition alone.
    kind: Name of the conditions that it is counted with.
    cut: The tokens that later ones lose: 'entity', 'other' or '' for none.
    heads: bool [L, N, G], heads that lose them, by the group of the token that
      looks; None is all.
    changes: Label -> the change that ablates a latent; others are off.
  """

  name: str
  kind: str
  cut: str = ''
  heads: np.ndarray | None = None
  changes: Mapping[str, gj.Edit] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
  """First tokens under a condition.

  Attributes:
    refused: bool [Q], whether the likeliest token begins refusals.
    metric: float64 [Q], the metric.
  """

  refused: np.ndarray
  metric: np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Cut(gj.Knockout):
  """A knockout of any heads at any groups of tokens that look.

  The rows are padded on the right, so that a column is a position.

  Attributes:
    cells: float32 [R, L, N, G], 1 for heads that lose their view.
    groups: float32 [R, S, G], see `token_groups`.
  """

  cells: jax.Array
  groups: jax.Array

  def cuts(self, layer, query_positions, key_positions, config) -> jax.Array:
    """Returns the edges that are cut, bool [B, N, T, S]."""
    looks = jnp.einsum('BTG,BNG->BNT', self.groups, self.cells[:, layer]) > 0
    whole = super().cuts(layer, query_positions, key_positions, config)
    return whole & looks[..., None]


def conditions(
  config: gj.ModelConfig,
  ablations: Mapping[str, LatentEdit],
  controls: Mapping[str, Sequence[gj.Edit]],
  circuit: Collection[Component] = (),
) -> list[Condition]:
  """Returns the conditions at the top of this file, the original first.

  Args:
    config: The model's config.
    ablations: Label -> the edit that ablates its latent.
    controls: Label -> changes that ablate its random controls.
    circuit: Components that were found; their heads are cut apart from all
      others. Without heads these two conditions are left out.
  """
  changes = {label: edit.change for label, edit in ablations.items()}
  made = [
    Condition(name=ORIGINAL, kind=ORIGINAL),
    Condition(name=CUT, kind=CUT, cut='entity'),
    Condition(name=OTHER_CUT, kind=OTHER_CUT, cut='other'),
  ]
  heads = np.zeros((config.num_layers, config.num_heads, len(GROUPS)), bool)
  for component in circuit:
    if component.head is not None:
      heads[component.index(config)] = True
  if heads.any():
    made += [
      Condition(name=CIRCUIT_CUT, kind=CIRCUIT_CUT, cut='entity', heads=heads),
      Condition(name=REST_CUT, kind=REST_CUT, cut='entity', heads=~heads),
    ]
  for label, change in changes.items():
    name = f'{label} ablated'
    made.append(Condition(name=name, kind=name, changes={label: change}))
    made += [
      Condition(
        name=f'random {i} for {label}',
        kind=f'random for {label}',
        changes={label: control},
      )
      for i, control in enumerate(controls.get(label, ()))
    ]
  if len(changes) > 1:
    made.append(Condition(name=BOTH, kind=BOTH, changes=changes))
  return made


def read_conditions(
  model: gj.Decoder,
  questions: Sequence[Question],
  beginnings: Beginnings,
  pairs: Pairs,
  ablations: Mapping[str, LatentEdit],
  conditions: Sequence[Condition],
  *,
  rows_per_batch: int = 128,
) -> dict[str, Reading]:
  """Returns condition -> what the model would begin to say.

  Args:
    model: The chat model.
    questions: Q questions.
    beginnings: First tokens of the model's own answers.
    pairs: Tokens of the metric.
    ablations: Label -> the edit that ablates its latent.
    conditions: The conditions.
    rows_per_batch: Number of rows that are run at once.
  """
  T = max(question.length for question in questions)
  directions = readout(model, pairs)
  found = {condition.name: ([], []) for condition in conditions}
  B = min(rows_per_batch, len(questions))
  with tqdm.tqdm(
    total=len(questions) * len(conditions), desc='Default', unit='row'
  ) as progress:
    for start in range(0, len(questions), B):
      count = min(B, len(questions) - start)
      at = np.minimum(np.arange(start, start + B), len(questions) - 1)
      some = [questions[i] for i in at]
      padded = gj.pad_rows(
        [question.ids for question in some],
        model.config.fill_id,
        side='right',
        buckets=T,
      )
      for condition in conditions:
        out = gj.run(
          model,
          *padded,
          interventions=_changes(model.config, condition, ablations, some, T),
          capture=gj.capture(
            'resid_post', layers=model.config.num_layers - 1, positions='last'
          ),
          logits_at='last',
        )
        best = np.asarray(out.logits)[:count, 0].argmax(axis=1)
        x = np.asarray(out['resid_post'])[0, :count, 0]
        metric = gj.read_logit(model, x, directions[at[:count]])
        refused, metrics = found[condition.name]
        refused.append(np.isin(best, sorted(beginnings.refusals)))
        metrics.append(metric)
        progress.update(count)
  return {
    name: Reading(
      refused=np.concatenate(refused), metric=np.concatenate(metrics)
    )
    for name, (refused, metrics) in found.items()
  }


def _changes(config, condition, ablations, questions, length):
  """Returns a knockout and a change per latent, whose gates are 0 if off."""
  shape = (len(questions), length)
  queries, keys = np.zeros(shape, bool), np.zeros(shape, bool)
  for row, question in enumerate(questions):
    start, stop = question.span
    if condition.cut:
      queries[row, stop : question.length] = True
      before = max(1, start - (stop - start))  # BOS is kept
      seen = (start, stop) if condition.cut == 'entity' else (before, start)
      keys[row, slice(*seen)] = True
  whole = gj.knock_out_attention(
    queries=gj.per_row(queries), keys=gj.per_row(keys)
  )
  cells = np.ones((config.num_layers, config.num_heads, len(GROUPS)))
  cells = cells if condition.heads is None else condition.heads
  cut = _Cut(
    **vars(whole),
    cells=jnp.asarray(cells, jnp.float32)[None],
    groups=jnp.asarray(token_groups(questions, length)),
  )
  changes = [cut]
  for label, edit in ablations.items():
    gates = np.zeros(shape, np.float32)
    if label in condition.changes:
      for gate, question in zip(gates, questions, strict=True):
        gate[slice(*steered_positions(edit.positions, question))] = 1
    change = condition.changes.get(label, edit.change)
    changes.append(at_gates(change, gates))
  return changes


def summarise(
  questions: Sequence[Question],
  conditions: Sequence[Condition],
  readings: Mapping[str, Reading],
  seed: int = 0,
) -> dict:
  """Returns refusals and the metric of every condition, and the default.

  Returns:
    'conditions', each with its numbers by class of entities; 'random', of each
    label, how far its controls move the metric; and 'default'. Intervals
    resample entities; with the entity cut, what else there is in a question,
    and 'refused' has each of these once. Changes are of questions.
  """
  classes = np.array([question.entity_class for question in questions])
  names = np.array([f'{q.type}/{q.entity}' for q in questions])
  blind, _ = number_units([without_entity(q) for q in questions])
  original = readings[ORIGINAL]
  table, random = [], {}
  for condition in conditions:
    mine = readings[condition.name]
    entry = {'name': condition.name, 'kind': condition.kind, 'classes': {}}
    for label in CLASSES:
      at = classes == label
      if not at.any():
        continue
      before, after = original.refused[at], mine.refused[at]
      change = mine.metric[at] - original.metric[at]
      units = blind[at] if condition.kind == CUT else names[at]
      mean = lambda x, of=units: cluster_bootstrap_mean(x, of, seed)
      once = first_of_units(blind[at]) if condition.kind == CUT else slice(None)
      entry['classes'][label] = {
        'refused': _share(after[once]).to_dict(),
        'refused_by_entity': mean(after).to_dict(),
        'change_refused': paired_difference(before, after).to_dict(),
        'flips': mcnemar(before, after).to_dict(),
        'metric': mean(mine.metric[at]).to_dict(),
        'change_metric': mean(change, names[at]).to_dict(),
      }
    if condition.kind.startswith('random'):
      random.setdefault(condition.kind, []).append(entry)
    else:
      table.append(entry)
  return {
    'conditions': table,
    'random': [
      _random_changes(kind, entries) for kind, entries in random.items()
    ],
    'default': _default(readings[CUT], blind),
  }


def _random_changes(kind: str, entries: Sequence[Mapping]) -> dict:
  found = {'kind': kind, 'n': len(entries), 'classes': {}}
  for label in entries[0]['classes']:
    values = [e['classes'][label]['change_metric']['value'] for e in entries]
    refused = [e['classes'][label]['refused']['value'] for e in entries]
    found['classes'][label] = {
      'change_metric': values,
      'low': min(values),
      'high': max(values),
      'refused': float(np.mean(refused)),
    }
  return found


def _default(cut: Reading, blind: np.ndarray) -> dict:
  """Says what the model does when nothing of the entity is seen."""
  refused = _share(cut.refused[first_of_units(blind)])
  if refused.low > 0.5:
    verdict = 'decline'
  elif refused.high < 0.5:
    verdict = 'answer'
  else:
    verdict = 'unclear'
  return {
    'refused': refused.to_dict(),
    'questions': len(blind),
    'verdict': verdict,
  }


def _share(yes: np.ndarray) -> Estimate:
  return wilson(int(yes.sum()), len(yes))
