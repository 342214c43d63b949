"""A model that is steered, and what its answers then begin with.

Every arm is a direction and a dose, added at the tokens of the entity's name;
all arms of all prompts are rows of batches, by one program. `match` finds the
doses at which directions move the model equally far. A *dose* is the norm of
what is added, in units of the mean norm of the stream there, in that model.

Letters: n prompts, J directions, D width of the stream.
"""

from collections.abc import Sequence
import dataclasses
import math
import os

import jax
import jax.numpy as jnp
import numpy as np

from experiments.refusal_tuning.asked import Asked, streams
import gemma_jax as gj

# How far from the same divergence directions may be, as a share of it.
TOLERANCE = 0.1
# Below this a divergence, in nats, is rounding.
_LEAST_KL = 1e-5
# Directions are pushed up to this dose, in so many steps. Beyond it the stream
# is little but the direction, and divergence grows no more.
_LARGEST_DOSE, _STEPS = 16.0, 12


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FirstTokens:
  """Holds what the answer begins with, after each of some arms.

  Attributes:
    refusal: float64 [arms, n], the probability of a token that begins one.
    refuses: bool [arms, n], whether the likeliest token does.
    kl: float64 [arms, n], KL(unchanged || arm) of that token, in nats.
  """

  refusal: np.ndarray
  refuses: np.ndarray
  kl: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Steered:
  """A model that is steered at one site and layer, on n prompts.

  Attributes:
    model: Stacked.
    asked: The prompts.
    site, layer: Where directions are added.
    refusals: Tokens that a refusal begins with.
    norm: Mean norm of the stream there, at the names' last tokens.
    unchanged: float32 [n, D], the last stream of the prompts as they are.
    prefix: What all prompts begin with, before any name; or None.
    batch: Their other tokens, n rows, at absolute positions.
    rows_per_batch: Rows run at once.
  """

  model: gj.Decoder
  asked: Asked
  site: str
  layer: int
  refusals: tuple[int, ...]
  norm: float
  unchanged: np.ndarray
  prefix: gj.Cache | None
  batch: gj.TokenBatch
  rows_per_batch: int

  @classmethod
  def of(
    cls,
    model: gj.Decoder,
    asked: Asked,
    site: str,
    layer: int,
    refusals: Sequence[int],
    rows_per_batch: int = 256,
  ) -> 'Steered':
    """Runs the prompts as they are.

    Raises:
      ValueError: there is no token of a refusal, or one outside the vocabulary.
    """
    refusals = tuple(sorted(set(refusals)))
    V = model.config.vocab_size
    if not refusals or not 0 <= refusals[0] <= refusals[-1] < V:
      raise ValueError(
        f'Refusals begin with the tokens {refusals}, expected one or more of '
        f'0 to {V - 1}.'
      )
    x = streams(model, asked, [layer], asked.name_ends, site=site)[0]
    last = streams(model, asked, [model.config.num_layers - 1], asked.ends)[0]
    shared = len(os.path.commonprefix(asked.ids))
    shared = min(shared, int(asked.spans[:, 0].min()))
    tokens, positions = gj.pad_rows(
      [ids[shared:] for ids in asked.ids],
      model.config.fill_id,
      side='right',
      buckets=int(asked.ends.max()) + 1 - shared,
    )
    positions = np.where(positions < 0, -1, positions + shared)
    return cls(
      model=model,
      asked=asked,
      prefix=gj.share_prefix(model, asked.ids[0][:shared]) if shared else None,
      batch=gj.TokenBatch(tokens, positions),
      site=site,
      layer=layer,
      refusals=refusals,
      norm=float(np.linalg.norm(x, axis=1).mean(dtype=np.float64)),
      unchanged=last,
      rows_per_batch=rows_per_batch,
    )

  def read(self, directions: np.ndarray, doses: np.ndarray) -> FirstTokens:
    """Returns what each arm does.

    Args:
      directions: float [arms, D], of any norm but 0.
      doses: float [arms]; 0 is the model as it is.
    """
    directions = np.asarray(directions, np.float32)
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    arms, n = len(units), len(self.asked)
    # Halves of the largest batch: few programs.
    size = self.rows_per_batch
    while size // 2 >= arms * n:
      size //= 2
    at = np.arange(self.asked.ends.max() + 1)
    start, stop = self.asked.spans.T[:, :, None]
    # A mask over positions: names have different lengths.
    names = ((at >= start) & (at < stop)).astype(np.float32)
    parts = []
    for first in range(0, arms * n, size):
      rows = np.minimum(np.arange(first, first + size), arms * n - 1)
      arm, prompt = np.divmod(rows, n)
      edit = gj.steer(
        self.site,
        units[arm],
        layers=self.layer,
        coefficient=np.asarray(doses, np.float32)[arm] * self.norm,
        positions=gj.per_row(names[prompt]),
      )
      out = gj.run(
        self.model,
        self.batch.tokens[prompt],
        self.batch.positions[prompt],
        interventions=[edit],
        prefix=self.prefix,
        capture=gj.capture(
          'resid_post',
          layers=self.model.config.num_layers - 1,
          positions='last',
        ),
      )
      parts.append(
        _first_tokens(
          self.model,
          out['resid_post'][0, :, 0],
          jnp.asarray(self.unchanged[prompt], self.model.dtype),
          jnp.asarray(self.refusals),
        )
      )
    refusal, refuses, kl = (
      np.concatenate([np.asarray(part) for part in each])[: arms * n]
      for each in zip(*parts, strict=True)
    )
    shaped = lambda x, dtype: x.astype(dtype).reshape(arms, n)
    return FirstTokens(
      refusal=shaped(refusal, float),
      refuses=shaped(refuses, bool),
      kl=shaped(kl, float),
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Matched:
  """Random latents at the divergence of a target.

  Attributes:
    doses: float64 [J].
    matched: bool [J], whether the mean divergence is the target's.
    found: FirstTokens of J arms, at these doses.
  """

  doses: np.ndarray
  matched: np.ndarray
  found: FirstTokens


def match(
  steered: Steered,
  directions: np.ndarray,
  target: float,
  start: float | np.ndarray,
  tolerance: float = TOLERANCE,
) -> Matched:
  """Finds the dose at which each direction moves the model as far as a target.

  Secant steps on log KL against log dose, inside a bracket that is halved where
  a step leaves it; the first slope is 2, that of small doses.

  Args:
    steered: A model on its prompts.
    directions: float [J, D].
    target: Mean KL over the prompts, in nats.
    start: First dose, or [J].
    tolerance: A dose is good if its KL is the target's within this share.
  """
  J = len(directions)
  if target <= _LEAST_KL:  # so does nothing
    return Matched(
      doses=np.zeros(J),
      matched=np.ones(J, bool),
      found=steered.read(directions, np.zeros(J)),
    )
  if not J:
    nothing = np.zeros((0, len(steered.asked)))
    return Matched(
      doses=np.zeros(0),
      matched=np.zeros(0, bool),
      found=FirstTokens(
        refusal=nothing, refuses=nothing.astype(bool), kl=nothing
      ),
    )
  x = np.broadcast_to(np.log(start), (J,)).copy()
  low, high = np.full(J, -np.inf), np.full(J, np.inf)
  best, doses, found = np.full(J, np.inf), np.exp(x), None
  before = np.full((2, J), np.nan)
  todo = np.arange(J)
  for _ in range(_STEPS):
    now = steered.read(directions[todo], np.exp(x[todo]))
    found = now if found is None else found
    y = np.log(np.maximum(now.kl.mean(1), 1e-12)) - math.log(target)
    better = np.abs(y) < best[todo]
    _put(found, todo[better], now, better)
    doses[todo[better]] = np.exp(x[todo[better]])
    best[todo[better]] = np.abs(y[better])
    missed = np.abs(np.expm1(y)) > tolerance
    missed &= (x[todo] < math.log(_LARGEST_DOSE)) | (y > 0)  # else out of reach
    todo, y = todo[missed], y[missed]
    if not todo.size:
      break
    at = x[todo]
    low[todo] = np.where(y < 0, np.maximum(low[todo], at), low[todo])
    high[todo] = np.where(y >= 0, np.minimum(high[todo], at), high[todo])
    step = at - np.clip(y / _slope(at, y, before[:, todo]), -1.5, 1.5)
    bracketed = np.isfinite(low[todo]) & np.isfinite(high[todo])
    middle = np.where(bracketed, low[todo], 0) / 2
    middle += np.where(bracketed, high[todo], 0) / 2
    inside = (low[todo] < step) & (step < high[todo])
    step = np.where(inside | ~bracketed, step, middle)
    before[:, todo] = at, y
    x[todo] = np.minimum(step, math.log(_LARGEST_DOSE))
  mean = found.kl.mean(1)
  return Matched(
    doses=doses,
    matched=np.abs(mean / target - 1) <= tolerance,
    found=found,
  )


def _slope(x, y, before) -> np.ndarray:
  """Returns d log KL / d log dose at each latent's last points."""
  run = x - before[0]
  able = np.isfinite(run) & (run != 0)
  rise = (y - before[1]) / np.where(able, run, 1)
  return np.where(able & (rise > 0), np.clip(rise, 0.5, 8), 2.0)


def _put(found: FirstTokens, arms, new: FirstTokens, which):
  """Writes some arms of one into the other, in place."""
  for field in dataclasses.fields(FirstTokens):
    getattr(found, field.name)[arms] = getattr(new, field.name)[which]


@jax.jit
def _first_tokens(model, streams, unchanged, refusals):
  """Returns what `FirstTokens` has, [B] each, of last streams [B, D]."""
  q = jax.nn.log_softmax(gj.unembed(model, streams))
  p = jax.nn.log_softmax(gj.unembed(model, unchanged))
  greedy = q.argmax(-1)
  return (
    jnp.exp(jax.nn.logsumexp(q[:, refusals], axis=-1)),
    (greedy[:, None] == refusals).any(-1),
    jnp.maximum((jnp.exp(p) * (p - q)).sum(-1), 0),
  )
