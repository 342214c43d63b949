r"""Times our patch sweep against TransformerLens on the same weights.

In one run and on one machine, the candidates taking turns: the stream entering
every layer at every token, from clean into corrupted prompts, and how far the
difference of two logits moves.

  ours             experiments.patching.sweep: layers below a patch and tokens
                   before it are run once, two logits are read
  ours, naive      every cell a whole run of gemma_jax with one patch
  TransformerLens  get_act_patch_resid_pre on a HookedTransformer with the
                   weights exported to HF

Each time includes what the sweep starts from: recordings of both runs, or
run_with_cache. Figures are medians over --repeats; both must find the same
numbers. Operations are those of the formulas in experiments/patching/costs.py.

  python -m tools.benchmark_patching
  python -m tools.benchmark_patching --pairs=4,32 --torch_threads=2
  python -m tools.benchmark_patching --model=SmolLM2-135M-Instruct.gguf \
    --pairs=8 --tokens=12 --name=4,6

With --kind=path it is path patching: every head and MLP at the last token of a
task of factual recall, heads held and MLPs free, against one whole run of
gemma_jax per head or MLP.

  python -m tools.benchmark_patching --kind=path \
    --model=SmolLM2-135M-Instruct.gguf --pairs=8

TransformerLens comes with `pip install -e '.[peers]'`.
"""

import functools
import importlib
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
import warnings

from absl import app, flags
import jax
import numpy as np
import torch
from tqdm import tqdm
import transformers

from experiments import inputs
from experiments.factual_recall.naive import naive_total_effects
from experiments.factual_recall.path_patching import donors, total_effects
from experiments.factual_recall.prompts import corrupt, make_prompts
from experiments.factual_recall.tasks import read_task
from experiments.factual_recall.trace import Readout, trace
from experiments.patching import costs, naive_sweep, sweep
from experiments.patching.cells import every_cell
from experiments.patching.runs import record_run
from experiments.patching.sweeps import first_difference
from experiments.runs import FEW, define_number, define_numbers, whole
import gemma_jax as gj
from tools.timing import CompileLog, alternate

SITE = 'resid_pre'

_KIND = flags.DEFINE_enum(
  'kind',
  'activation',
  ['activation', 'path'],
  'activation patches the stream of every layer and token; path replaces what '
  'every head and MLP writes at the last token.',
)
_MODEL = flags.DEFINE_string(
  'model', inputs.BUNDLED, 'A checkpoint: folder, hub id or .gguf.'
)
_PAIRS = define_numbers('pairs', [4, 32], 'Rows of each case.', FEW)
_TOKENS = define_number('tokens', 8, 'Tokens of a row.', FEW)
_NAME = define_numbers(
  'name',
  [3, 5],
  'Tokens [start, stop) in which the two sides differ.',
  whole(0),
  fewest=2,
)
_TASK = flags.DEFINE_string(
  'task',
  None,
  'Task of factual recall for --kind=path. Default: capitals; city_country for '
  'the bundled model.',
)
_NAIVE_RUNS = define_number(
  'naive_runs',
  60,
  'Most whole runs of the naive side of --kind=path each time. With more '
  'senders it takes some of the layers, and its time is scaled to all.',
  whole(),
)
_REPEATS = define_number('repeats', 3, 'Timed runs of each candidate.', FEW)
_THREADS = define_number(
  'torch_threads',
  1,
  "PyTorch's; small products are fastest on one.",
  whole(1, 1024),
)
_PEER = flags.DEFINE_boolean('peer', True, 'Time TransformerLens too.')
_JSON = flags.DEFINE_string('json', None, 'Where to write every figure.')


# Family -> TransformerLens' module and function that convert HF's weights.
_CONVERTERS = {
  'gemma2': ('gemma', 'convert_gemma_weights'),
  'llama': ('llama', 'convert_llama_weights'),
}


