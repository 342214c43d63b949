"""Which heads and MLPs pass the argument on: path patching of every one.

A *sender* is what a head or an MLP writes at a prompt's last token. It is
replaced by what it writes after corrupted prompts, and only some paths carry
the change on, while the queries, keys and values of all heads stay as they
were:

  direct   the sender's own write into the last stream
  total    MLPs above the sender read the changed stream too

With heads held, the last token sees nothing but itself. So a sender is one
token's way through the MLPs above it: no attention, no other token, no layer
below. All senders of a layer are computed in one call, and all layers share a
program. The direct effect is a closed form. (Section 1.4 of the recall
specification; arXiv 2403.19521 with its code.)

Letters: n prompts, S senders of a layer: its N heads, then its MLP.
"""

from collections.abc import Iterator, Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.trace import (
  Readout,
  Trace,
  batches,
  in_batches,
)
import gemma_jax as gj
from gemma_jax.capture import Capture
from gemma_jax.interventions import prepare
from gemma_jax.model import run_blocks

# Senders times prompts that are computed at once.
ROWS = 2048


def sender_names(config: gj.ModelConfig) -> list[list[str]]:
  """Names [L][N + 1] of all senders: 'L3H5', and 'MLP3'."""
  return [
    [*(f'L{layer}H{head}' for head in range(config.num_heads)), f'MLP{layer}']
    for layer in range(config.num_layers)
  ]


def donors(corrupted: Trace, mean: bool) -> dict[str, np.ndarray]:
  """Returns what senders are replaced by: z and mlp_out, float32 [L, n or 1,
  W].

  Args:
    corrupted: A run of corrupted prompts, read at each one's last token.
    mean: The mean over all of them, as published; else each prompt's own.
  """
  found = {site: corrupted[site] for site in ('z', 'mlp_out')}
  if mean:
    found = {s: x.mean(1, keepdims=True) for s, x in found.items()}
  return found


def published_donors(
  model: gj.Decoder,
  prompts: Prompts,
  corrupted: Prompts,
  pad_id: int,
  rows_per_batch: int = 64,
) -> dict[str, np.ndarray]:
  """Returns the means of the published code, float32 [L, n, W]: of absolute
  positions.

  Rows are padded on the right, padding is read like text, and the mean over all
  rows is taken at each place before that of a prompt's last token is looked up;
  so it mixes last tokens with other ones and with padding.
  """
  tokens, positions = corrupted.whole()
  rows = [t[p >= 0] for t, p in zip(tokens, positions, strict=True)]
  T = max(int(prompts.ends.max()) + 1, *map(len, rows))
  filled = np.full((len(rows), T), pad_id, np.int32)
  for i, row in enumerate(rows):
    filled[i, : len(row)] = row
  sums = {}
  for at in batches(len(rows), rows_per_batch):
    at = np.unique(at)  # each row once
    out = gj.run(model, filled[at], capture=gj.capture('z', 'mlp_out'))
    for site in ('z', 'mlp_out'):
      part = np.asarray(out[site], np.float64).sum(1)  # [L, T, W]
      sums[site] = sums.get(site, 0) + part
  return {
    site: (total[:, prompts.ends] / len(rows)).astype(np.float32)
    for site, total in sums.items()
  }


def direct_effects(
  model: gj.Decoder,
  clean: Trace,
  donor: dict[str, np.ndarray],
  readout: Readout,
) -> np.ndarray:
  """pi(Y) and pi(N) with one sender's write replaced, float64 [L, S, n, 2].

  The last stream is changed by the difference of the two writes, and the final
  norm is computed anew.
  """
  return np.stack(
    [
      readout.pi(clean.final + _write_changes(model, clean, donor, layer))
      for layer in range(model.config.num_layers)
    ]
  )


