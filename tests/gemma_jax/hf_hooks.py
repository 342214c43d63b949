"""PyTorch hooks that change HF Gemma 2 at our sites: the edits' reference."""

import contextlib

import torch

MASKED = torch.finfo(torch.float32).min


@contextlib.contextmanager
def hooked(hf, changes=(), cut=None):
  """Changes activations of an HF model while the context is open.

  Args:
    hf: Gemma2ForCausalLM.
    changes: (site, layer, function of a tensor [B, T, W]) triples.
    cut: Layer -> bool tensor [B, N, T, S] of attention edges to remove.
  """
  handles = []
  with contextlib.ExitStack() as stack:
    for site, layer, change in changes:
      handles += _attach(hf.model.layers[layer], site, change)
    for layer, edges in (cut or {}).items():
      handles.append(
        hf.model.layers[layer].register_forward_pre_hook(
          _cutter(edges), with_kwargs=True
        )
      )
    for handle in handles:
      stack.callback(handle.remove)
    yield


def _attach(block, site, change):
  def on_input(module, args):
    return (change(args[0]), *args[1:])

  def on_output(module, args, output):
    return change(output)

  if site == 'resid_mid':
    # HF keeps the residual apart: write the change into what is added to it.
    entering = []

    def remember(module, args):
      entering[:] = args[:1]

    def add(module, args, output):
      return change(entering[0] + output) - entering[0]

    return [
      block.register_forward_pre_hook(remember),
      block.post_attention_layernorm.register_forward_hook(add),
    ]
  inputs = {
    'resid_pre': block,
    'z': block.self_attn.o_proj,
    'mlp_act': block.mlp.down_proj,
  }
  if site in inputs:
    return [inputs[site].register_forward_pre_hook(on_input)]
  outputs = {
    'attn_out_raw': block.self_attn.o_proj,
    'attn_out': block.post_attention_layernorm,
    'mlp_out_raw': block.mlp,
    'mlp_out': block.post_feedforward_layernorm,
    'resid_post': block,
  }
  return [outputs[site].register_forward_hook(on_output)]


def _cutter(edges):
  def hook(module, args, kwargs):
    mask = kwargs['attention_mask']
    size = (*edges.shape[:2], *mask.shape[2:])
    kwargs['attention_mask'] = mask.expand(size).masked_fill(edges, MASKED)
    return args, kwargs

  return hook
