"""HF transformers' side: eager attention, every site read through hooks.

Which module holds a site is in the tables of `gemma_jax.families`. The modules,
masks, KV cache and generation loop are HF's own, whether the weights are all in
memory or streamed: then the model is built on torch's meta device, a hook
before each layer reads that layer's weights, and a hook after it drops them.
"""

from collections.abc import Callable, Iterator
import contextlib
import importlib.util
import itertools
import json
import pathlib

import numpy as np
import safetensors
import torch
import transformers

from gemma_jax import CheckpointReader
from gemma_jax.checkpoint.hf_format import LM_HEAD, find_prefix
from gemma_jax.families import Family, family_of
from tools.parity.parity_prompts import Batch


class Reference:
  """A checkpoint as HF transformers runs it."""

  def __init__(
    self,
    reader: CheckpointReader,
    dtype: str,
    stream: bool = False,
    on_layer: Callable[[], None] = lambda: None,
  ):
    """Loads HF's model.

    Args:
      reader: Says where the checkpoint is, and of which family. The weights
        are read by HF.
      dtype: 'float32' or 'bfloat16'; the weights are loaded in it directly. A
        cast afterwards would keep the embedding's scale rounded to the first
        dtype.
      stream: Hold one layer's weights at a time.
      on_layer: Called whenever a layer has been computed.

    Raises:
      ImportError: the checkpoint is a .gguf file, and what HF reads it with is
        not installed.
      ValueError: HF does not find a weight for every parameter, or the
        checkpoint cannot be streamed.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    self._seen: dict[str, np.ndarray] | None = None
    self._on_sites: Callable[[dict[str, np.ndarray]], None] | None = None
    self._shape = (0, 0)
    family, self._window = family_of(reader.config), reader.config.window
    load = _streamed if stream else _loaded
    self._model = load(reader, getattr(torch, dtype)).eval()
    # Nothing but arg max, and no end: not even what the folder asks for.
    self._model.generation_config = transformers.GenerationConfig(
      do_sample=False, pad_token_id=reader.config.fill_id
    )
    for layer in _layers(self._model, family):
      for site, place in family.modules.items():
        name, _, side = f'.{place}'.rpartition('.')
        self._read(site, layer.get_submodule(name[1:]), side)
      # After the hook of resid_post: hooks run in the order they are added.
      layer.register_forward_hook(self._layer_done)
    self._count = on_layer

  def run(
    self,
    batch: Batch,
    on_sites: Callable[[dict[str, np.ndarray]], None] | None = None,
  ) -> tuple[np.ndarray, float]:
    """Runs one forward pass over whole rows.

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
    self._on_sites, self._shape = on_sites, batch.tokens.shape
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
        use_cache=self._window != 1,
        output_logits=True,
        return_dict_in_generate=True,
      )
    tokens = out.sequences[:, batch.tokens.shape[1] :]
    logits = np.stack([_numpy(step) for step in out.logits], axis=1)
    return tokens.numpy().astype(np.int32), logits

  def _read(self, site: str, module: torch.nn.Module, side: str):
    """Has a hook on `module` note its value as [B, T, W].

    Inside its layers, OPT has the tokens of all rows in one dimension.
    """

    def note(value):
      if self._seen is not None:
        value = value[0] if isinstance(value, tuple) else value
        self._seen[site] = _numpy(value).reshape(*self._shape, -1)

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


def hf_source(reader: CheckpointReader) -> tuple[pathlib.Path, dict[str, str]]:
  """Returns what HF's `from_pretrained` is called with for a checkpoint.

  Returns:
    The folder, and `gguf_file` if the checkpoint is one.

  Raises:
    ImportError: HF needs another package for a .gguf file.
  """
  if reader.gguf is None:
    return reader.folder, {}
  if importlib.util.find_spec('accelerate') is None:
    raise ImportError(
      f'{reader.gguf.path}: transformers needs accelerate for .gguf files; run '
      "`pip install 'knowledge-awareness-jax[real]'`."
    )
  return reader.folder, {'gguf_file': reader.gguf.path.name}


def _numpy(value: torch.Tensor) -> np.ndarray:
  """Returns a copy in float32, which holds every bfloat16 exactly."""
  return value.detach().float().numpy().copy()


