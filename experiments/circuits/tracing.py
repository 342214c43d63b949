"""Runs of a model with an edit, components held in their states: rows.

  tracer = Tracer(model, questions, pairs, edit)
  effect = tracer.metric(rows) - tracer.clean_metric[rows.question]

A row is a question, with or without the edit, and a state of every component.
All rows of a tracer, and those of other edits at the same site, run in one
compiled program.
"""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.circuits import components as components_lib
from experiments.circuits.components import FREE, SITES, Component
from experiments.circuits.metric import Pairs, readout
from experiments.latents import LatentId, Target
from experiments.steering import Question, steered_positions
import gemma_jax as gj
from gemma_jax.where import select
from sae.jumprelu import JumpReLUSAE

STREAM = ('resid_pre', 'resid_mid', 'resid_post')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LatentEdit:
  """A change of one latent whose effect is traced.

  Attributes:
    name: Such as '+ unknown'.
    label: 'known' or 'unknown', the latent's.
    id: The latent.
    change: What is done to its site, at all tokens; the tracer says where.
    positions: The tokens that are edited, as `steering.POSITIONS` names them.
  """

  name: str
  label: str
  id: LatentId
  change: gj.Edit
  positions: str

  def __post_init__(self):
    if self.id.site not in STREAM:
      raise ValueError(
        f'{self.id} is a latent of {self.id.site}. A circuit is traced from a '
        f'latent of the stream: of {", ".join(STREAM)}.'
      )


def steered(target: Target, coefficient: float, positions: str) -> LatentEdit:
  """Returns the edit that adds coefficient * decoder row."""
  change = gj.steer(
    target.id.site,
    jnp.asarray(target.direction),
    layers=target.id.layer,
    coefficient=coefficient,
  )
  return LatentEdit(
    name=f'+ {target.label}',
    label=target.label,
    id=target.id,
    change=change,
    positions=positions,
  )


def ablated(
  label: str, id: LatentId, sae: JumpReLUSAE, positions: str
) -> LatentEdit:
  """Returns the edit that sets the latent to 0, keeping the SAE's error."""
  return LatentEdit(
    name=f'{label} ablated',
    label=label,
    id=id,
    change=gj.clamp_latents(sae.select([id.latent]), 0.0),
    positions=positions,
  )


def at_gates(change: gj.Edit, gates: np.ndarray) -> gj.Edit:
  """Returns the change with a gate of every position, float32 [R, S]."""
  where = select(gj.per_row(gates), 'position')
  return dataclasses.replace(change, positions=where)


def reaches_last(positions: str, question: Question) -> bool:
  """Returns True if the question's last token is among those edited."""
  return steered_positions(positions, question)[1] == question.length


class Rows(NamedTuple):
  """Holds what is run.

  Attributes:
    question: int [R], the number of the question.
    edited: bool [R], whether it is run with the edit.
    states: int8 [R, L, N + 1, G], the state of every component.
  """

  question: np.ndarray
  edited: np.ndarray
  states: np.ndarray


