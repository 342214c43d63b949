"""With jax_enable_x64, which a user's own program may set, nothing changes."""

import contextlib
import io
import os
import subprocess
import sys

_PROGRAM = """
import numpy as np
import gemma_jax as gj
from sae.training.recipe import TrainConfig
from sae.training.train import train
from tests.gemma_jax.checkpoints import CONFIG
from tools.make_checkpoint import random_model

model = random_model(CONFIG)
tokens = np.arange(8).reshape(2, 4)
steer = gj.steer('resid_post', np.ones(CONFIG.d_model), layers=1)
made = gj.generate(
  *(model, tokens), max_new_tokens=3, interventions=[steer],
  sampling=gj.Sampling(temperature=1.0, top_k=5, top_p=0.9), samples=2,
)
print(made.tokens.dtype, made.logprobs.dtype, made.tokens.tolist())
out = gj.run(model, tokens, capture=gj.capture('resid_post', layers=[1]))
print(out['resid_post', 1].dtype)
config = TrainConfig(
  width=8, num_steps=4, batch_size=8, bucket_size=16, warmup_steps=2,
  decay='linear', decay_steps=2, sparsity_warmup_steps=2, target_l0=2.0,
)
rows = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
trained = train(config, [rows], progress=False)
print({str(each.dtype) for each in trained.sae.weights()})
print(round(trained.metrics[0][0]['loss'], 4))
"""


def test_generation_and_sae_training_are_as_without_x64():
  here = io.StringIO()
  with contextlib.redirect_stdout(here):
    exec(_PROGRAM, {})
  there = subprocess.run(
    [sys.executable, '-c', _PROGRAM],
    env=os.environ | {'JAX_ENABLE_X64': '1'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert there.returncode == 0, there.stderr[-2000:]
  assert there.stdout == here.getvalue()
  assert 'float32' in there.stdout and 'float64' not in there.stdout
