"""Runs of a model with an edit, components held in their states: rows.

  tracer = Tracer(model, questions, pairs, cause)
  effect = tracer.metric(rows) - tracer.clean_metric[rows.question]

A row is a question, with or without the edit, and a state of every component.
All rows of a tracer, and those of other causes at the same site, run in one
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
    label: Of the latent.
    id: The latent.
    edit: What is done to its site, at all tokens; the tracer says where.
    positions: One of `steering.POSITIONS`.
  """

  name: str
  label: str
  id: LatentId
  edit: gj.Edit
  positions: str

  def __post_init__(self):
    if self.id.site not in STREAM:
      raise ValueError(
        f'{self.id} is a latent of {self.id.site}. A circuit is traced from a '
        f'latent of the stream: of {", ".join(STREAM)}.'
      )


def steered(target: Target, coefficient: float, positions: str) -> LatentEdit:
  """Adds coefficient * decoder row."""
  edit = gj.steer(
    target.id.site,
    jnp.asarray(target.direction),
    layers=target.id.layer,
    coefficient=coefficient,
  )
  name = f'+ {target.label}'
  return LatentEdit(
    name=name, label=target.label, id=target.id, edit=edit, positions=positions
  )


def ablated(
  label: str, id: LatentId, sae: JumpReLUSAE, positions: str
) -> LatentEdit:
  """Sets the latent to 0, keeping the SAE's error term."""
  return LatentEdit(
    name=f'{label} ablated',
    label=label,
    id=id,
    edit=gj.clamp_latents(sae.select([id.latent]), 0.0),
    positions=positions,
  )


def edit_at(edit: gj.Edit, gates: np.ndarray) -> gj.Edit:
  """The edit with a gate float32 [R, S] for every position of every row."""
  where = select(gj.per_row(gates), 'position')
  return dataclasses.replace(edit, positions=where)


def reaches_last(positions: str, question: Question) -> bool:
  """Whether a mode of positions has the question's last token in it."""
  return steered_positions(positions, question)[1] == question.length


class Rows(NamedTuple):
  """What is run.

  Attributes:
    question: int [R], which question.
    edited: bool [R], whether the cause is there.
    states: int8 [R, L, N + 1, G].
  """

  question: np.ndarray
  edited: np.ndarray
  states: np.ndarray


class Tracer:
  """One cause and its questions.

  Attributes:
    config: Of the model.
    questions: Q of them.
    cause: Cause.
    rows_per_batch: B.
    clean: Site -> [Q, L, S, W], components' values without the edit.
    edited: Likewise, with it.
    clean_metric: float64 [Q].
    total: float64 [Q], what the edit does to the metric.
  """

  def __init__(
    self,
    model: gj.Decoder,
    questions: Sequence[Question],
    pairs: Pairs,
    cause: LatentEdit,
    *,
    rows_per_batch: int = 128,
    length: int | None = None,
  ):
    """Runs all questions without and with the edit.

    Args:
      model: The weights.
      questions: What is asked.
      pairs: Tokens of the metric.
      cause: What is done.
      rows_per_batch: B; bounds memory.
      length: T, at least that of the longest question; tracers of the same T
        share programs.
    """
    self._model, self.config = model, model.config
    self.questions, self.cause = list(questions), cause
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
      gate[slice(*steered_positions(cause.positions, question))] = 1
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
    """Every question under every choice of (components, their state).

    All questions of the first choice come first, then those of the next.
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
    """The metric float64 [R]; GIVEN components are as in the edited run.

    Args:
      rows: What to run.
      given: Site -> [R, L, S, W], other values of GIVEN components.
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
    """`metric` less what it is without the edit."""
    return self.metric(rows, given) - self.clean_metric[rows.question]

  def capture(self, rows: Rows) -> tuple[dict[str, jax.Array], np.ndarray]:
    """Site -> [R, L, S, W], values of all components; and the metric [R]."""
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
    """bool [L, N + 1, G]: components that the edit changes in any question.

    Those before it, in layers or tokens, are the same to the last bit.
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
        interventions=[edit_at(self.cause.edit, gates), *held],
        capture=capture,
      )
      some = Rows(*(field[at[:count]] for field in rows))
      yield (
        some,
        {site: x[:, :count] for site, x in out.activations.items()},
      )
