"""Do SAEs belong to a model? Each must explain what the model's stream does.

An SAE of another model of the same width has latents too, and whatever is found
of them means nothing. Its reconstruction gives it away.

All tokens of a few texts count but the first, whose norm is out of all
proportion in most models. Tokens that are all alike are not enough: where a
chat template ends, the bundled base SAEs have an FVU of up to 16,000 on the
chat model, and rightly so.
"""

from collections.abc import Sequence

import jax
import numpy as np

import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE, reconstruct

# How many texts are run, and how many tokens of each; fewer than so many tokens
# have hardly a variance.
_TEXTS, _TOKENS, _FEWEST = 16, 32, 4
# On prompts about entities the SAEs of the bundled world have 0.007 to 0.018 on
# the base model and 0.02 to 0.04 on the chat model. With D permuted, as another
# model would have it, they have 0.36 to 1.4; two layers off, 0.6 to 3.4, and
# late layers less: neighbouring ones are not told apart.
MOST_FVU = 0.7
# An SAE with many latents explains some of any stream. So it must also leave
# less than this part of what it leaves with D permuted: on the bundled world
# 0.02 to 0.11, and of another model about 1.
MOST_OF_PERMUTED = 0.5
_PERMUTATIONS = 3


def check_fit(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  saes: Sequence[JumpReLUSAE],
  texts: Sequence[str],
  name: str,
) -> list[float]:
  """Returns each SAE's fraction of variance unexplained on some texts.

  It is that of `sae.metrics`: squared error over squared distance from the
  mean. Texts of next to no tokens cannot tell, and give an empty list.

  Args:
    model: Whole, or truncated after the last layer that an SAE reads.
    tokenizer: The model's.
    saes: SAEs that fit the model in site, layer and width.
    texts: Plain texts, without a chat template. A few of them are run.
    name: What errors call the model.

  Raises:
    ValueError: an SAE explains so little that it must be of another model,
      site or layer; or what the model computes is not finite.
  """
  some = texts[:: max(1, len(texts) // _TEXTS)][:_TEXTS]
  rows = [tokenizer.encode(text)[:_TOKENS] for text in some]
  if not rows:
    return []
  batch = gj.pad_rows(rows, model.config.fill_id, side='right')
  counts = batch.positions > 0
  reads = [(sae.origin.site, int(sae.origin.layer)) for sae in saes]
  runs = {
    site: gj.run(
      model,
      *batch,
      capture=gj.capture(
        site, layers=sorted({layer for other, layer in reads if other == site})
      ),
    )
    for site in {site for site, _ in reads}
  }
  found, rng = [], np.random.default_rng(0)
  for sae, (site, layer) in zip(saes, reads, strict=True):
    x = np.asarray(runs[site][site, layer], np.float32)[counts]
    gj.check_finite(x, model.dtype, f'Activations ({site} of layer {layer})')
    if len(x) < _FEWEST:
      continue
    fvu = _fvu(sae.weights(), x)
    permuted = np.mean(
      [
        # The same as the SAE with D permuted, and no second program.
        _fvu(sae.weights(), x[:, rng.permutation(x.shape[1])])
        for _ in range(_PERMUTATIONS)
      ]
    )
    limit = min(MOST_FVU, MOST_OF_PERMUTED * permuted)
    if not fvu <= limit:
      raise ValueError(
        f'{sae.origin} does not fit {name}: at {site} of layer {layer} it '
        f'leaves {fvu:.3g} of the variance unexplained (FVU, over {len(x)} '
        f'tokens); expected at most {limit:.3g}. It is an SAE of another '
        'model, layer or site: check --sae, --layers and --model, and measure '
        'it with python -m experiments.sae_training.evaluate.'
      )
    found.append(fvu)
  return found


def _fvu(weights, x: np.ndarray) -> float:
  error = x - np.asarray(_reconstruct(weights, x))
  return float((error**2).sum() / ((x - x.mean(axis=0)) ** 2).sum())


_reconstruct = jax.jit(reconstruct)