class Tracer:
  """Traces one edit through a model, on Q questions.

  Attributes:
    config: The model's config.
    questions: The questions.
    edit: The edit.
    rows_per_batch: B, the number of rows that are run at once.
    clean: Site -> [Q, L, S, W], components' values without the edit.
    edited: Site -> [Q, L, S, W], their values with the edit.
    clean_metric: float64 [Q], the metric without the edit.
    total: float64 [Q], what the edit does to the metric.
  """

  def __init__(
    self,
    model: gj.Decoder,
    questions: Sequence[Question],
    pairs: Pairs,
    edit: LatentEdit,
    *,
    rows_per_batch: int = 128,
    length: int | None = None,
  ):
    """Runs all questions without and with the edit.

    Args:
      model: The weights.
      questions: The questions.
      pairs: The tokens of the metric.
      edit: The edit.
      rows_per_batch: B, the number of rows that are run at once.
      length: Tokens that questions are padded to, if they are shorter; tracers
        of one length share programs.
    """
    self._model, self.config = model, model.config
    self.questions, self.edit = list(questions), edit
    self.rows_per_batch = rows_per_batch
    longest = max(question.length for question in questions)
    self._tokens, self._positions = gj.pad_rows(
      [question.ids for question in questions],
      model.config.fill_id,
      side='right',
      buckets=max(longest, length or 0),
    )
    S = self._tokens.shape[1]
    self._groups = components_lib.token_groups(questions, S)
    self._gates = np.zeros((len(questions), S), np.float32)
    for gate, question in zip(self._gates, questions, strict=True):
      gate[slice(*steered_positions(edit.positions, question))] = 1
    self._last = self._positions.max(axis=1)
    self._readout = readout(model, pairs)
    sizes = {site: gj.site_width(self.config, site) for site in SITES}
    shape = (len(questions), self.config.num_layers, S)
    self.clean = self.edited = {
      site: jnp.zeros((*shape, W), model.dtype) for site, W in sizes.items()
    }
    found = {
      edited: self.capture(self.rows([((), FREE)], edited=edited))
      for edited in (False, True)
    }
    (self.clean, self.clean_metric), (self.edited, metric) = found.values()
    self.total = metric - self.clean_metric

  def rows(
    self,
    chosen: Sequence[tuple[Sequence[Component], int]],
    others: int = FREE,
    edited: bool = False,
  ) -> Rows:
    """Returns rows: every question under every choice of components.

    All questions of the first choice come first, then those of the next.

    Args:
      chosen: Pairs of components and the state that they are in.
      others: The state that all other components are in.
      edited: True if rows are run with the edit.
    """
    Q = len(self.questions)
    states = np.stack(
      [
        components_lib.states_of(self.config, some, state, others)
        for some, state in chosen
      ]
    )
    return Rows(
      question=np.tile(np.arange(Q), len(states)),
      edited=np.full(Q * len(states), edited),
      states=np.repeat(states, Q, axis=0),
    )

  def metric(self, rows: Rows, given=None) -> np.ndarray:
    """Returns the metric, float64 [R].

    Args:
      rows: What to run.
      given: Site -> [R, L, S, W], the values of GIVEN components. Default:
        those of the edited run.
    """
    last = gj.capture(
      'resid_post', layers=self.config.num_layers - 1, positions='last'
    )
    found = []
    for some, out in self._run(rows, given, last):
      x = np.asarray(out['resid_post'][0, :, 0], np.float64)
      found.append(gj.read_logit(self._model, x, self._readout[some.question]))
    return np.concatenate(found)

  def effect(self, rows: Rows, given=None) -> np.ndarray:
    """Returns `metric` less what it is without the edit, float64 [R]."""
    return self.metric(rows, given) - self.clean_metric[rows.question]

  def capture(self, rows: Rows) -> tuple[dict[str, jax.Array], np.ndarray]:
    """Returns site -> [R, L, S, W], components' values; and the metric [R]."""
    everything = gj.capture(*SITES, 'resid_post')
    values, metrics = {site: [] for site in SITES}, []
    for some, out in self._run(rows, None, everything):
      count = len(some.question)
      for site in SITES:
        values[site].append(jnp.moveaxis(out[site], 0, 1)[:count])
      last = self._last[some.question]
      x = np.asarray(out['resid_post'][-1], np.float64)
      x = x[np.arange(count), last]
      metrics.append(
        gj.read_logit(self._model, x, self._readout[some.question])
      )
    joined = {site: jnp.concatenate(parts) for site, parts in values.items()}
    return joined, np.concatenate(metrics)

  def changed(self) -> np.ndarray:
    """Returns the components that the edit changes, bool [L, N + 1, G].

    One that it changes in any question counts. Those before it, in layers or
    tokens, are the same to the last bit.
    """
    N = self.config.num_heads
    groups = self._groups > 0  # [Q, S, G]
    parts = []
    for site, n in (('z', N), ('mlp_out', 1)):
      different = np.asarray(self.clean[site] != self.edited[site])
      different = different.reshape(*different.shape[:3], n, -1).any(-1)
      parts.append(np.einsum('QLSn,QSG->LnG', different, groups))
    return np.concatenate(parts, axis=1) > 0

  def _run(self, rows, given, capture):
    """Yields the rows of each batch and its activations, not more than B."""
    total, B = len(rows.question), self.rows_per_batch
    model = self._model
    for start in range(0, total, B):
      count = min(B, total - start)
      # The last batch is filled up, so that it needs no program of its own.
      at = np.minimum(np.arange(start, start + B), total - 1)
      question = rows.question[at]
      pick = lambda values, question=question: {
        site: x[question] for site, x in values.items()
      }
      held = components_lib.hold(
        self.config,
        rows.states[at],
        self._groups[question],
        pick(self.clean),
        pick(self.edited)
        if given is None
        else {site: x[at] for site, x in given.items()},
      )
      gates = self._gates[question] * rows.edited[at][:, None]
      out = gj.run(
        model,
        self._tokens[question],
        self._positions[question],
        interventions=[at_gates(self.edit.change, gates), *held],
        capture=capture,
      )
      some = Rows(*(field[at[:count]] for field in rows))
      yield (
        some,
        {site: x[:, :count] for site, x in out.activations.items()},
      )
