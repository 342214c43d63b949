"""Language models in JAX: weights, activations, interventions, generation.

  lm = load_model('path, hub id or .gguf')
  out = lm.run(['The city Paris is in'], capture=capture('resid_post'))
  out['resid_post', 12]

See `block.py` for the architecture, `families` for what differs between
models, `sites.py` for names, `where.py` for layers, positions and heads.
"""

from gemma_jax.attribution import (
  PART_SITES,
  Parts,
  after_post_norm,
  direct_logit_attribution,
  head_outputs,
  kl_divergence,
  logit_lens,
  norm_scale,
  read_logit,
  readout,
  readout_bias,
  through_final_norm,
  through_post_norm,
  to_vocabulary,
  token_losses,
)
from gemma_jax.cache import Cache
from gemma_jax.capture import Capture, capture
from gemma_jax.checkpoint.hf import (
  CheckpointReader,
  load_checkpoint,
  save_checkpoint,
)
from gemma_jax.checkpoint.orbax import load_orbax, save_orbax
from gemma_jax.config import ModelConfig, RopeScaling
from gemma_jax.edits import (
  ablate_direction,
  clamp_latents,
  orthonormal_basis,
  scale_latents,
  splice,
  steer,
)
from gemma_jax.families import (
  FAMILIES,
  PRESETS,
  config_fields,
  preset,
  read_config,
)
from gemma_jax.finite import check_finite
from gemma_jax.generate import Generation, Sampling, generate, share_prefix
from gemma_jax.interventions import (
  Change,
  Edit,
  Interventions,
  Knockout,
  Patch,
  Splice,
  stack_rows,
)
from gemma_jax.language_model import (
  Continuation,
  LanguageModel,
  load_model,
  read_tokenizer,
)
from gemma_jax.model import Output, embed, forward, unembed
from gemma_jax.patching import knock_out_attention, patch
from gemma_jax.resuming import Recording, record, resume
from gemma_jax.running import run
from gemma_jax.sharding import initialize_distributed, make_mesh
from gemma_jax.sites import SITES, VECTOR_SITES, parse_site, site_width
from gemma_jax.text.padding import BUCKETS, TokenBatch, pad_rows
from gemma_jax.text.spans import Encoding, Span, TruncationError
from gemma_jax.text.tokenizer import Tokenizer
from gemma_jax.weights import Decoder, init_model, unstack_layers
from gemma_jax.where import Selection, before, layer_window, per_row, since