class TransformerLens:
  """A HookedTransformer with our weights, by way of HF."""

  def __init__(self, model: gj.Decoder):
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions

    config = model.config
    if config.family not in _CONVERTERS or config.rope_scaling is not None:
      raise ValueError(
        f'A {config.family} model is not compared here; expected one of '
        f'{", ".join(_CONVERTERS)}, without scaled rotations. '
        '--peer=false times ours alone.'
      )
    acts = {'gelu_tanh': 'gelu_pytorch_tanh', 'silu': 'silu'}
    settings = HookedTransformerConfig(
      n_layers=config.num_layers,
      d_model=config.d_model,
      d_head=config.head_dim,
      n_heads=config.num_heads,
      n_key_value_heads=config.num_kv_heads,
      d_mlp=config.d_ff,
      d_vocab=config.vocab_size,
      n_ctx=64,
      eps=config.norm_eps,
      act_fn=acts[config.activation],
      normalization_type='RMS',
      positional_embedding_type='rotary',
      rotary_base=config.rope_theta,
      rotary_dim=config.head_dim,
      rotary_adjacent_pairs=False,
      attn_scale=config.query_pre_attn_scalar**0.5,
      use_local_attn=any(config.local_layers),
      window_size=config.window,
      attn_types=[
        'local' if local else 'global' for local in config.local_layers
      ],
      attn_scores_soft_cap=config.attn_softcap or -1.0,
      output_logits_soft_cap=config.final_softcap or -1.0,
      gated_mlp=config.gated,
      final_rms=True,
      use_normalization_before_and_after=config.post_norms,
      original_architecture=gj.FAMILIES[config.family].architecture,
      device='cpu',
    )
    with tempfile.TemporaryDirectory() as folder:
      gj.save_checkpoint(model, folder)
      hf = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', DeprecationWarning)
      self.model = HookedTransformer(settings).eval()
    module, function = _CONVERTERS[config.family]
    module = importlib.import_module(f'{weight_conversions.__name__}.{module}')
    # What it makes itself, masks and rotations, is not in the checkpoint.
    left = self.model.load_state_dict(
      getattr(module, function)(hf, settings), strict=False
    )
    made = ('mask', 'IGNORE', 'rotary_sin', 'rotary_cos')
    missing = [k for k in left.missing_keys if not k.endswith(made)]
    if missing or left.unexpected_keys:
      raise ValueError(f'Weights do not fit TransformerLens: {left}.')

  @torch.no_grad()
  def __call__(self, base, donor, answers) -> np.ndarray:
    """Mean differences of logits after each patch, [L, T]."""
    from transformer_lens import patching

    answers = torch.from_numpy(answers).long()

    def metric(logits):
      chosen = logits[:, -1].gather(1, answers)
      return (chosen[:, 0] - chosen[:, 1]).mean()

    _, cache = self.model.run_with_cache(torch.from_numpy(donor).long())
    found = patching.get_act_patch_resid_pre(
      self.model, torch.from_numpy(base).long(), cache, metric
    )
    return found.numpy()


def rows(config: gj.ModelConfig, n: int):
  """Random base and donor tokens, which differ in the name, and answers."""
  rng = np.random.default_rng(0)
  start, stop = _NAME.value
  ids = functools.partial(rng.integers, 5, config.vocab_size, dtype=np.int32)
  base = ids((n, _TOKENS.value))
  base[:, 0] = config.fill_id if config.bos_id is None else config.bos_id
  donor = base.copy()
  donor[:, start:stop] = ids((n, stop - start))
  return base, donor, ids((n, 2))


def time_case(model, peer, n):
  """Seconds of each candidate, operations, and how far results differ."""
  config, T = model.config, _TOKENS.value
  tokens = rows(config, n)
  base, donor, answers = tokens
  cells = every_cell(config, T, [SITE])
  found = {}

  def ours():
    runs = (record_run(model, side, answers) for side in (base, donor))
    found['ours'] = sweep(model, *runs, cells)[SITE].mean(-1)

  def naive():
    swept = naive_sweep(model, *tokens, cells)
    found['ours, naive'] = swept[SITE].mean(-1)

  def theirs():
    found['TransformerLens'] = peer(*tokens)

  candidates = {'ours': ours, 'ours, naive': naive}
  if peer is not None:
    candidates['TransformerLens'] = theirs
  with tqdm(total=len(candidates) * _REPEATS.value, leave=False) as bar:
    seconds = alternate(candidates, _REPEATS.value, bar)
  differ = first_difference(
    *(record_run(model, side, answers) for side in (base, donor))
  )
  return {
    'title': f'{n} pairs, {SITE}, {config.num_layers} x {T}',
    'pairs': n,
    'tokens': T,
    'seconds': seconds,
    'operations': {
      'formula of the naive sweep': costs.naive_cost(
        config, n, T, cells[SITE].size
      ),
      'formula of the minimum': costs.minimal_cost(config, n, T, SITE),
      'ours, executed': costs.sweep_cost(config, n, T, differ, cells)
      + costs.recording_cost(config, n, T),
    },
    'largest difference': {
      name: float(np.abs(each - found['ours']).max())
      for name, each in found.items()
      if name != 'ours'
    },
  }


