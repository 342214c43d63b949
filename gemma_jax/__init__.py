"""Gemma 2 in JAX: weights, activations, interventions, generation.

  model = load_checkpoint('path/or/hub-id')
  out = run(model, tokens, capture=capture('resid_post', layers=12))

See `model.py` and `block.py` for the architecture, `sites.py` for names.
"""

from gemma_jax.cache import Cache
from gemma_jax.capture import Capture, capture
from gemma_jax.checkpoint.hf import (
  CheckpointReader,
  load_checkpoint,
  save_checkpoint,
)
from gemma_jax.checkpoint.orbax import load_orbax, save_orbax
from gemma_jax.config import ModelConfig
from gemma_jax.edits import (
  ablate_direction,
  clamp_latent,
  orthonormal_basis,
  scale_latent,
  steer,
)
from gemma_jax.generate import Generation, Sampling, generate, share_prefix
from gemma_jax.interventions import (
  Edit,
  Interventions,
  Knockout,
  Patch,
  stack_rows,
)
from gemma_jax.model import Output, embed, forward, unembed
from gemma_jax.patching import ablate_heads, knock_out_attention, patch
from gemma_jax.resuming import Recording, record, resume
from gemma_jax.running import last_position, run
from gemma_jax.sharding import initialize_distributed, make_mesh
from gemma_jax.sites import SITES, VECTOR_SITES, parse_site, site_width
from gemma_jax.text.padding import BUCKETS, TokenBatch, pad_rows
from gemma_jax.text.spans import Encoding, TruncationError
from gemma_jax.text.tokenizer import Tokenizer
from gemma_jax.weights import Decoder, init_model, unstack_layers
from gemma_jax.where import before, layer_window, since
