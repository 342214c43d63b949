r"""Times our decoders against HF transformers on the same weights.

In one run and on one machine, each pair of candidates taking turns:

  forward   a batch through the whole model, logits at every position
  harvest   resid_post of the middle layer at one position per prompt, against
            HF's full forward pass and against HF cut to the same layers
            without logits
  decode    64 greedy tokens after short prompts, for batches of 1 and 32
  edits     256 rows decoding with 256 different steering vectors, against 256
            rows sharing one

Every figure is a median over --repeats. A speed is a ratio of HF's time to
ours (over 1: we are faster), and a share of the best rate at which this machine
multiplies matrices, measured first. Compile time and the number of programs
compiled are those of our side.

  python -m tools.benchmark_model --size=medium
  python -m tools.benchmark_model --size=gemma-2-2b --dtype=bfloat16 \
    --peak_tflops=989
  python -m tools.benchmark_model --checkpoint=SmolLM2-135M-Instruct.gguf
"""

import dataclasses
import json
import os
import platform
import tempfile
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.runs import Few, KeepFlags, Positive, check_numbers, start
import gemma_jax as gj
from tools.timing import CompileLog, alternate, matmul_rate


def _gemma2(L, D, F, N, K, H, V):
  return gj.FAMILIES['gemma2'].config(
    num_layers=L,
    d_model=D,
    d_ff=F,
    num_heads=N,
    num_kv_heads=K,
    head_dim=H,
    vocab_size=V,
    query_pre_attn_scalar=H,
    local_layers=tuple(i % 2 == 0 for i in range(L)),
  )


SIZES = {
  # As small as a model that ships with a project; overheads dominate.
  'small': _gemma2(8, 256, 1024, 4, 2, 64, 2048),
  # Arithmetic and memory dominate, and a laptop still finishes.
  'medium': _gemma2(12, 768, 3072, 8, 4, 96, 16_384),
} | gj.PRESETS
PARTS = ('forward', 'harvest', 'decode', 'edits')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Holds what is timed.

  Attributes:
    size: Shape of a model with random weights.
    checkpoint: Folder, hub id or .gguf file of a model to time instead of
      --size.
    dtype: Data type of weights and activations.
    parts: Parts to run.
    repeats: Number of timed runs of each candidate.
    peer: Time HF transformers too.
    hf_attention: HF's attention, eager (the one that shows its patterns) or
      sdpa (the fused one).
    layers: How ours holds its layers, stacked and scanned, or one after
      another.
    peak_tflops: The chip's published dense rate in TFLOP/s, for MFU.
    json: File to write every figure to.
  """

  size: Literal[*SIZES] = 'medium'
  checkpoint: str | None = None
  dtype: Literal['float32', 'bfloat16'] = 'float32'
  parts: tuple[Literal[*PARTS], ...] = PARTS
  repeats: Few = 5
  peer: bool = True
  hf_attention: Literal['eager', 'sdpa'] = 'eager'
  layers: Literal['both', 'scan', 'unstacked'] = 'both'
  peak_tflops: Positive | None = None
  json: str | None = None

  def __post_init__(self):
    check_numbers(self)


def operations(config: gj.ModelConfig, tokens: int, context: float) -> float:
  """Returns operations of the blocks for tokens that see `context` keys.

  2 per multiply-add; norms and softmax, below 1 %, are left out.
  """
  heads = config.num_heads * config.head_dim
  kv = config.num_kv_heads * config.head_dim
  matrices = 3 if config.gated else 2
  per_layer = config.d_model * (2 * heads + 2 * kv + matrices * config.d_ff)
  return tokens * config.num_layers * 2 * (per_layer + 2 * heads * context)


def unembedding(config: gj.ModelConfig, tokens: int) -> float:
  """Returns operations of the logits of `tokens` positions."""
  return 2 * tokens * config.d_model * config.vocab_size


class Ours:
  """Our candidates, by the way the layers are held."""

  def __init__(self, model: gj.Decoder, layers: str):
    self.config = model.config
    self.models = {}
    if layers != 'unstacked':
      self.models['ours, scan'] = model
    if layers != 'scan':
      self.models['ours, unstacked'] = gj.unstack_layers(model)

  def forward(self, tokens):
    return self._each(lambda m: gj.run(m, tokens, logits_at='all').logits)

  def harvest(self, tokens, layer, position):
    look = gj.capture('resid_post', layers=layer, positions=position)
    return self._each(lambda m: gj.run(m, tokens, capture=look).activations)

  def decode(self, tokens, new, interventions=None):
    return self._each(
      lambda m: (
        gj.generate(
          m,
          tokens,
          max_new_tokens=new,
          stop_ids=[],
          interventions=interventions,
        ).tokens
      )
    )

  def _each(self, function):
    return {
      name: lambda m=m: jax.block_until_ready(function(m))
      for name, m in self.models.items()
    }


class Peer:
  """HF transformers on the same weights, device and threads."""

  def __init__(self, folder: str, dtype: str, attention: str):
    import torch
    import transformers

    self.torch = torch
    torch.set_num_threads(os.cpu_count())
    torch.set_grad_enabled(False)
    self.device = 'cuda' if jax.default_backend() == 'gpu' else 'cpu'
    self.version = f'torch {torch.__version__}, {transformers.__version__}'
    self.model = transformers.AutoModelForCausalLM.from_pretrained(
      folder, dtype=getattr(torch, dtype), attn_implementation=attention
    )
    self.model = self.model.eval().to(self.device)
    self.model.generation_config = transformers.GenerationConfig(
      pad_token_id=self.model.config.pad_token_id or 0
    )

  def forward(self, tokens):
    tokens = self._tokens(tokens)
    return self._timed(lambda: self.model(tokens, use_cache=False))

  def cut(self, tokens, config, num_layers):
    """Returns the first layers only, without logits or the final norm's use."""
    path = gj.FAMILIES[config.family].layers
    inner = self.model.base_model
    name = path.rpartition('.')[2]
    parent = self.model.get_submodule(path.rpartition('.')[0])
    tokens, whole = self._tokens(tokens), getattr(parent, name)

    def run():
      setattr(parent, name, whole[:num_layers])
      try:
        inner(tokens, use_cache=False)
      finally:
        setattr(parent, name, whole)

    return self._timed(run)

  def decode(self, tokens, new):
    tokens = self._tokens(tokens)
    return self._timed(
      lambda: self.model.generate(
        tokens,
        attention_mask=self.torch.ones_like(tokens),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
      )
    )

  def _tokens(self, tokens):
    return self.torch.tensor(tokens, device=self.device).long()

  def _timed(self, function):
    def run():
      function()
      if self.device == 'cuda':
        self.torch.cuda.synchronize()

    return run


