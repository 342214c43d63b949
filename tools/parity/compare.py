"""Errors of ours against HF's: of tensors, of predictions, of greedy tokens.

Sums run over the real (non-padding) tokens of all batches, in float64.
"""

from collections.abc import Mapping
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from gemma_jax import VECTOR_SITES
from tools.parity.parity_prompts import Batch

if TYPE_CHECKING:
  from tools.parity.tokenization import Tokenization

# In the order in which a block computes them; "first" below means this order.
COMPUTING_ORDER = (
  'resid_pre',
  'attn_logits',
  'pattern',
  'z',
  'attn_out_raw',
  'attn_out',
  'resid_mid',
  'mlp_act',
  'mlp_out_raw',
  'mlp_out',
  'resid_post',
)
# Both sides write about -1e38 where a query may not see a key.
_CUT = -1e37
# Logits compared at a time, in float64.
_CHUNK_VALUES = 1 << 22


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
  """One token of one row: which prompt, its padding, position and id."""

  prompt: int
  padding: str
  position: int
  token: int
  relative: float


@dataclasses.dataclass(kw_only=True)
class Difference:
  """Errors of one site of one layer, a being ours and b being HF's.

  Attributes:
    max_abs: max |a - b|.
    error: Sum of (a - b)^2; likewise ours of a^2, theirs of b^2, dot of a * b.
    values: How many values were compared.
    cut_edges: attn_logits only: query-key pairs, per head, that one side's
      mask cuts and the other's does not.
    first: The first token whose own relative error is above the gate.
  """

  max_abs: float = 0.0
  error: float = 0.0
  ours: float = 0.0
  theirs: float = 0.0
  dot: float = 0.0
  values: int = 0
  cut_edges: int = 0
  first: Place | None = None

  @property
  def relative(self) -> float:
    """||a - b|| / ||b||."""
    return float(_ratio(np.sqrt(self.error), np.sqrt(self.theirs)))

  @property
  def cosine(self) -> float:
    """Returns the cosine of the angle of a and b; 1 where both are 0."""
    scale = np.sqrt(self.ours) * np.sqrt(self.theirs)
    if scale == 0:
      return 1.0 if self.ours == self.theirs else 0.0
    return float(self.dot / scale)

  def add(self, a, b, batch: Batch, at, gate: float, wrong=None) -> None:
    """Adds values at n tokens of a batch.

    Args:
      a: Ours, [n, W].
      b: HF's, [n, W].
      batch: Where the tokens stand:
      at: [n, 2], their rows and columns.
      gate: A token's relative error above this may be `first`.
      wrong: bool [n], tokens to count as above the gate in any case.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    difference = a - b
    self.max_abs = float(np.maximum(self.max_abs, _max_abs(difference)))
    errors = np.square(difference).sum(1)
    theirs = np.square(b).sum(1)
    self.error += float(errors.sum())
    self.ours += float(np.square(a).sum())
    self.theirs += float(theirs.sum())
    self.dot += float((a * b).sum())
    self.values += a.size
    if self.first is None:
      relative = _ratio(np.sqrt(errors), np.sqrt(theirs))
      above = ~(relative <= gate)  # also where it is not a number
      above = above if wrong is None else above | wrong
      if above.any():
        n = int(above.argmax())
        row, column = at[n]
        self.first = Place(
          prompt=batch.prompts[row],
          padding=batch.paddings[row],
          position=int(batch.positions[row, column]),
          token=int(batch.tokens[row, column]),
          relative=float(relative[n]),
        )


def add_layer(
  differences: dict[str, Difference],
  ours: dict[str, np.ndarray],
  theirs: dict[str, np.ndarray],
  batch: Batch,
  gates: Mapping[str, float],
) -> None:
  """Adds one layer of one batch to its sites' differences.

  Args:
    differences: Site -> sums so far; changed in place.
    ours: Site -> [B, T, W], or [B, N, T, S] for attention's sites.
    theirs: The same.
    batch: Padding in it is left out.
    gates: Site -> relative error above which a token counts as diverged.
  """
  real = batch.real
  at = np.argwhere(real)
  for site in COMPUTING_ORDER:
    a, b = ours[site], theirs[site]
    if a.shape != b.shape:
      raise ValueError(f'{site} has shape {a.shape}, HF has {b.shape}.')
    if site in VECTOR_SITES:
      differences[site].add(a[real], b[real], batch, at, gates[site])
      continue
    a = a.swapaxes(1, 2)[real].reshape(len(at), -1)  # [n, N * S]
    b = b.swapaxes(1, 2)[real].reshape(len(at), -1)
    wrong = None
    if site == 'attn_logits':
      seen_a, seen_b = ~(a < _CUT), ~(b < _CUT)
      unequal = seen_a != seen_b
      differences[site].cut_edges += int(unequal.sum())
      wrong = unequal.any(1)
      both = seen_a & seen_b
      a, b = np.where(both, a, 0), np.where(both, b, 0)
    differences[site].add(a, b, batch, at, gates[site], wrong)


@dataclasses.dataclass(kw_only=True)
class Divergence:
  """KL(p || q) of next-token distributions, in nats: sum, largest, count."""

  total: float = 0.0
  largest: float = 0.0
  count: int = 0

  @property
  def mean(self) -> float:
    return self.total / max(self.count, 1)

  def add(self, log_p: np.ndarray, log_q: np.ndarray) -> None:
    """Log probabilities [n, V]."""
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    self.total += float(kl.sum())
    self.largest = float(np.maximum(self.largest, kl.max(initial=0.0)))
    self.count += len(kl)


@dataclasses.dataclass(kw_only=True)
class Predictions:
  """Logits, losses and next-token distributions of both sides.

  Attributes:
    logits: Their difference.
    scale: max |HF's logits|.
    targets: How many tokens have one before them that predicts them.
    loss_ours: Sum of -log p over the targets, in nats.
    loss_theirs: The same sum, by HF's own loss.
    kl: KL(HF || ours).
    truth_ours: KL(HF in float32 || ours); bfloat16 runs only.
    truth_theirs: KL(HF in float32 || HF in bfloat16); likewise.
  """

  logits: Difference = dataclasses.field(default_factory=Difference)
  scale: float = 0.0
  targets: int = 0
  loss_ours: float = 0.0
  loss_theirs: float = 0.0
  kl: Divergence = dataclasses.field(default_factory=Divergence)
  truth_ours: Divergence = dataclasses.field(default_factory=Divergence)
  truth_theirs: Divergence = dataclasses.field(default_factory=Divergence)

  def add(
    self,
    ours: np.ndarray,
    theirs: np.ndarray,
    loss_theirs: float,
    batch: Batch,
    gate: float,
    truth: np.ndarray | None = None,
  ) -> None:
    """Adds one batch.

    Args:
      ours: Logits, [B, T, V].
      theirs: HF's.
      loss_theirs: The sum of HF's losses.
      batch: Padding in it is left out.
      gate: Relative error above which a token's logits count as diverged.
      truth: HF's logits in float32, where the run is not.
    """
    self.loss_theirs += loss_theirs
    everywhere = np.argwhere(batch.real)
    step = max(1, _CHUNK_VALUES // ours.shape[-1])
    for start in range(0, len(everywhere), step):
      at = everywhere[start : start + step]
      rows, columns = at.T
      a, b = ours[rows, columns], theirs[rows, columns]  # [n, V]
      self.logits.add(a, b, batch, at, gate)
      self.scale = float(np.maximum(self.scale, _max_abs(b)))
      log_a, log_b = log_softmax(a), log_softmax(b)
      self.kl.add(log_b, log_a)
      if truth is not None:
        log_c = log_softmax(truth[rows, columns])
        self.truth_ours.add(log_c, log_a)
        self.truth_theirs.add(log_c, log_b)
      following = np.minimum(columns + 1, batch.tokens.shape[1] - 1)
      has_next = (following > columns) & batch.real[rows, following]
      targets = batch.tokens[rows, following][has_next]
      self.loss_ours -= float(log_a[has_next.nonzero()[0], targets].sum())
      self.targets += len(targets)


@dataclasses.dataclass(kw_only=True)
class Greedy:
  """Greedy tokens: ours at every step of the sequence that HF generates.

  After one different token two generations are no longer comparable, so ours
  is given HF's tokens, one at a time through its KV cache, and asked for its
  arg max at each step. Up to its first disagreement that is what it generates
  by itself.

  Attributes:
    tokens: How many were compared.
    equal: On how many ours and HF agree.
    tied: How many more ours chose that have exactly HF's highest logit:
      bfloat16 logits have 8 bits, and HF takes the first of the tied.
    exact: Rows whose free generations are the same to the end; of `rows`.
    first: Prompt, step, HF's token, ours, and how far below its highest logit
      HF has our token, at the first disagreement.
  """

  tokens: int = 0
  equal: int = 0
  tied: int = 0
  exact: int = 0
  rows: int = 0
  first: dict[str, float] | None = None

  def add(self, ours, theirs, logits, batch: Batch) -> None:
    """Adds ours and theirs, int32 [B, n], and HF's logits [B, n, V]."""
    B, n = theirs.shape
    rows, steps = np.indices((B, n))
    margins = logits[rows, steps, theirs] - logits[rows, steps, ours]
    equal = ours == theirs
    agrees = equal | (margins == 0)
    self.tokens += equal.size
    self.equal += int(equal.sum())
    self.tied += int((agrees & ~equal).sum())
    self.exact += int(equal.all(1).sum())
    self.rows += B
    if self.first is None and not agrees.all():
      row, step = (int(i) for i in np.argwhere(~agrees)[0])
      self.first = {
        'prompt': batch.prompts[row],
        'step': step,
        'hf_token': int(theirs[row, step]),
        'our_token': int(ours[row, step]),
        'margin': float(margins[row, step]),
      }


