"""PyTorch hooks on HF's models at our sites, where the families' tables say.

They are the reference of captures and of edits.
"""

import contextlib

import torch

import gemma_jax as gj
from tests import tiny

MASKED = torch.finfo(torch.float32).min


@contextlib.contextmanager
def hooked(hf, changes=(), cut=None):
  """Changes activations of an HF model while the context is open.

  Args:
    hf: A causal language model of a family of ours.
    changes: (site, layer, function of a tensor [B, T, W]) triples. OPT has no B
      inside a layer: there B is 1.
    cut: Layer -> bool tensor [B, N, T, S] of attention edges to remove.
  """
  family = gj.FAMILIES[hf.config.model_type]
  blocks = hf.get_submodule(family.layers)
  with contextlib.ExitStack() as stack:
    for site, layer, change in changes:
      for handle in _attach(family, blocks[layer], site, change):
        stack.callback(handle.remove)
    for layer, edges in (cut or {}).items():
      attention = family.modules['attn_out_raw'].removesuffix('.output')
      handle = (
        blocks[layer]
        .get_submodule(attention)
        .register_forward_pre_hook(_cutter(edges), with_kwargs=True)
      )
      stack.callback(handle.remove)
    yield


def activations(hf, tokens, positions):
  """HF's output, and site -> [L, B, T, W]."""
  family = gj.FAMILIES[hf.config.model_type]
  seen = {site: [] for site in family.modules}
  with contextlib.ExitStack() as stack:
    for block in hf.get_submodule(family.layers):
      for site, name in family.modules.items():

        def keep(x, site=site):
          x = x.reshape(len(tokens), -1, x.shape[-1])
          seen[site].append(x.numpy().copy())

        stack.callback(_at(block, name, keep).remove)
    out = tiny.hf_forward(hf, tokens, positions, output_attentions=True)
  return out, seen


def _attach(family, block, site, change):
  if site != 'resid_mid':
    return [_at(block, family.modules[site], change)]
  # HF keeps the residual apart: write the change into what is added to it.
  entering = []

  def remember(x):
    entering[:] = [x]

  def add(x):
    return change(entering[0] + x) - entering[0]

  return [
    _at(block, 'input', remember),
    *_attach(family, block, 'attn_out', add),
  ]


def _at(block, name, change):
  """Calls `change` with a module's input or output; None leaves it."""
  path, _, end = name.rpartition('.')
  module = block.get_submodule(path)

  def changed(values):
    values = values if isinstance(values, tuple) else (values,)
    x = values[0]
    new = change(x if x.ndim == 3 else x[None])
    return x if new is None else new.reshape(x.shape), values[1:]

  def on_input(module, args):
    new, others = changed(args)
    return (new, *others)

  def on_output(module, args, output):
    new, others = changed(output)
    return (new, *others) if isinstance(output, tuple) else new

  if end == 'input':
    return module.register_forward_pre_hook(on_input)
  return module.register_forward_hook(on_output)


def _cutter(edges):
  def hook(module, args, kwargs):
    mask = kwargs['attention_mask']
    size = (*edges.shape[:2], *mask.shape[2:])
    kwargs['attention_mask'] = mask.expand(size).masked_fill(edges, MASKED)
    return args, kwargs

  return hook
