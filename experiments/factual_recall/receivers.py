"""Path patching into a later component: who writes what a head or MLP reads?

A sender (path_patching.py) is replaced at the last token; the change reaches
the receiver's input there, heads in between being held and MLPs in between
being free; the receiver computes its output from that input; and from the
receiver on, everything is free. A receiver is named as senders are: 'L9H8' is
a head, whose query, key and value at the last token all change, 'MLP10' an MLP.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np

from experiments.factual_recall.path_patching import donor_rows, replaced_sender
from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.trace import Readout, Trace, batches
import gemma_jax as gj
from gemma_jax.capture import Capture
from gemma_jax.interventions import prepare
from gemma_jax.model import run_blocks

_NAME = re.compile(r'L(\d+)H(\d+)|MLP(\d+)')


def parse_receiver(text: str, config: gj.ModelConfig) -> tuple[int, int | None]:
  """Layer and head of a receiver; no head is the MLP.

  Raises:
    ValueError: the text names no head or MLP of the model.
  """
  match = _NAME.fullmatch(text)
  layer = match and int(match[1] or match[3])
  head = int(match[2]) if match and match[2] else None
  if not match or layer >= config.num_layers or (head or 0) >= config.num_heads:
    raise ValueError(
      f'{text!r} is no receiver; expected L0H0 to L{config.num_layers - 1}H'
      f'{config.num_heads - 1}, or MLP0 to MLP{config.num_layers - 1}.'
    )
  return layer, head


def effects_through(
  model: gj.Decoder,
  receiver: tuple[int, int | None],
  clean: Trace,
  donor: dict[str, np.ndarray],
  prompts: Prompts,
  readout: Readout,
  *,
  rows_per_batch: int = 16,
) -> np.ndarray:
  """pi(Y) and pi(N) with a sender replaced for one receiver's eyes alone.

  Args:
    model: Stacked.
    receiver: From `parse_receiver`.
    clean: The run of the prompts.
    donor: From `path_patching.donors`.
    prompts: n of them.
    readout: Readout of the same prompts.
    rows_per_batch: Prompts at once, each with all senders of a layer.

  Returns:
    float64 [layers, N + 1, n, 2]: of the layers that have a sender before the
    receiver. An MLP's own layer is the last of them, where its MLP is not a
    sender and leaves pi as it is; so do a head's own layer's.
  """
  config = model.config
  layer, head = receiver
  L, N, n = config.num_layers, config.num_heads, len(prompts)
  senders = layer + (head is None)  # heads of an MLP's layer come before it
  tokens, positions = prompts.whole()
  found = np.empty((senders, N + 1, n, 2))
  heads = np.eye(N + 1, N, dtype=np.float32)
  for rows in batches(n, rows_per_batch):
    recording = gj.record(
      model, jnp.asarray(tokens[rows]), jnp.asarray(positions[rows])
    )
    for sender in range(senders):
      mlps = np.zeros((N + 1, L), np.float32)
      mlps[N, sender] = sender < layer
      streams = _through(
        model,
        recording,
        jnp.int32(sender),
        jnp.int32(layer),
        jnp.asarray(clean['z'][:, rows][:, :, None]),
        *donor_rows(donor, sender, rows),
        heads,
        mlps,
        head=head,
      )
      found[sender][:, rows] = readout.take(rows).pi(np.asarray(streams))
  return found


@functools.partial(jax.jit, static_argnames='head')
def _through(
  model, recording, sender, layer, z, donor_z, donor_mlp, heads, mlps, *, head
):
  """Last streams [S, n, D]; arguments as in path_patching._through_mlps."""
  config = model.config
  slot = recording.positions.shape[1] - 1  # rows are padded on the left
  positions = recording.positions[:, slot:]
  read = 'resid_pre' if head is not None else 'resid_mid'
  written = 'z' if head is not None else 'mlp_out'
  only = None if head is None else [head]
  at = jnp.reshape(layer, (1,))
  resume = functools.partial(
    gj.resume, model, recording, layer=layer, slot=slot
  )

  def one(sender_head, mlp):
    changes = replaced_sender(z, sender, donor_z, donor_mlp, sender_head, mlp)
    _, seen, _ = run_blocks(
      model,
      recording.stream[sender, :, slot:],
      positions,
      interventions=prepare(changes, config, positions),
      capture=Capture(sites=(read,), layers=at),
      first_layer=sender,
      num_layers=layer + 1,
    )
    reads = [gj.patch(read, source=seen[read][0], layers=layer)]
    _, wrote = resume(
      interventions=reads, capture=Capture(sites=(written,), layers=at)
    )
    x, _ = resume(
      interventions=[
        gj.patch(written, source=wrote[written][0], layers=layer, heads=only)
      ]
    )
    return x[:, 0]

  return jax.vmap(one)(heads, mlps)