def _write_changes(model, clean, donor, layer) -> np.ndarray:
  """float64 [S, n, D]: what is added to the stream when senders change.

  With a post-norm, a head that changes changes the scale of all heads.
  """
  config = model.config
  heads = functools.partial(
    gj.head_outputs, model, layer, attn_out_raw=None, post_norm=False
  )
  old, new = heads(clean['z'][layer]), heads(donor['z'][layer])
  raw = clean['attn_out_raw'][layer].astype(np.float64)
  changed = raw[:, None] + new - old  # [n, N, D]
  if config.post_norms:
    one = functools.partial(gj.after_post_norm, model, layer)
    changed = one(changed[:, :, None], changed)[:, :, 0]
    before = one(raw[:, None], raw)
    written = changed - before
  else:
    written = changed - raw[:, None]
  mlp = donor['mlp_out'][layer].astype(np.float64) - clean['mlp_out'][layer]
  return np.concatenate([written.swapaxes(0, 1), mlp[None]])


def total_streams(
  model: gj.Decoder,
  clean: Trace,
  donor: dict[str, np.ndarray],
  prompts: Prompts,
  *,
  layers: Sequence[int] | None = None,
  rows_per_batch: int = ROWS,
) -> Iterator[np.ndarray]:
  """Yields each layer's last streams with one sender replaced, [S, n, D].

  Heads are held at what they wrote in the clean run, MLPs are free.

  Args:
    model: Stacked.
    clean: The run of the prompts.
    donor: From `donors`.
    prompts: n of them.
    layers: The senders' layers; None is all.
    rows_per_batch: Senders times prompts at once; bounds memory.
  """
  config = model.config
  L, N = config.num_layers, config.num_heads
  n = len(prompts)
  size = max(1, rows_per_batch // (N + 1))
  heads = np.eye(N + 1, N, dtype=np.float32)  # the MLP's row patches no head
  for layer in range(L) if layers is None else layers:
    mlps = np.zeros((N + 1, L), np.float32)
    mlps[N, layer] = 1
    yield in_batches(
      lambda rows, layer=layer, mlps=mlps: _through_mlps(
        model,
        *_from_layer(model, clean, prompts, layer, rows),
        *donor_rows(donor, layer, rows),
        heads,
        mlps,
      ),
      n,
      size,
      axis=1,
      dtype=None,
    )


@jax.jit
def _through_mlps(
  model, layer, stream, positions, z, donor_z, donor_mlp, heads, mlps
):
  """Streams [S, n, D] after the last layer, from one layer on.

  Args:
    model: Stacked.
    layer: int32 scalar, the senders'.
    stream: [n, 1, D], what enters it.
    positions: int32 [n, 1].
    z: [L, n, 1, W], at which heads are held.
    donor_z, donor_mlp: [n, 1, W], what senders are replaced by.
    heads: float32 [S, N], the head that each sender is.
    mlps: float32 [S, L], the MLP that each sender is.
  """

  def one(head, mlp):
    changes = replaced_sender(z, layer, donor_z, donor_mlp, head, mlp)
    return _last_streams(model, layer, stream, positions, changes)

  return jax.vmap(one)(heads, mlps)


def donor_rows(donor, layer, rows) -> list[jax.Array]:
  """Returns what a layer's senders are replaced by, z and mlp_out [b, 1, W]."""
  both = [donor[site][layer] for site in ('z', 'mlp_out')]  # [n or 1, W]
  return [jnp.asarray(x[np.minimum(rows, len(x) - 1), None]) for x in both]


def replaced_sender(z, layer, donor_z, donor_mlp, head, mlp) -> list[gj.Change]:
  """Changes that hold all heads and replace one sender; pure.

  Args:
    z: [L, n, 1, W], at which heads are held.
    layer: The sender's.
    donor_z, donor_mlp: [n, 1, W], what it is replaced by.
    head: float32 [N], 1 at the head that it is.
    mlp: float32 [L], 1 at the layer whose MLP it is.
  """
  return [
    gj.patch('z', source=z),
    gj.patch('z', source=donor_z, layers=layer, heads=head),
    gj.patch('mlp_out', source=donor_mlp, layers=mlp),
  ]


def _from_layer(model, clean, prompts, layer, rows) -> tuple:
  """Returns what a run of last tokens from a layer on starts from, heads held.

  The layer, what enters it [n, 1, D], positions [n, 1], and z [L, n, 1, W].
  """
  return (
    jnp.int32(layer),
    jnp.asarray(clean['resid_pre'][layer][rows][:, None], model.dtype),
    jnp.asarray(prompts.ends[rows][:, None]),
    jnp.asarray(clean['z'][:, rows][:, :, None]),
  )


def _last_streams(model, layer, stream, positions, changes):
  """Streams [n, D] after the last layer; stream [n, 1, D] enters a layer."""
  config = model.config
  x, _, _ = run_blocks(
    model,
    stream,
    positions,
    interventions=prepare(changes, config, positions),
    capture=Capture(sites=()),
    first_layer=layer,
    num_layers=config.num_layers,
  )
  return x[:, 0]


def sweep_bytes(config: gj.ModelConfig) -> int:
  """Bytes that a call of `total_streams` holds at most, float32.

  A row's streams and heads (8 D and 4 N H), its MLP (3 F), and the z of all
  layers, which the senders of a prompt share.
  """
  prompts = max(1, ROWS // (config.num_heads + 1))
  heads = config.num_heads * config.head_dim
  row = 8 * config.d_model + 4 * heads + 3 * config.d_ff
  rows = prompts * (config.num_heads + 1)
  return 4 * (rows * row + prompts * config.num_layers * heads)


def streams_with_added(
  model: gj.Decoder,
  clean: Trace,
  prompts: Prompts,
  layer: int,
  vectors: np.ndarray,
  *,
  rows_per_batch: int = ROWS,
) -> np.ndarray:
  """Last streams [S, n, D] with vectors [S, D] or [S, n, D] added to mlp_out.

  At the last token, heads above being held and MLPs free, as for total effects.

  Args:
    model: Stacked.
    clean: The run of the prompts.
    prompts: n of them.
    layer: The MLP's.
    vectors: S of them, for all prompts or for each.
    rows_per_batch: Vectors times prompts at once; bounds memory.
  """
  vectors = np.asarray(vectors, np.float32)
  S, n = len(vectors), len(prompts)
  vectors = np.broadcast_to(
    vectors if vectors.ndim == 3 else vectors[:, None],
    (S, n, vectors.shape[-1]),
  )
  return in_batches(
    lambda rows: _through_with_added(
      model,
      *_from_layer(model, clean, prompts, layer, rows),
      jnp.asarray(vectors[:, rows]),
    ),
    n,
    max(1, rows_per_batch // S),
    axis=1,
    dtype=None,
  )


@jax.jit
def _through_with_added(model, layer, stream, positions, z, vectors):
  """Streams [S, n, D]; vectors [S, n, D], else as `_through_mlps`."""
  held = gj.patch('z', source=z)

  def one(vector):
    changes = [held, gj.steer('mlp_out', vector, layers=layer)]
    return _last_streams(model, layer, stream, positions, changes)

  return jax.vmap(one)(vectors)


def total_effects(
  model: gj.Decoder,
  clean: Trace,
  donor: dict[str, np.ndarray],
  prompts: Prompts,
  readout: Readout,
  **options,
) -> np.ndarray:
  """pi(Y) and pi(N) with one sender replaced, MLPs free, float64 [L, S, n, 2].

  Arguments are those of `total_streams`.
  """
  streams = total_streams(model, clean, donor, prompts, **options)
  return np.stack([readout.pi(each) for each in streams])


def change_in_percent(patched: np.ndarray, clean: np.ndarray) -> np.ndarray:
  """Returns the published effect: 100 (mean patched - mean clean) / mean clean.

  Args:
    patched: pi, [..., n].
    clean: pi, [n].
  """
  return 100 * (patched.mean(-1) - clean.mean()) / clean.mean()