def time_paths(model, tokenizer, n):
  """Seconds of path patching and of its naive loop, and how results differ."""
  L, senders = model.config.num_layers, model.config.num_heads + 1
  bundled = _MODEL.value == inputs.BUNDLED
  task = _TASK.value or ('city_country' if bundled else 'capitals')
  every = make_prompts(tokenizer, read_task(task))
  if n > len(every):
    raise ValueError(f'{task} has {len(every)} prompts; --pairs asks for {n}.')
  chosen = np.linspace(0, len(every) - 1, n).astype(int)
  prompts = every.take(chosen)
  corrupted = corrupt(tokenizer, every, 0).take(chosen)
  donor = donors(trace(model, corrupted), mean=True)
  readout = Readout.of(model, prompts.answers, prompts.names)
  count = max(1, min(L, _NAIVE_RUNS.value // senders))
  layers = np.linspace(0, L - 1, count).astype(int).tolist()
  runs, needed = (1 + each * senders for each in (count, L))
  title = f'{n} prompts of {task}, {L} x {senders} heads and MLPs'
  name = f'naive, {needed} runs'
  if runs < needed:
    title += f'; naive: {runs} of {needed} runs timed, scaled'
    name += ' (scaled)'
  found = {}

  def ours():
    clean = trace(model, prompts)
    found['ours'] = total_effects(model, clean, donor, prompts, readout)

  def naive():
    found['naive'] = naive_total_effects(model, donor, prompts, readout, layers)

  candidates = {'ours': ours, name: naive}
  with tqdm(total=len(candidates) * _REPEATS.value, leave=False) as bar:
    seconds = alternate(candidates, _REPEATS.value, bar)
  seconds[name] *= needed / runs
  difference = np.abs(found['naive'] - found['ours'][layers]).max()
  return {
    'title': title,
    'pairs': n,
    'seconds': seconds,
    'operations': {},
    'largest difference': {name: float(difference)},
  }


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments {argv[1:]}.')
  start, *stop = _NAME.value
  if len(stop) != 1 or not start < stop[0] <= _TOKENS.value:
    raise app.UsageError(
      f'--name={start},{",".join(map(str, stop))} must be a first token and '
      f'one after the last, of --tokens={_TOKENS.value}.'
    )
  paths = _KIND.value == 'path'
  wanted = _PEER.value and not paths
  peer = wanted and importlib.util.find_spec('transformer_lens')
  if wanted and not peer:
    print(
      "TransformerLens is not installed (pip install -e '.[peers]'); "
      '--peer=false times ours alone.',
      file=sys.stderr,
    )
    sys.exit(1)
  torch.set_num_threads(_THREADS.value)
  place = inputs.resolve_path(_MODEL.value, inputs.BASE)
  reader = inputs.open_model(place, 'float32')
  model = reader.load()
  compiled = CompileLog()
  about = {
    'date': time.strftime('%Y-%m-%d'),
    'device': jax.devices()[0].device_kind,
    'cpu': platform.processor() or platform.machine(),
    'threads': os.cpu_count(),
    'torch_threads': torch.get_num_threads(),
    'jax': jax.__version__,
    'torch': torch.__version__,
    'model': place,
    'repeats': _REPEATS.value,
  }
  print('\n'.join(f'{name}: {value}' for name, value in about.items()))
  if paths:
    time_one = functools.partial(time_paths, model, gj.read_tokenizer(reader))
  else:
    theirs = TransformerLens(model) if peer else None
    time_one = functools.partial(time_case, model, theirs)
  records = []
  for n in _PAIRS.value:
    record = time_one(n)
    records.append(record)
    seconds, operations = record['seconds'], record['operations']
    print(record['title'])
    for name, each in operations.items():
      ratio = each / operations['formula of the minimum']
      print(f'  {name:28} {each:10.3g} operations  {ratio:5.2f}x the minimum')
    for name, each in seconds.items():
      line = f'  {name:28} {each * 1e3:10.1f} ms'
      if name != 'ours':
        off = record['largest difference'][name]
        line += f'  {each / seconds["ours"]:5.1f}x the time of ours'
        line += f', differs by {off:.1e} at most'
      print(line, flush=True)
  print(f'{compiled.programs} programs compiled in {compiled.seconds:.0f} s')
  if _JSON.value:
    with open(_JSON.value, 'w', encoding='utf-8') as file:
      json.dump({'about': about, 'records': records}, file, indent=2)


if __name__ == '__main__':
  app.run(main)
