"""HF transformers' side: eager Gemma 2, every site read through hooks.

The modules, masks, KV cache and generation loop are HF's own, whether the
weights are all in memory or streamed: then the model is built on torch's meta
device, a hook before each layer reads that layer's weights, and a hook after
it drops them.
"""

from collections.abc import Callable, Iterator
import contextlib
import json
import math
import pathlib

import numpy as np
import safetensors
import torch
import transformers
from transformers.models.gemma2 import modeling_gemma2 as hf

from tools.parity.prompts import Batch

# Site -> submodule of a layer, and whether it is its input or its output.
_HOOKS = {
  'resid_pre': ('', 'input'),
  'z': ('self_attn.o_proj', 'input'),
  'attn_out_raw': ('self_attn', 'output'),
  'attn_out': ('post_attention_layernorm', 'output'),
  'resid_mid': ('pre_feedforward_layernorm', 'input'),
  'mlp_act': ('mlp.down_proj', 'input'),
  'mlp_out_raw': ('mlp', 'output'),
  'mlp_out': ('post_feedforward_layernorm', 'output'),
  'resid_post': ('', 'output'),
}


class Reference:
  """A checkpoint as HF transformers runs it."""

  def __init__(
    self,
    folder: pathlib.Path,
    dtype: str,
    stream: bool = False,
    on_layer: Callable[[], None] = lambda: None,
  ):
    """Loads the folder.

    Args:
      folder: With config.json and safetensors files.
      dtype: 'float32' or 'bfloat16'; the weights are loaded in it directly. A
        cast afterwards would keep the embedding's scale rounded to the first
        dtype.
      stream: Hold one layer's weights at a time.
      on_layer: Called whenever a layer has been computed.

    Raises:
      ValueError: HF does not find a weight for every parameter.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    self._dtype = getattr(torch, dtype)
    self._seen: dict[str, np.ndarray] | None = None
    self._on_sites: Callable[[dict[str, np.ndarray]], None] | None = None
    if stream:
      self._model = _streamed(folder, self._dtype)
    else:
      self._model, info = hf.Gemma2ForCausalLM.from_pretrained(
        folder,
        dtype=self._dtype,
        attn_implementation='eager',
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
      )
      if wrong := {key: names for key, names in info.items() if names}:
        raise ValueError(f'{folder}: transformers reports {wrong}.')
    self._model.eval()
    # Nothing but arg max, and no end: not even what the folder asks for.
    self._model.generation_config = transformers.GenerationConfig(
      do_sample=False, pad_token_id=self._model.config.pad_token_id
    )
    for layer in self._model.model.layers:
      for site, (name, side) in _HOOKS.items():
        self._read(site, layer.get_submodule(name), side)
      # After the hook of resid_post: hooks run in the order they are added.
      layer.register_forward_hook(self._layer_done)
    self._count = on_layer

  def run(
    self,
    batch: Batch,
    on_sites: Callable[[dict[str, np.ndarray]], None] | None = None,
  ) -> tuple[np.ndarray, float]:
    """One forward pass over whole rows.

    Args:
      batch: Tokens and positions.
      on_sites: Called after each layer, in order, with every site's value as
        float32: [B, T, W], or [B, N, T, S] for attention's. They are not kept.

    Returns:
      Logits, float32 [B, T, V], and the sum of HF's own next-token losses (the
      negative log likelihood of every real token but the first of each row).
    """
    real = torch.from_numpy(batch.real)
    tokens = torch.from_numpy(batch.tokens).long()
    targets = batch.positions > 0
    n_targets = int(targets.sum())
    labels = torch.where(torch.from_numpy(targets), tokens, -100)
    self._on_sites = on_sites
    self._seen = None if on_sites is None else {}
    try:
      with torch.no_grad(), _softmax_calls(self._read_softmax):
        out = self._model(
          input_ids=tokens,
          attention_mask=real.long(),
          position_ids=torch.from_numpy(batch.positions).long().clamp(min=0),
          labels=labels if n_targets else None,
          use_cache=False,
        )
    finally:
      self._on_sites = self._seen = None
    loss = float(out.loss) * n_targets if n_targets else 0.0
    return _numpy(out.logits), loss

  def generate(
    self, batch: Batch, num_tokens: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Exactly `num_tokens` greedy tokens after each left-padded row.

    Returns:
      The tokens int32 [B, num_tokens], and the logits that each was chosen
      from, float32 [B, num_tokens, V].
    """
    with torch.no_grad():
      out = self._model.generate(
        input_ids=torch.from_numpy(batch.tokens).long(),
        attention_mask=torch.from_numpy(batch.real).long(),
        max_new_tokens=num_tokens,
        # With a window of 1, HF's cache means to keep 0 keys, and keeps all.
        use_cache=self._model.config.sliding_window > 1,
        output_logits=True,
        return_dict_in_generate=True,
      )
    tokens = out.sequences[:, batch.tokens.shape[1] :]
    logits = np.stack([_numpy(step) for step in out.logits], axis=1)
    return tokens.numpy().astype(np.int32), logits

  def _read(self, site: str, module: torch.nn.Module, side: str):
    """Has a hook on `module` note its value."""

    def note(value):
      if self._seen is not None:
        value = value[0] if isinstance(value, tuple) else value
        self._seen[site] = _numpy(value)

    if side == 'input':
      module.register_forward_pre_hook(lambda _, args: note(args))
    else:
      module.register_forward_hook(lambda _, args, value: note(value))

  def _read_softmax(self, scores, pattern):
    if self._seen is not None:
      self._seen['attn_logits'] = _numpy(scores)
      self._seen['pattern'] = _numpy(pattern)

  def _layer_done(self, *_):
    if self._on_sites is not None:
      self._on_sites(self._seen)
      self._seen = {}
    self._count()


