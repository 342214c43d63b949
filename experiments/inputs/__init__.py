"""What an experiment works on: models, SAEs, entities, text.

`settings.py` has the flags that studies share, `models.py` and `saes.py` say
what they name, `corpus.py` what text a model reads, and `study_inputs.py` what
studies of chosen latents share.
"""

from experiments.inputs.models import (
  BASE,
  BUNDLE,
  BUNDLED,
  CHAT,
  ENTITIES,
  RARE,
  SAES,
  TEXT,
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
  sae_fingerprint,
  sae_fingerprints,
  saes_by_layer,
)
