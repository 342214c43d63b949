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

import dataclasses
import functools
import importlib.util
import json
import os
import platform
import time
from typing import Annotated, Literal

import jax
import numpy as np
import torch
from tqdm import tqdm

from experiments import inputs
from experiments.factual_recall.naive_path_patching import naive_total_effects
from experiments.factual_recall.path_patching import donors, total_effects
from experiments.factual_recall.task_prompts import corrupt, make_prompts
from experiments.factual_recall.tasks import read_task
from experiments.factual_recall.trace import Readout, trace
from experiments.patching import costs, naive_sweep, sweep
from experiments.patching.cells import every_cell
from experiments.patching.runs import record_run
from experiments.patching.sweeps import first_difference
from experiments.runs import Count, Few, KeepFlags, check_numbers, start, whole
import gemma_jax as gj
from tools.patching_peer import TransformerLens
from tools.timing import CompileLog, alternate

SITE = 'resid_pre'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Holds what is timed.

  Attributes:
    kind: What is patched; 'activation' patches the stream of every layer and
      token, 'path' replaces what every head and MLP writes at the last token.
    model: A checkpoint, as a folder, hub id or .gguf file. 'miniworld' is the
      small one that comes with the project.
    pairs: Numbers of rows of the cases.
    tokens: Number of tokens of a row.
    name: First token in which the two sides differ, and the one after the last.
    task: Task of factual recall for --kind=path. Default: capitals;
      city_country for the bundled model.
    naive_runs: Most whole runs of the naive side of --kind=path each time. With
      more senders it takes some of the layers, and its time is scaled to all.
    repeats: Number of timed runs of each candidate.
    torch_threads: Number of threads of PyTorch; small products are fastest on
      one.
    peer: Time TransformerLens too.
    json: File to write every figure to.
  """

  kind: Literal['activation', 'path'] = 'activation'
  model: str = inputs.BUNDLED
  pairs: tuple[Few, ...] = (4, 32)
  tokens: Few = 8
  name: tuple[Annotated[int, whole(0)], ...] = (3, 5)
  task: str | None = None
  naive_runs: Count = 60
  repeats: Few = 3
  torch_threads: Annotated[int, whole(1, 1024)] = 1
  peer: bool = True
  json: str | None = None

  def __post_init__(self):
    check_numbers(self)
    if not self.pairs:
      raise ValueError('--pairs is empty; give one number at least.')
    if len(self.name) != 2 or not self.name[0] < self.name[1] <= self.tokens:
      raise ValueError(
        f'--name={",".join(map(str, self.name))} must be a first token and one '
        f'after the last, of --tokens={self.tokens}.'
      )


def rows(config: gj.ModelConfig, n: int, settings: Settings):
  """Returns random tokens of both sides, which differ in the name; answers."""
  rng = np.random.default_rng(0)
  first, stop = settings.name
  ids = functools.partial(rng.integers, 5, config.vocab_size, dtype=np.int32)
  base = ids((n, settings.tokens))
  base[:, 0] = config.fill_id if config.bos_id is None else config.bos_id
  donor = base.copy()
  donor[:, first:stop] = ids((n, stop - first))
  return base, donor, ids((n, 2))


def time_case(model, peer, settings, n):
  """Returns seconds of candidates, operations, how far results differ."""
  config, T = model.config, settings.tokens
  tokens = rows(config, n, settings)
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
  with tqdm(total=len(candidates) * settings.repeats, leave=False) as bar:
    seconds = alternate(candidates, settings.repeats, bar)
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


def time_paths(model, tokenizer, settings, n):
  """Returns seconds of path patching and of its naive loop; differences."""
  L, senders = model.config.num_layers, model.config.num_heads + 1
  bundled = settings.model == inputs.BUNDLED
  task = settings.task or ('city_country' if bundled else 'capitals')
  every = make_prompts(tokenizer, read_task(task))
  if n > len(every):
    raise ValueError(f'{task} has {len(every)} prompts; --pairs asks for {n}.')
  chosen = np.linspace(0, len(every) - 1, n).astype(int)
  prompts = every.take(chosen)
  corrupted = corrupt(tokenizer, every, 0).take(chosen)
  donor = donors(trace(model, corrupted), mean=True)
  readout = Readout.of(model, prompts.answers, prompts.names)
  count = max(1, min(L, settings.naive_runs // senders))
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
  with tqdm(total=len(candidates) * settings.repeats, leave=False) as bar:
    seconds = alternate(candidates, settings.repeats, bar)
  seconds[name] *= needed / runs
  difference = np.abs(found['naive'] - found['ours'][layers]).max()
  return {
    'title': title,
    'pairs': n,
    'seconds': seconds,
    'operations': {},
    'largest difference': {name: float(difference)},
  }


def work(settings: Settings, keep_flags: KeepFlags) -> int:
  """Times and prints every case; returns the exit code.

  Raises:
    ImportError: TransformerLens is wanted and not installed.
  """
  del keep_flags
  paths = settings.kind == 'path'
  peer = settings.peer and not paths
  if peer and importlib.util.find_spec('transformer_lens') is None:
    raise ImportError(
      "TransformerLens is not installed (pip install -e '.[peers]'); "
      '--peer=false times ours alone.'
    )
  torch.set_num_threads(settings.torch_threads)
  place = inputs.resolve_path(settings.model, inputs.BASE)
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
    'repeats': settings.repeats,
  }
  print('\n'.join(f'{name}: {value}' for name, value in about.items()))
  if paths:
    tokenizer = gj.read_tokenizer(reader)
    time_one = functools.partial(time_paths, model, tokenizer, settings)
  else:
    theirs = TransformerLens(model) if peer else None
    time_one = functools.partial(time_case, model, theirs, settings)
  records = []
  for n in settings.pairs:
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
  if settings.json:
    with open(settings.json, 'w', encoding='utf-8') as file:
      json.dump({'about': about, 'records': records}, file, indent=2)
  return 0


if __name__ == '__main__':
  start(Settings, work)
