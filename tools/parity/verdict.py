"""The gates: which errors are float noise, and which are bugs.

float32. Two correct implementations differ by the order of their sums, and the
difference grows with depth and with the size of the weights. Measured on random
models of 26 to 46 layers, d_model 256 and 512, matrices of standard deviation
1 / sqrt(D): streams 2e-6 to 8e-6 relative, other sites up to 1.3e-5, logits up
to 6e-5 where HF's reach 6; and HF itself is as far from a float64 run as ours
is (2.4e-6 each after 24 layers). On real models ours is further than HF from a
float64 run, 2.5e-6 against 1.25e-6 in the last stream of SmolLM2-135M and
2.6e-6 against 1.1e-6 in Gemma 3 270M: XLA's products on a CPU sum their terms
one after another (relative error 4.3e-7 at 576 terms and 8.1e-7 at 2048, where
NumPy has 3e-7). The largest of their 2 to 19 million logits is off by 1.6e-4
where HF's reach 45, and by 3.7e-4 where they reach 55. Bugs are far away: a
window or a query scale that is off, or one wrong norm, jumps to 1e-3 or more at
one site. The gates: streams within 1e-5, relative, at every layer; sublayers
and attention, which put the stream through products and nonlinearities, within
3e-5; logits within 1e-4 absolute where HF's reach no more than 10, and beyond
that within the streams' 1e-5 of HF's largest; the loss within 1e-4; all greedy
tokens equal. (Logits were once to be within 1e-4 up to 30, which both real
models miss: float noise is proportional to the logits.) Matrices 2.3 times as
large amplify float noise to 2e-5 in 26 layers: for such models --tolerance=10
widens these gates, greedy excepted. An error that has no jump, only growth, is
noise; the report shows the error just before the first divergence.

bfloat16. Both sides are 1e-2 away from the truth and no closer to each other,
so the distance between them proves nothing. What can be asked is that ours is
no further from the truth than HF's own rounding is: over all positions, the
mean KL(HF in float32 || ours) may be at most KL_RATIO times the mean KL(HF in
float32 || HF in bfloat16) of the same prompts. Measured on 16 random models (4
to 24 layers, weights of standard deviation 0.02 to 0.3, 126 positions), HF's
mean was 2e-6 to 4e-4 nats, and ours 0.5 to 1.0 times that; over a single
position, up to 1.7 times. A window off by one costs 95 to 1200 times HF's
mean, a query scale of 16^-0.5 for 20^-0.5 2.7 to 30 times (1.0 where the scores
are so small that attention is uniform). One norm that is 10 % too large, at
0.7 to 2.7 times, is mostly invisible in bfloat16: check in float32 first.

At least 95 % of greedy tokens have to be equal; the measured models had 97.7 %
to 100 %. A token that HF's own rounding ties with its choice counts as equal.
Sites are shown, not gated. In both dtypes, masks have to cut exactly the same
query-key pairs.

Tokenizers have to agree on every text of hostile.py, but for one meant
difference: a literal BOS that starts a text is ours, and HF adds another.
"""

from collections.abc import Iterator
import dataclasses
from typing import TYPE_CHECKING

from tools.parity.compare import COMPUTING_ORDER, Comparison, Difference

if TYPE_CHECKING:
  from tools.parity.tokenization import Tokenization

STREAMS = ('resid_pre', 'resid_mid', 'resid_post')
STREAM_GATE, SITE_GATE = 1e-5, 3e-5
LOGITS_GATE, LOGITS_SCALE = 1e-4, 10.0
LOSS_GATE = 1e-4
KL_RATIO = 2.0
# Where bfloat16 costs HF almost nothing, a ratio of costs says nothing.
KL_FLOOR = 1e-6
GREEDY_GATE = {'float32': 1.0, 'bfloat16': 0.95}
# bfloat16's sites have no gate; beyond this, one is where a failed run points.
BFLOAT16_POINTER = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
  """One requirement: its name, whether it holds, and the numbers."""

  name: str
  passed: bool
  value: float
  bound: float
  text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Divergence:
  """Says where the sides part.

  Attributes:
    layer: None for the logits.
    site: Its name.
    difference: The errors there.
    before: Relative error of the site computed just before; a bug jumps.
  """

  layer: int | None
  site: str
  difference: Difference
  before: float


def site_gates(dtype: str, tolerance: float) -> dict[str, float]:
  """Site, 'logits' too -> relative error above which it counts as diverged."""
  if dtype != 'float32':
    return dict.fromkeys((*COMPUTING_ORDER, 'logits'), BFLOAT16_POINTER)
  gates = dict.fromkeys((*COMPUTING_ORDER, 'logits'), SITE_GATE * tolerance)
  return gates | dict.fromkeys(STREAMS, STREAM_GATE * tolerance)


