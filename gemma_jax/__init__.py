"""Gemma 2 in JAX: weights, activations, interventions, generation.

  model = load_checkpoint('path/or/hub-id')
  out = run(model, tokens, capture=capture('resid_post', layers=12))

See `model.py` and `block.py` for the architecture, `sites.py` for names.
"""

from gemma_jax.cache import Cache
from gemma_jax.captures import Capture, capture
from gemma_jax.checkpoint import (
  CheckpointReader,
  load_checkpoint,
  save_checkpoint,
)
from gemma_jax.config import Gemma2Config
from gemma_jax.gates import before, layer_window, since
from gemma_jax.generate import Generation, Sampling, generate, share_prefix
from gemma_jax.instruments import (
  ablate_direction,
  clamp_latent,
  orthonormal_basis,
  scale_latent,
  steer,
)
from gemma_jax.interventions import (
  Edit,
  Interventions,
  Knockout,
  Patch,
  stack_rows,
)
from gemma_jax.model import Output, embed, forward, unembed
from gemma_jax.orbax_checkpoint import load_orbax, save_orbax
from gemma_jax.padding import BUCKETS, TokenBatch, pad_rows
from gemma_jax.patching import ablate_heads, knock_out_attention, patch
from gemma_jax.resuming import Recording, record, resume
from gemma_jax.running import last_position, run
from gemma_jax.sharding import initialize_distributed, make_mesh
from gemma_jax.sites import SITES, VECTOR_SITES, parse_site, site_width
from gemma_jax.spans import Encoding, TruncationError
from gemma_jax.tokenizer import Tokenizer
from gemma_jax.weights import Gemma2, init_model, unstack_layers
