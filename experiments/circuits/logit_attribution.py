"""Direct logit attribution: whose output the metric is made of, exactly.

The last stream is a sum: the embedding, every head's and every MLP's output,
and what an edit adds. A head's output passes W_O, and then the post-norm, which
divides by the root mean square of all heads' sum: held at its value in that
run, the norm is linear, and heads add up to attn_out. So is the final norm. The
parts of a run add up to its metric, before the soft cap, to rounding; the
differences of two runs' parts to the difference of their metrics.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from experiments.circuits.metric import Pairs, readout
from experiments.circuits.tracing import LatentEdit, at_gates, reaches_last
from experiments.steering import Question, steered_positions
import gemma_jax as gj

_SITES = (
  'resid_pre',
  'z',
  'attn_out_raw',
  'attn_out',
  'resid_mid',
  'mlp_out',
  'resid_post',
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LastToken:
  """Parts of the stream at the last token of questions, float64.

  Attributes:
    embedding: [Q, D], the stream that enters the first layer.
    heads: [Q, L, N, D], what each head adds to the stream.
    raw_heads: [Q, L, N, D], each head's output before the post-norm.
    mlps: [Q, L, D], what each MLP adds to the stream.
    edit: [Q, D], what the edit adds here; 0 if it is elsewhere.
    stream: [Q, D], the last resid_post.
  """

  embedding: np.ndarray
  heads: np.ndarray
  raw_heads: np.ndarray
  mlps: np.ndarray
  edit: np.ndarray
  stream: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Attribution:
  """Parts of the metric, float64.

  Attributes:
    embedding: [Q], the embedding's part.
    heads: [Q, L, N], each head's part.
    mlps: [Q, L], each MLP's part.
    edit: [Q], the edit's part.
    metric: [Q], the metric of the stream itself.
  """

  embedding: np.ndarray
  heads: np.ndarray
  mlps: np.ndarray
  edit: np.ndarray
  metric: np.ndarray

  @property
  def sum(self) -> np.ndarray:
    """Returns the sum of all parts, [Q]: `metric`, but for rounding."""
    return (
      self.embedding
      + self.heads.sum(axis=(1, 2))
      + self.mlps.sum(axis=1)
      + self.edit
    )


def last_token(
  model: gj.Decoder,
  questions: Sequence[Question],
  edit: LatentEdit,
  *,
  edited: bool,
  rows_per_batch: int = 64,
) -> LastToken:
  """Runs questions and takes their last token's stream apart.

  Args:
    model: The weights, stacked.
    questions: Q questions.
    edit: The edit.
    edited: True to run them with the edit.
    rows_per_batch: Number of rows that are run at once.
  """
  config = model.config
  T = max(question.length for question in questions)
  parts = []
  for start in range(0, len(questions), rows_per_batch):
    some = questions[start : start + rows_per_batch]
    count = len(some)
    some = [*some, *[some[-1]] * (min(rows_per_batch, len(questions)) - count)]
    tokens, positions = gj.pad_rows(
      [question.ids for question in some],
      config.fill_id,
      side='right',
      buckets=T,
    )
    gates = np.zeros((len(some), T), np.float32)
    for gate, question in zip(gates, some, strict=True):
      gate[slice(*steered_positions(edit.positions, question))] = edited
    out = gj.run(
      model,
      tokens,
      positions,
      interventions=[at_gates(edit.change, gates)],
      capture=gj.capture(*_SITES, positions='last'),
    )
    parts.append(
      {
        site: np.asarray(x, np.float64)[:, :count, 0]  # [L, b, W]
        for site, x in out.activations.items()
      }
    )
  found = {
    site: np.concatenate([part[site] for part in parts], axis=1).swapaxes(0, 1)
    for site in _SITES
  }
  here = [reaches_last(edit.positions, question) for question in questions]
  return _taken_apart(model, found, edit, np.array(here) & edited)


def _taken_apart(model, x, edit, edited) -> LastToken:
  """Returns the parts of the stream.

  Args:
    model: The weights.
    x: Site -> activations [Q, L, W].
    edit: The edit.
    edited: bool [Q], whether the edit adds to the last token.
  """
  raw, heads = [], []
  for layer in range(model.config.num_layers):
    z, out = x['z'][:, layer], x['attn_out_raw'][:, layer]
    raw.append(gj.head_outputs(model, layer, z, out, post_norm=False))
    heads.append(gj.after_post_norm(model, layer, raw[-1], out))
  layer = edit.id.layer
  before = {
    'resid_pre': x['resid_post'][:, layer - 1]
    if layer
    else x['resid_pre'][:, 0],  # an edit of the embedding is part of it
    'resid_mid': x['resid_pre'][:, layer] + x['attn_out'][:, layer],
    'resid_post': x['resid_mid'][:, layer] + x['mlp_out'][:, layer],
  }
  added = x[edit.id.site][:, layer] - before[edit.id.site]
  return LastToken(
    embedding=x['resid_pre'][:, 0],
    heads=np.stack(heads, axis=1),
    raw_heads=np.stack(raw, axis=1),
    mlps=x['mlp_out'],
    edit=np.where(edited[:, None], added, 0),
    stream=x['resid_post'][:, -1],
  )


def attribute(model: gj.Decoder, parts: LastToken, pairs: Pairs) -> Attribution:
  """Returns each part's share of the metric."""
  directions = readout(model, pairs)  # [Q, D]
  scaled = directions / gj.norm_scale(model.config, parts.stream)[:, None]
  return Attribution(
    embedding=np.einsum('QD,QD->Q', parts.embedding, scaled),
    heads=np.einsum('QLND,QD->QLN', parts.heads, scaled),
    mlps=np.einsum('QLD,QD->QL', parts.mlps, scaled),
    edit=np.einsum('QD,QD->Q', parts.edit, scaled),
    metric=gj.read_logit(model, parts.stream, directions),
  )


def project(
  model: gj.Decoder, parts: LastToken, layer: int, head: int, mode: str
) -> np.ndarray:
  """Returns a head's output as logits, float32 [Q, V] (paper.md, 6.4; Table 7).

  Args:
    model: The weights.
    parts: Parts of a run.
    layer, head: The head.
    mode: 'default' is what the head adds to the logits before the soft cap:
      behind its post-norm, divided by the final norm's root mean square.
      'reference', as published, is its output before the post-norm, times the
      final norm's gain, not divided.
  """
  if mode == 'reference':
    return np.asarray(gj.to_vocabulary(model, parts.raw_heads[:, layer, head]))
  scale = gj.norm_scale(model.config, parts.stream)
  x = parts.heads[:, layer, head]
  return np.asarray(gj.to_vocabulary(model, x, scale=scale))


def top_tokens(
  tokenizer: gj.Tokenizer, logits: np.ndarray, k: int
) -> list[tuple[str, float]]:
  """Returns the k tokens with the largest of logits [V], as text."""
  best = np.argsort(-logits, kind='stable')[:k]
  names = tokenizer.token_strings(best)
  return [(name, float(logits[t])) for name, t in zip(names, best, strict=True)]