@dataclasses.dataclass(kw_only=True)
class Comparison:
  """All that one run measures.

  Attributes:
    dtype: Dtype of the run.
    tolerance: Factor on the float32 gates.
    layers: Per layer, site -> difference.
    predictions: At the prompts' tokens.
    greedy: Greedy of what follows them.
    tokenization: Tokenization of the tokenizers, where the checkpoint has one.
  """

  dtype: str
  tolerance: float
  layers: list[dict[str, Difference]]
  predictions: Predictions = dataclasses.field(default_factory=Predictions)
  greedy: Greedy = dataclasses.field(default_factory=Greedy)
  tokenization: 'Tokenization | None' = None

  @classmethod
  def empty(cls, dtype: str, tolerance: float, num_layers: int) -> 'Comparison':
    """Nothing compared yet."""
    layers = [
      {site: Difference() for site in COMPUTING_ORDER}
      for _ in range(num_layers)
    ]
    return cls(dtype=dtype, tolerance=tolerance, layers=layers)


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """Over the last axis, in float64."""
  shifted = logits.astype(np.float64)
  shifted -= shifted.max(-1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _max_abs(x: np.ndarray) -> float:
  return np.abs(x).max(initial=0.0)


def _ratio(error, scale):
  """error / scale; 0 where both are 0."""
  with np.errstate(divide='ignore', invalid='ignore'):
    return np.where(np.asarray(error) == 0, 0.0, error / np.float64(scale))
