"""A float16 model whose stream overflows is refused wherever it is read."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.activations import (
  gather,
  latent_activations,
  latents_at_positions,
  stream_scores,
)
from experiments.attention.edges import Edges
from experiments.attention.knockouts import knock_out
from experiments.attention.windows import parse_heads, parse_windows
from experiments.factual_recall.trace import outcomes
from experiments.latents.firing import stream_firing
from experiments.patching.runs import record_run
import gemma_jax as gj
from tests.experiments import worlds
from tests.experiments.activations import small
from tests.experiments.attention import small as attention

SAID = 'not finite (NaN or infinity). The model runs in float16'


def overflowing(model: gj.Decoder) -> gj.Decoder:
  """The same in float16, with a layer that writes more than that holds."""
  weights = {k: w.astype(jnp.float16) for k, w in model.weights().items()}
  weights['post_mlp_norm'] = weights['post_mlp_norm'].at[0].set(6e4)
  return gj.Decoder(model.config, weights)


@pytest.mark.parametrize(
  'read',
  [
    lambda m, rows, saes: gather(m, 'resid_post', [1, 3], rows),
    lambda m, rows, saes: latents_at_positions(m, [(saes[0], 0)], rows),
    lambda m, rows, saes: latent_activations(m, [(saes[0], 0)], rows),
    lambda m, rows, saes: stream_firing(m, saes, rows),
    lambda m, rows, saes: stream_scores(m, saes, rows, [0] * len(rows), 1),
  ],
  ids=['gather', 'latents', 'every token', 'firing', 'scores'],
)
def test_readers_of_streams_and_latents(read):
  with pytest.raises(ValueError, match=re.escape(SAID)):
    read(overflowing(worlds.model()), small.rows(), small.saes()[1:2])


def test_patching():
  tokens = np.arange(12).reshape(2, 6)
  with pytest.raises(ValueError, match=re.escape(SAID)):
    record_run(overflowing(worlds.model()), tokens, np.array([[1, 2], [3, 4]]))


def test_knockouts():
  model, cases = overflowing(attention.model()), attention.cases()
  with pytest.raises(ValueError, match=re.escape(SAID)):
    knock_out(
      model,
      cases,
      [Edges('last', 'entity')],
      parse_windows([1], model.config),
      parse_heads(['all'], model.config),
      [case.answer_tokens for case in cases],
    )


def test_outcomes_of_last_streams():
  model = worlds.model()
  streams = np.ones((3, model.config.d_model), np.float32)
  streams[2, 4] = np.inf
  with pytest.raises(ValueError, match='Streams of row 2 are not finite'):
    outcomes(model, streams, np.array([1, 2, 3]))
