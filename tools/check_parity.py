"""Does gemma_jax compute what HF transformers computes, on your checkpoint?

  python -m tools.check_parity --checkpoint=<folder, hub id or .gguf>

Runs HF transformers (eager attention, on the CPU) and gemma_jax on the same
tokens and compares every site of every layer, the logits, the loss and 32
greedily generated tokens. It prints

  - per site, over all layers: the largest absolute error, the largest relative
    error |ours - HF| / |HF|, the smallest cosine, and the worst layer
    (--verbose: every layer);
  - PASS or FAIL per gate, with the numbers, and one verdict;
  - the first place, in the order of computation, that is beyond its gate:
    layer, site, prompt and token. The bug is there or just before it.

The exit code is 0 for PASS, 1 for FAIL, and 2 if there was nothing to compare:
a wrong flag, an incomplete folder, a prompt that is too long.

In float32 everything has to agree to float precision. In bfloat16 no two
implementations do: there ours has to be as close to HF's float32 predictions
as HF's own bfloat16 run is, and 95 % of greedy tokens have to be equal. See
tools/parity/verdict.py for each gate and the measurements behind it.

Every family that gemma_jax reads can be checked. The reference of a .gguf file
is what transformers makes of it (pip install 'knowledge-awareness-jax[real]').

Where the checkpoint has a tokenizer, it is compared with HF's on some hundred
hostile texts (tools/parity/hostile.py; --notokenizer leaves that out), and the
prompts are built in; both models are given our tokens. Without one, prompts
are random ids. Rows are padded on the left and on the right; greedy decoding
pads on the left, as HF's does.

A model that does not fit into memory twice (9B and more on most hosts) is
streamed: both sides hold one layer's weights at a time. Generating 32 tokens
then reads the checkpoint 64 times; --new_tokens=4 is a quicker look. A .gguf,
and a folder with a vision tower, are not streamed.

  python -m tools.check_parity --checkpoint=google/gemma-2-2b \\
    --dtype=bfloat16 --prompts=my_prompts.txt --json=parity.json
"""

import dataclasses
import json
import pathlib

from experiments.runs import KeepFlags, start
from tools.parity import parity_tables, run, verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(run.Options):
  """Holds what is checked, and what is written.

  Attributes:
    json: File to write every number to, as JSON.
    verbose: Print every site of every layer.
  """

  json: str | None = None
  verbose: bool = False


def work(settings: Settings, keep_flags: KeepFlags) -> int:
  """Checks parity, prints the verdict; returns the exit code."""
  del keep_flags
  target = _target(settings.json)
  prepared = run.prepare(
    run.Options(
      **{
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(run.Options)
      }
    )
  )
  comparison = prepared.run()
  if target is not None:
    numbers = parity_tables.as_json(prepared, comparison)
    target.write_text(json.dumps(numbers, indent=2) + '\n', encoding='utf-8')
  print(parity_tables.report(prepared, comparison, settings.verbose))
  return 0 if all(gate.passed for gate in verdict.judge(comparison)) else 1


def _target(name: str | None) -> pathlib.Path | None:
  """Returns the file for JSON; its folder is made before the work starts."""
  if name is None:
    return None
  path = pathlib.Path(name)
  if path.is_dir():
    raise IsADirectoryError(f'--json={path} is a folder; give a file name.')
  path.parent.mkdir(parents=True, exist_ok=True)
  return path


if __name__ == '__main__':
  start(Settings, work, refused=2)  # 1 is for what is not equal