def benchmark(ours: Ours, peer: Peer | None, rate, repeats, parts, peak=None):
  """Runs the parts; returns one record per candidate of each."""
  config, records = ours.config, []
  rng = np.random.default_rng(0)
  draw = lambda B, T: rng.integers(3, config.vocab_size, (B, T), np.int32)
  compiled = CompileLog()

  def compare(name, tokens, work, candidates):
    before, seconds = compiled.programs, compiled.seconds
    with tqdm(total=len(candidates) * repeats, desc=name, leave=False) as bar:
      times = alternate(candidates, repeats, bar)
    record = {'name': name, 'tokens': tokens, 'operations': work}
    record |= {'seconds': times, 'programs': compiled.programs - before}
    record['compile_seconds'] = compiled.seconds - seconds
    records.append(record)
    report(record, rate, peak)

  on_cpu = jax.default_backend() == 'cpu'
  if 'forward' in parts:
    for B, T in ((1, 64), (8, 128)) if on_cpu else ((8, 512), (32, 1024)):
      tokens = draw(B, T)
      candidates = ours.forward(tokens)
      if peer:
        candidates['hf'] = peer.forward(tokens)
      work = operations(config, B * T, T / 2) + unembedding(config, B * T)
      compare(f'forward {B} x {T}', B * T, work, candidates)
  if 'harvest' in parts:
    B, T = (64, 16) if on_cpu else (1024, 32)
    layer, tokens = config.num_layers // 2, draw(B, T)
    candidates = ours.harvest(tokens, layer, T - 4)
    if peer:
      candidates['hf, full'] = peer.forward(tokens)
      candidates['hf, cut'] = peer.cut(tokens, config, layer + 1)
    share = (layer + 1) / config.num_layers
    work = operations(config, B * T, T / 2) * share
    compare(f'harvest layer {layer}, {B} x {T}', B * T, work, candidates)
  if 'decode' in parts:
    for B in (1, 32) if on_cpu else (1, 32, 256):
      tokens, new = draw(B, 16), 64
      candidates = ours.decode(tokens, new)
      if peer:
        candidates['hf'] = peer.decode(tokens, new)
      work = operations(config, B * (15 + new), (16 + new) / 2)
      work += unembedding(config, B * new)
      compare(f'decode {new} tokens, batch {B}', B * new, work, candidates)
  if 'edits' in parts:
    B, new, D = 256, 16, config.d_model
    tokens = draw(B, 16)
    candidates = {}
    for rows in (1, B):
      edit = gj.steer(
        'resid_post',
        rng.standard_normal((rows, D)),
        layers=gj.per_row(rng.integers(0, config.num_layers, rows)),
        coefficient=rng.standard_normal(rows),
      )
      for name, run in ours.decode(tokens, new, [edit]).items():
        candidates[f'{name}, {rows} edits'] = run
    work = operations(config, B * (15 + new), (16 + new) / 2)
    work += unembedding(config, B * new)
    compare(f'{B} rows steered, {new} tokens', B * new, work, candidates)
  return records


