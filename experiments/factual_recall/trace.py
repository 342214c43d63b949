"""What a run of a task's prompts leaves at their last tokens.

Every step of the study starts from one such run: streams, heads' outputs and
attention's pattern where the answer is about to come. Letters: n prompts, L
layers, N heads, and those of the library.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.factual_recall.task_prompts import Prompts
import gemma_jax as gj
from gemma_jax.layers import soft_cap

SITES = (
  'resid_pre',
  'z',
  'attn_out_raw',
  'attn_out',
  'resid_mid',
  'mlp_out',
  'resid_post',
)
# Logits of so many bytes are held at a time.
_LOGITS_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
  """A run of n prompts, read at each one's last token.

  Attributes:
    activations: Site -> float32 [L, n, W], those of SITES.
    pattern: float32 [L, n, N, S], the last token's attention to every slot.
    key_positions: int32 [n, S], the slots' positions; -1 is padding.
  """

  activations: dict[str, np.ndarray]
  pattern: np.ndarray
  key_positions: np.ndarray

  def __getitem__(self, site: str) -> np.ndarray:
    """float32 [L, n, W]."""
    return self.activations[site]

  @property
  def final(self) -> np.ndarray:
    """float32 [n, D], the stream that is unembedded."""
    return self.activations['resid_post'][-1]

  def take(self, rows: np.ndarray) -> 'Trace':
    """Returns the outcomes of some of the prompts."""
    return Trace(
      activations={site: x[:, rows] for site, x in self.activations.items()},
      pattern=self.pattern[:, rows],
      key_positions=self.key_positions[rows],
    )

  def attention_to(self, spans: np.ndarray) -> np.ndarray:
    """float32 [L, n, N], attention to positions [start, stop) of each row."""
    inside = self.key_positions >= spans[:, :1]
    inside &= self.key_positions < spans[:, 1:]
    return (self.pattern * inside[None, :, None]).sum(-1)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Readout:
  """Says how a last stream is read: logits less their mean over the vocabulary.

  pi(Y) of Lv et al. (section 1.3): the answer's logit less the mean logit,
  before the soft cap; it does not see a constant added to all logits.

  Attributes:
    model: Unembeds.
    answer: float64 [n, D], the direction of each prompt's answer.
    name: float64 [n, D], that of its subject's first token.
    answer_bias: float64 [n].
    name_bias: float64 [n].
  """

  model: gj.Decoder
  answer: np.ndarray
  name: np.ndarray
  answer_bias: np.ndarray
  name_bias: np.ndarray

  @classmethod
  def of(cls, model: gj.Decoder, answers, names, mean=None) -> 'Readout':
    """Returns the readout of tokens, int [n] each.

    Args:
      model: Unembeds.
      answers: The answers' first tokens.
      names: The subjects' first tokens.
      mean: From `mean_readout`, which reads the whole unembedding; None makes
        it.
    """
    mean, bias = mean_readout(model) if mean is None else mean
    return cls(
      model=model,
      answer=gj.readout(model, answers) - mean,
      name=gj.readout(model, names) - mean,
      answer_bias=gj.readout_bias(model, answers) - bias,
      name_bias=gj.readout_bias(model, names) - bias,
    )

  def take(self, rows: np.ndarray) -> 'Readout':
    """Returns the part of some of the prompts."""
    return dataclasses.replace(
      self,
      answer=self.answer[rows],
      name=self.name[rows],
      answer_bias=self.answer_bias[rows],
      name_bias=self.name_bias[rows],
    )

  def pi(self, streams: np.ndarray) -> np.ndarray:
    """float64 [..., n, 2], pi(Y) and pi(N), of streams [..., n, D]."""
    both = (
      gj.read_logit(self.model, streams, self.answer, self.answer_bias),
      gj.read_logit(self.model, streams, self.name, self.name_bias),
    )
    return np.stack(both, axis=-1)


def mean_readout(model: gj.Decoder) -> tuple[np.ndarray, float]:
  """Returns the mean of all tokens' readouts, float64 [D], and of
  their biases.
  """
  V, step = model.config.vocab_size, 8192
  direction, bias = 0.0, 0.0
  for start in range(0, V, step):
    tokens = np.arange(start, min(V, start + step))
    direction = direction + gj.readout(model, tokens).sum(0)
    bias += float(gj.readout_bias(model, tokens).sum())
  return direction / V, bias / V


def trace(
  model: gj.Decoder,
  prompts: Prompts,
  *,
  rows_per_batch: int = 128,
  interventions: gj.Interventions | None = None,
) -> Trace:
  """Runs all prompts.

  Args:
    model: Stacked.
    prompts: n of them.
    rows_per_batch: How many are run at once; bounds memory.
    interventions: Changes to the run, the same for every row.
  """
  prefix = prompts.share_prefix(model)

  def run(rows):
    out = gj.run(
      model,
      prompts.tokens[rows],
      prompts.positions[rows],
      interventions=interventions,
      capture=gj.capture(*SITES, 'pattern', positions='last'),
      prefix=prefix,
    )
    found = {site: out[site][:, :, 0] for site in SITES}
    return found | {'pattern': out['pattern'][:, :, :, 0]}

  found = in_batches(run, len(prompts), rows_per_batch, axis=1)
  P = len(prompts.prefix)
  before = np.broadcast_to(np.arange(P), (len(prompts), P))
  return Trace(
    pattern=found.pop('pattern'),
    activations=found,
    key_positions=np.concatenate([before, prompts.positions], axis=1),
  )


def batches(count: int, size: int) -> Iterator[np.ndarray]:
  """Yields numbers of rows, int [b] each: the last row fills up the last batch.

  What is computed of them is to be cut to `count`.
  """
  parts = -(-count // size)
  size = -(-count // max(1, parts))  # as even as possible
  for start in range(0, count, max(1, size)):
    yield np.minimum(np.arange(start, start + size), count - 1)


def in_batches(
  function: Callable, count: int, size: int, *, axis: int = 0, dtype=np.float32
):
  """Returns a function's arrays of all rows, computed in `batches`.

  Args:
    function: Returns an array, or several, of some rows, int [b].
    count: How many rows there are.
    size: Most rows at a time; bounds memory.
    axis: The arrays' axis of rows.
    dtype: Data type of what is returned; None is that of the function.
  """
  parts = [
    jax.tree.map(lambda x: np.asarray(x, dtype), function(rows))
    for rows in batches(count, size)
  ]
  return jax.tree.map(
    lambda *each: np.split(np.concatenate(each, axis), [count], axis)[0],
    *parts,
  )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
  """Holds what the model says after m last streams.

  Attributes:
    log_prob: float32 [m], of the answer, in nats.
    says: bool [m], whether the likeliest token is the answer.
    top: int32 [m], the likeliest token.
    top_log_prob: float32 [m], of that token.
    pi: float32 [m], the answer's logit less the mean, after the soft cap.
    entropy: float32 [m], of the next token, in nats.
  """

  log_prob: np.ndarray
  says: np.ndarray
  top: np.ndarray
  top_log_prob: np.ndarray
  pi: np.ndarray
  entropy: np.ndarray

  @property
  def prob(self) -> np.ndarray:
    """float32 [m], of the answer."""
    return np.exp(self.log_prob)


def outcomes(
  model: gj.Decoder,
  streams: np.ndarray,
  answers: np.ndarray,
  scale: np.ndarray | None = None,
) -> Outcomes:
  """Returns what the model says after streams, unembedded a few at a time.

  Args:
    model: Unembeds.
    streams: float [m, D], last streams.
    answers: int [m].
    scale: float [m], what the final norm divides by, from `gj.norm_scale` of
      other streams; None is the streams' own.
  """
  given = [streams, answers] if scale is None else [streams, answers, scale]
  found = by_logits(_outcomes, model, *given)
  return Outcomes(**found, says=found['top'] == answers)


def by_logits(
  function: Callable, model: gj.Decoder, *given: np.ndarray, held: int = 0
):
  """Calls a function that makes logits, for as many rows as memory allows.

  Args:
    function: A function of the model and of some rows of what is given.
    model: Unembeds.
    *given: Arrays [m, ...].
    held: Bytes of logits that are held at a time; 0 is 256 MB.

  Returns:
    What the function returns, an array [m, ...] or several, of all rows.

  Raises:
    ValueError: what is given first, streams, is not finite.
  """
  gj.check_finite(given[0], model.dtype, 'Streams')
  m = len(given[0])
  rows_held = (held or _LOGITS_BYTES) // (4 * model.config.vocab_size)
  return in_batches(
    lambda rows: function(model, *(jnp.asarray(each[rows]) for each in given)),
    m,
    max(1, min(m, rows_held)),
    dtype=None,
  )


def _outcomes(model, streams, answers, scale=None):
  if scale is None:
    return _read_stream(model, streams, answers)
  # The logits, had the final norm divided by another number.
  logits = gj.to_vocabulary(model, streams, scale=scale)
  if model.final_norm_b is not None:
    logits += gj.to_vocabulary(model, model.final_norm_b[...], gain=False)
  return _read_logits(soft_cap(logits, model.config.final_softcap), answers)


@jax.jit
def _read_stream(model, streams, answers):
  return _read_logits(gj.unembed(model, streams), answers)


@jax.jit
def _read_logits(logits, answers):
  log_probs = jax.nn.log_softmax(logits)
  take = functools.partial(
    jnp.take_along_axis, indices=answers[:, None], axis=1
  )
  return {
    'log_prob': take(log_probs)[:, 0],
    'top': logits.argmax(-1),
    'top_log_prob': log_probs.max(-1),
    'pi': take(logits)[:, 0] - logits.mean(-1),
    'entropy': -(jnp.exp(log_probs) * log_probs).sum(-1),
  }
