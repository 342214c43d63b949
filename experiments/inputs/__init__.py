"""What an experiment works on: models, SAEs, entities, text.

`models.py` and `saes.py` say what flags name, `corpus.py` what text a model
reads, and `study_inputs.py` what studies of chosen latents share.
"""

from experiments.inputs.models import (
  BASE,
  BUNDLE,
  BUNDLED,
  CHAT,
  ENTITIES,
  SAES,
  define_chat_model,
  define_entities,
  define_model,
  open_chat_model,
  open_model,
  open_named,
  read_tokenizer,
  resolve_path,
  short_name,
)
from experiments.inputs.saes import (
  SAESpec,
  choose_saes,
  define_saes,
  sae_fingerprint,
  sae_fingerprints,
  saes_by_layer,
)
