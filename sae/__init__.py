"""JumpReLU sparse autoencoders: loaded, trained, measured, exported.

  sae = load_sae('gemma-scope-2b-pt-res', 'layer_12/width_16k/average_l0_82')
  latents = sae.encode(activations)

See `jumprelu.py` for what an SAE computes. This package knows no language
model: whoever calls it brings activations.
"""

from sae.folding import fold, normalise_decoder
from sae.jumprelu import (
  JumpReLUSAE,
  Latents,
  Origin,
  Weights,
  decode,
  encode,
)