def judge(comparison: Comparison) -> list[Gate]:
  """Returns the gates of a run; it passes if all of them do."""
  gates = [_masks(comparison)]
  if comparison.dtype == 'float32':
    gates += [
      _sites(comparison, 'streams', STREAMS),
      _sites(comparison, 'sites', set(COMPUTING_ORDER) - set(STREAMS)),
      _logits(comparison),
      _loss(comparison),
    ]
  else:
    gates.append(_kl(comparison))
  gates.append(_greedy(comparison))
  if comparison.tokenization is not None:
    gates.append(_tokenizer(comparison.tokenization))
  return gates


def first_divergence(comparison: Comparison) -> Divergence | None:
  """Returns the first site, as computed, that is above its gate, if any."""
  gates = site_gates(comparison.dtype, comparison.tolerance)
  before = 0.0
  for layer, site, difference in all_sites(comparison):
    if not difference.relative <= gates[site] or difference.cut_edges:
      return Divergence(
        layer=layer, site=site, difference=difference, before=before
      )
    before = difference.relative
  logits = comparison.predictions.logits
  if comparison.dtype == 'float32':
    diverged = not _logits(comparison).passed
  else:
    diverged = not logits.relative <= gates['logits']
  if not diverged:
    return None
  return Divergence(layer=None, site='logits', difference=logits, before=before)


def all_sites(comparison: Comparison) -> Iterator[tuple[int, str, Difference]]:
  """Layer, site, difference, in the order of computation."""
  for layer, sites in enumerate(comparison.layers):
    for site in COMPUTING_ORDER:
      yield layer, site, sites[site]


def worst(values) -> object:
  """Returns the item with the largest first entry; NaN wins."""
  return max(values, key=lambda item: (item[0] != item[0], item[0]))


def _masks(comparison: Comparison) -> Gate:
  differing = sum(d.cut_edges for _, _, d in all_sites(comparison))
  edges = sum(layer['attn_logits'].values for layer in comparison.layers)
  return Gate(
    name='masks',
    passed=differing == 0,
    value=differing,
    bound=0,
    text=f'{differing:,} of {edges:,} query-key pairs cut on one side only',
  )


def _sites(comparison: Comparison, name: str, sites) -> Gate:
  relative, layer, site = worst(
    (difference.relative, layer, site)
    for layer, site, difference in all_sites(comparison)
    if site in sites
  )
  bound = site_gates(comparison.dtype, comparison.tolerance)[site]
  return Gate(
    name=name,
    passed=relative <= bound,
    value=relative,
    bound=bound,
    text=f'worst relative error {relative:.1e} (layer {layer} {site}); '
    f'at most {bound:.0e}',
  )


def _logits(comparison: Comparison) -> Gate:
  predictions = comparison.predictions
  bound = LOGITS_GATE * max(1.0, predictions.scale / LOGITS_SCALE)
  bound *= comparison.tolerance
  value = predictions.logits.max_abs
  return Gate(
    name='logits',
    passed=value <= bound,
    value=value,
    bound=bound,
    text=f"largest error {value:.1e} where HF's reach "
    f'{predictions.scale:.3g}; at most {bound:.1e}',
  )


def _loss(comparison: Comparison) -> Gate:
  predictions = comparison.predictions
  targets = max(predictions.targets, 1)
  ours, theirs = predictions.loss_ours, predictions.loss_theirs
  value = abs(ours - theirs) / targets
  bound = LOSS_GATE * comparison.tolerance
  return Gate(
    name='loss',
    passed=value <= bound,
    value=value,
    bound=bound,
    text=f'difference {value:.1e} nats per token; at most {bound:.0e}',
  )


def _kl(comparison: Comparison) -> Gate:
  predictions = comparison.predictions
  value, noise = predictions.truth_ours.mean, predictions.truth_theirs.mean
  bound = KL_RATIO * noise + KL_FLOOR
  return Gate(
    name='KL',
    passed=value <= bound,
    value=value,
    bound=bound,
    text=f'{value:.1e} nats from HF in float32, HF itself {noise:.1e}; '
    f'at most {bound:.1e}',
  )


def _greedy(comparison: Comparison) -> Gate:
  greedy = comparison.greedy
  agree = greedy.equal + greedy.tied
  value, bound = agree / greedy.tokens, GREEDY_GATE[comparison.dtype]
  tied = f', {greedy.tied} of them tied in HF' if greedy.tied else ''
  return Gate(
    name='greedy',
    passed=value >= bound,
    value=value,
    bound=bound,
    text=f'{value:.1%} of {greedy.tokens:,} tokens equal{tied}; '
    f'at least {bound:.0%}',
  )


def _tokenizer(tokenization: 'Tokenization') -> Gate:
  different = len(tokenization.different)
  text = f'{different} of {tokenization.texts} texts have other tokens'
  if tokenization.merged_bos:
    text += f', {tokenization.merged_bos} more by the merging of a literal BOS'
  return Gate(
    name='tokenizer',
    passed=not different,
    value=different,
    bound=0,
    text=text,
  )
