"""JumpReLU sparse autoencoders: loaded, trained, measured, exported.

  sae = load_sae('gemma-scope-2b-pt-res', 'layer_12/width_16k/average_l0_82')
  latents = sae.encode(activations)
  trained = train(TrainConfig(width=16384, num_steps=100_000), activations)

See `jumprelu.py` for what an SAE computes, `training/recipe.py` and
`training/update.py` for how one is trained. This package knows no language
model: whoever calls it brings activations.
"""

from sae.folding import fold, normalise_decoder
from sae.formats.gemma_scope import save_gemma_scope
from sae.formats.loading import load_sae
from sae.formats.releases import RELEASES, ReleasedSAE, list_saes, resolve
from sae.formats.sae_lens import save_sae_lens
from sae.jumprelu import (
  JumpReLUSAE,
  Latents,
  Origin,
  Weights,
  decode,
  encode,
)
from sae.metrics.evaluation import METRIC_VERSION, Metrics, evaluate, summarise
from sae.metrics.fidelity import (
  Ablate,
  Fidelity,
  RatioEstimate,
  Reconstruct,
  compare_losses,
  measure_fidelity,
  ratio_estimate,
  sequence_losses,
)
from sae.metrics.metric_sums import Sums, add_batch, init_sums, merge_sums
from sae.metrics.uniformity import Uniformity, mean_uniformity
from sae.straight_through import count_firings, heaviside, jumprelu
from sae.training.activation_buffer import ActivationBuffer, ActivationsEnded
from sae.training.logs import read_metrics
from sae.training.monitor import TrainingDiverged
from sae.training.recipe import TrainConfig
from sae.training.train import Trained, train