def _layers(model: torch.nn.Module, family: Family) -> torch.nn.ModuleList:
  """HF's layers; in a multimodal model they are one module deeper."""
  for path in (family.layers, f'model.language_{family.layers}'):
    with contextlib.suppress(AttributeError):
      return model.get_submodule(path)
  raise ValueError(
    f'{type(model).__name__} of transformers {transformers.__version__} has no '
    f'module {family.layers}; expected HF layers of a {family.title} there.'
  )


@contextlib.contextmanager
def _softmax_calls(record: Callable) -> Iterator[None]:
  """Shows `record` the input and output of every softmax.

  Eager attention returns its pattern but not the scores; it calls this
  function once per layer, and nothing else in the models calls it.
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


def _loaded(reader: CheckpointReader, dtype: torch.dtype):
  """HF's model with all its weights."""
  folder, gguf = hf_source(reader)
  model, info = transformers.AutoModelForCausalLM.from_pretrained(
    folder,
    dtype=dtype,
    attn_implementation='eager',
    local_files_only=True,
    output_loading_info=True,
    **(gguf or {'use_safetensors': True}),
  )
  if wrong := {key: names for key, names in info.items() if names}:
    raise ValueError(f'{folder}: transformers reports {wrong}.')
  return model


def _streamed(reader: CheckpointReader, dtype: torch.dtype):
  """HF's model with its layers' weights left on disk until they are used."""
  if reader.gguf is not None:
    raise ValueError(
      f'{reader.gguf.path} cannot be streamed: transformers dequantises a '
      '.gguf as a whole. Pass --stream=never, or a folder with safetensors.'
    )
  folder, family = reader.folder, family_of(reader.config)
  config = transformers.AutoConfig.from_pretrained(
    folder, local_files_only=True
  )
  if config.get_text_config() is not config:
    raise ValueError(
      f'{folder} cannot be streamed: it has a vision tower beside its language '
      'model. Pass --stream=never, or save the language model alone with '
      'tools/convert_checkpoint.py.'
    )
  with torch.device('meta'):
    model = transformers.AutoModelForCausalLM.from_config(
      config, dtype=dtype, attn_implementation='eager'
    )
  files = _tensor_files(folder)
  prefix = find_prefix(reader.config, files, folder)

  def read(name):
    """Returns the tensor that HF calls `name`; its prefix may differ."""
    if name != LM_HEAD:
      name = prefix + name.removeprefix(family.prefixes[0])
    with safetensors.safe_open(files[name], 'pt') as file:
      return file.get_tensor(name).to(dtype)

  _make_buffers(model)
  layers = f'{family.layers}.'
  tied = {LM_HEAD} if config.tie_word_embeddings else set()
  names = [n for n in model.state_dict() if not n.startswith(layers)]
  model.load_state_dict(
    {name: read(name) for name in names if name not in tied},
    strict=False,
    assign=True,
  )
  if tied:
    model.lm_head.weight = model.get_input_embeddings().weight
  tensors = itertools.chain(model.named_parameters(), model.named_buffers())
  for name, tensor in tensors:
    if tensor.is_meta and not name.startswith(layers):
      raise ValueError(f'{folder} cannot be streamed: {name} has no value.')

  for number, layer in enumerate(model.get_submodule(family.layers)):
    empty = layer.state_dict()

    def fill(layer, _, names=tuple(empty), start=f'{layers}{number}.'):
      tensors = {name: read(start + name) for name in names}
      layer.load_state_dict(tensors, assign=True)

    def drop(layer, *_, empty=empty):
      layer.load_state_dict(empty, assign=True)

    layer.register_forward_pre_hook(fill)
    layer.register_forward_hook(drop)
  return model


def _make_buffers(model: torch.nn.Module) -> None:
  """Gives values to the buffers that no file holds, by HF's own rules.

  These are rotary frequencies and embeddings' scales. Weights, which are on
  the meta device, stay there.
  """
  for module in model.modules():
    empty = [n for n, b in module.named_buffers(recurse=False) if b.is_meta]
    for name in empty:
      buffer = getattr(module, name)
      setattr(module, name, torch.empty_like(buffer, device='cpu'))
    if empty:
      with torch.no_grad():
        model._init_weights(module)


def _tensor_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the file of each tensor; names were checked with ours."""
  path = folder / 'model.safetensors'
  if path.is_file():
    with safetensors.safe_open(path, 'pt') as file:
      return dict.fromkeys(file.keys(), path)
  index = folder / 'model.safetensors.index.json'
  names = json.loads(index.read_text(encoding='utf-8'))['weight_map']
  return {tensor: folder / name for tensor, name in names.items()}