def report(record, rate, peak):
  """Prints one comparison as a table."""
  times = record['seconds']
  print(
    f'\n{record["name"]}: {record["programs"]} programs compiled in '
    f'{record["compile_seconds"]:.1f} s'
  )
  peers = {name: t for name, t in times.items() if name.startswith('hf')}
  for name, seconds in times.items():
    line = f'  {name:28} {seconds * 1e3:9.1f} ms'
    line += f' {record["tokens"] / seconds:11.0f} tokens/s'
    if name != 'hf, full':
      achieved = record['operations'] / seconds
      line += f' {achieved / rate:6.1%} of matmul'
      if peak:
        line += f' {achieved / (peak * 1e12):6.1%} MFU'
    if name not in peers:
      for peer, t in peers.items():
        line += f'   {t / seconds:.2f}x {peer}'
      if name.endswith(' edits') and not name.endswith(' 1 edits'):
        shared = times[name.rsplit(', ', 1)[0] + ', 1 edits']
        line += f'   {seconds / shared:.3f} of the time with one edit'
    print(line, flush=True)


def work(settings: Settings, keep_flags: KeepFlags) -> int:
  """Times and prints every part; returns the exit code."""
  del keep_flags
  dtype = jnp.dtype(settings.dtype)
  with tempfile.TemporaryDirectory() as scratch:
    if settings.checkpoint:
      model = gj.load_checkpoint(settings.checkpoint, dtype=dtype)
    else:
      model = gj.init_model(SIZES[settings.size], jax.random.key(0), dtype)
    peer = None
    if settings.peer:
      # Written anew, so that both sides have the same values of any source.
      folder = os.path.join(scratch, 'model')
      gj.save_checkpoint(model, folder)
      peer = Peer(folder, settings.dtype, settings.hf_attention)
  ours = Ours(model, settings.layers)
  rate = matmul_rate(dtype)
  device = jax.devices()[0]
  about = {
    'size': settings.checkpoint or settings.size,
    'parameters': sum(w.size for w in model.weights().values()),
    'dtype': dtype.name,
    'device': device.device_kind,
    'cpu': platform.processor() or platform.machine(),
    'threads': os.cpu_count(),
    'jax': jax.__version__,
    'peer': peer.version if peer else None,
    'matmul_tflops': rate / 1e12,
    'repeats': settings.repeats,
  }
  print('\n'.join(f'{name}: {value}' for name, value in about.items()))
  records = benchmark(
    ours, peer, rate, settings.repeats, settings.parts, settings.peak_tflops
  )
  if settings.json:
    with open(settings.json, 'w', encoding='utf-8') as file:
      json.dump({'about': about, 'records': records}, file, indent=2)
  return 0


if __name__ == '__main__':
  start(Settings, work)