def _numpy(value: torch.Tensor) -> np.ndarray:
  """A copy in float32, which holds every bfloat16 exactly."""
  return value.detach().float().numpy().copy()


@contextlib.contextmanager
def _softmax_calls(record: Callable) -> Iterator[None]:
  """Shows `record` the input and output of every softmax.

  Eager attention returns its pattern but not the scores; it calls this
  function once per layer, and nothing else in the model calls it.
  """
  original = torch.nn.functional.softmax

  def recorded(scores, *args, **kwargs):
    pattern = original(scores, *args, **kwargs)
    record(scores, pattern)
    return pattern

  torch.nn.functional.softmax = recorded
  try:
    yield
  finally:
    torch.nn.functional.softmax = original


def _streamed(folder: pathlib.Path, dtype: torch.dtype):
  """HF's model with its layers' weights left on disk until they are used."""
  config = transformers.Gemma2Config.from_pretrained(folder)
  with torch.device('meta'):
    model = hf.Gemma2ForCausalLM._from_config(
      config, dtype=dtype, attn_implementation='eager'
    )
  files = _tensor_files(folder)

  def load(module, prefix):
    names = [name for name in module.state_dict() if name != 'lm_head.weight']
    tensors = {name: _tensor(files, prefix + name, dtype) for name in names}
    module.load_state_dict(tensors, strict=True, assign=True)

  # The buffers that no file holds.
  model.model.rotary_emb = hf.Gemma2RotaryEmbedding(config)
  load(model.model.embed_tokens, 'model.embed_tokens.')
  model.model.embed_tokens.embed_scale = torch.tensor(
    math.sqrt(config.hidden_size), dtype=dtype
  )
  load(model.model.norm, 'model.norm.')
  model.lm_head.weight = model.model.embed_tokens.weight
  for number, layer in enumerate(model.model.layers):
    empty = layer.state_dict()
    prefix = f'model.layers.{number}.'
    layer.register_forward_pre_hook(
      lambda module, _, prefix=prefix: load(module, prefix)
    )
    layer.register_forward_hook(
      lambda module, *_, empty=empty: _drop(module, empty)
    )
  return model


def _drop(layer: torch.nn.Module, empty) -> None:
  """Puts a layer back on the meta device; returns None, as a hook must."""
  layer.load_state_dict(empty, assign=True)


def _tensor_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Which file each tensor is in. Names were checked when ours was loaded."""
  path = folder / 'model.safetensors'
  if path.is_file():
    with safetensors.safe_open(path, 'pt') as file:
      return dict.fromkeys(file.keys(), path)
  index = folder / 'model.safetensors.index.json'
  names = json.loads(index.read_text(encoding='utf-8'))['weight_map']
  return {tensor: folder / name for tensor, name in names.items()}


def _tensor(files, name: str, dtype: torch.dtype) -> torch.Tensor:
  with safetensors.safe_open(files[name], 'pt') as file:
    return file.get_tensor(name).to(dtype)
