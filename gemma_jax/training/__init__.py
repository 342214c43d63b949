"""Training of decoders: what to learn from, what to minimise, and how.

  data = pack(examples, length=128, pad_id=0)

  def loss(weights, batch):
    return completion_loss(as_model(weights, config), batch)

  weights, records = fit(
    loss,
    model.weights(),
    lambda step: draw(data, step, rows=16),
    FitConfig(steps=300, learning_rate=1e-5),
    snapshot='work/tuned.safetensors',
    name='Tuning',
  )

See `packing.py` for rows, `losses.py` for what is minimised, `fit.py` for the
updates, `lora.py` for adapters and `peft.py` for their files.
"""

from gemma_jax.training.fingerprint import fingerprint
from gemma_jax.training.fit import FitConfig, Weights, fit
from gemma_jax.training.lora import LORA_TARGETS, LoraConfig, init_lora, merge
from gemma_jax.training.losses import (
  as_model,
  completion_loss,
  completion_sums,
  dpo_loss,
  next_token_loss,
  sequence_logprobs,
  token_logprobs,
)
from gemma_jax.training.packing import (
  Example,
  Packed,
  Pairs,
  draw,
  pack,
  pack_pairs,
)
from gemma_jax.training.peft import load_peft, save_peft
