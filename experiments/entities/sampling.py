"""What all that samples answers has in common: lengths, seeds, speed."""

import hashlib
import json

import jax

import gemma_jax as gj

# Lengths of prompts are rounded up to these, so that programs are few.
PROMPT_BUCKETS = (16, 24, 32, 48, 64, 96, *gj.BUCKETS[3:])


def fast(model: gj.Decoder) -> gj.Decoder:
  """Returns the model as it generates fastest here: unstacked on a CPU."""
  if jax.default_backend() == 'cpu' and model.is_stacked:
    return gj.unstack_layers(model)
  return model


def seed_of(*parts: int | str) -> int:
  """Returns 32 bits of a hash of what a sample is to depend on."""
  digest = hashlib.sha256(json.dumps(parts).encode()).digest()
  return int.from_bytes(digest[:4], 'big')
