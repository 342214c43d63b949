"""Next-token losses of a model while something takes a site's place.

  splicer = Splicer(model, 'resid_post', layers=[12])
  sae.check_reads('resid_post', 12)
  measure_fidelity(splicer.runner(12), batches, sae)  # of the package sae

The model runs clean once per batch, which gives the activations x of all
layers asked for; then once per replacement, with replace(x) patched in at one
layer. Only kept tokens are replaced (BOS, EOS and padding stay), and only
losses count where both the token that predicts and the one predicted are kept.
"""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.sae_training.token_activations import Batch
import gemma_jax as gj
from sae.metrics.fidelity import Replacement, Run


class Splicer:
  """Runs a whole model clean and spliced."""

  def __init__(self, model: gj.Decoder, site: str, layers: Sequence[int]):
    """Takes the model and where to splice.

    Raises:
      ValueError: the model is truncated: it has no logits.
    """
    if model.config.truncated_from is not None:
      raise ValueError(
        f'Losses need all {model.config.truncated_from} layers; this model has '
        f'the first {model.config.num_layers}.'
      )
    self._model, self._site, self._layers = model, site, list(layers)
    last = model.config.num_layers - 1
    self._capture = gj.capture(
      site, 'resid_post', layers=list(dict.fromkeys([*layers, last]))
    )
    self._last = gj.capture('resid_post', layers=last)
    self._batch = self._clean = None

  def clean(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Returns activations [S, B, T, W] and losses float32 [B, T], run clean.

    The loss of a token is that of the next one. The last batch's are kept.
    """
    if batch is not self._batch:
      self._batch = self._clean = None
      out = gj.run(
        self._model, batch.tokens, batch.positions, capture=self._capture
      )
      # The last layer is among the captured ones, and not always wanted.
      stream = out['resid_post', self._model.config.num_layers - 1]
      x = out[self._site][: len(self._layers)]
      self._batch = batch
      self._clean = x, gj.token_losses(self._model, stream, batch.tokens)
    return self._clean

  def losses(self, batch: Batch, layer: int, replace: Replacement) -> jax.Array:
    """Returns losses float32 [B, T] with replace(x) in place at a layer."""
    x, clean = self.clean(batch)
    if replace is None:
      return clean
    source = _replaced(replace, x[self._layers.index(layer)])
    patch = gj.patch(
      self._site,
      source,
      layers=layer,
      source_positions=np.where(batch.keep, batch.positions, -1),
    )
    out = gj.run(
      self._model,
      batch.tokens,
      batch.positions,
      interventions=[patch],
      capture=self._last,
    )
    return gj.token_losses(self._model, out['resid_post'][0], batch.tokens)

  def runner(self, layer: int) -> Run:
    """Returns what `sae.fidelity` calls for losses and a mask."""

    def run(batch: Batch, replace: Replacement):
      return self.losses(batch, layer, replace), losses_that_count(batch)

    return run


def losses_that_count(batch: Batch) -> np.ndarray:
  """Returns bool [B, T], true where this token and the next are kept."""
  counts = np.zeros_like(batch.keep)
  counts[:, :-1] = batch.keep[:, :-1] & batch.keep[:, 1:]
  return counts


@jax.jit
def _replaced(replace, x):
  return replace(x)


def own_gradients(
  model: gj.Decoder,
  site: str,
  layers: Sequence[int],
  batch: Batch,
  at: np.ndarray,
) -> tuple[jax.Array, jax.Array]:
  """Returns what moves a token's own prediction, for one token per row.

  Args:
    model: A whole model.
    site: Site of width W.
    layers: S layers of the site.
    batch: Rows of tokens.
    at: int32 [B], the position of the token in each row; the next token is the
      correct one. -1 is none, and gives zeros.

  Returns:
    x [S, B, W], the site there; and the gradient float32 [S, B, W] with respect
    to it of the correct token's logit less the mean of all logits.
  """
  T = batch.tokens.shape[1]
  at = np.asarray(at, np.int32)
  out = gj.run(
    model,
    batch.tokens,
    batch.positions,
    capture=gj.capture(
      site, layers=list(layers), positions=gj.per_row(at[:, None])
    ),
  )
  column = np.argmax(batch.positions == at[:, None], axis=1)
  target = batch.tokens[np.arange(len(at)), np.minimum(column + 1, T - 1)]
  gradient = own_logit_gradient(
    model,
    site,
    np.array(layers, np.int32),
    batch.tokens,
    batch.positions,
    at[:, None],
    target,
  )
  return out[site][:, :, 0], gradient


@functools.partial(jax.jit, static_argnames='site')
def own_logit_gradient(model, site, layers, tokens, positions, at, target):
  """Returns gradients [S, B, W] with respect to x at positions [B, 1]; pure.

  See `own_gradients`. target, int32 [B], is the token that is right after each.
  """

  def correct_logit(added):
    edits = [
      gj.steer(site, direction, layers=layer, positions=gj.per_row(at))
      for direction, layer in zip(added, layers, strict=True)
    ]
    out = gj.forward(
      model,
      tokens,
      positions,
      interventions=edits,
      logits_at=at,
      remat=True,
    )
    logits = out.logits[:, 0]  # [B, V]
    correct = jnp.take_along_axis(logits, target[:, None], axis=1)[:, 0]
    return (correct - logits.mean(axis=1)).sum()  # rows do not see each other

  W = gj.site_width(model.config, site)
  return jax.grad(correct_logit)(jnp.zeros((len(layers), len(at), W)))
