"""The two runs of pairs that a sweep starts from."""

from collections.abc import Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.patching.cells import DIRECTIONS
from experiments.patching.pairs import Pair, pair_tokens
import gemma_jax as gj

# All that a cell can be patched with.
SITES = ('attn_out', 'mlp_out', 'z')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PairRun:
  """Holds one side of all pairs, run without changes.

  Attributes:
    tokens: int32 [n, T]; no padding.
    answers: int32 [n, 2], first tokens of the known and the unknown answer.
    recording: The run's recording, with the activations of SITES.
    difference: float32 [n], logit of the known answer minus the unknown's, at
      the last token.
  """

  tokens: np.ndarray
  answers: np.ndarray
  recording: gj.Recording
  difference: np.ndarray

  @functools.cached_property
  def sources(self) -> dict[str, jax.Array]:
    """Returns site -> [L, n, T, W], what patches take from this run."""
    streams = {'resid_pre': self.recording.stream[:-1]}
    return streams | self.recording.activations


def record_pairs(
  model: gj.Decoder, pairs: Sequence[Pair], direction: str
) -> tuple[PairRun, PairRun]:
  """Records the run that is patched, and the one that activations are from.

  Raises:
    ValueError: there is no such direction.
  """
  if direction not in DIRECTIONS:
    raise ValueError(f'direction is {direction!r}, expected {DIRECTIONS}.')
  tokens = pair_tokens(pairs)
  runs = {
    label: record_run(model, tokens[label], tokens['answers'])
    for label in ('unknown', 'known')
  }
  order = tuple(runs) if direction == 'denoising' else tuple(reversed(runs))
  return runs[order[0]], runs[order[1]]


def record_run(
  model: gj.Decoder, tokens: np.ndarray, answers: np.ndarray
) -> PairRun:
  """Runs rows int32 [n, T] without padding.

  Raises:
    ValueError: what the model computes is not finite.
  """
  recording, difference = _record(model, jnp.asarray(tokens), answers)
  gj.check_finite(difference, model.dtype, 'Differences of logits')
  return PairRun(
    tokens=tokens,
    answers=answers,
    recording=recording,
    difference=np.asarray(difference),
  )


def logit_difference(
  model: gj.Decoder, stream: jax.Array, answers: jax.Array
) -> jax.Array:
  """Returns float32 [n] of the stream [n, T, D] that leaves the last layer."""
  logits = gj.unembed(model, stream[:, -1], answers)
  return logits[:, 0] - logits[:, 1]


@jax.jit
def _record(model, tokens, answers):
  recording = gj.record(model, tokens, sites=SITES)
  return recording, logit_difference(model, recording.stream[-1], answers)
