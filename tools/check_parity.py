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

import json
import pathlib
import sys

from absl import app, flags

from experiments.runs import (
  POSITIVE,
  SEED,
  define_number,
  define_numbers,
  whole,
)
from tools.parity import run, tables, verdict
from tools.parity.prompts import PADDINGS


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines this program's flags in `values`."""
  default = run.Options(checkpoint='')

  def define(kind, name, value, help_text, *args, **kwargs):
    kind(name, value, help_text, *args, flag_values=values, **kwargs)

  def define_enum(name, value, allowed, help_text):
    flags.DEFINE_enum(name, value, allowed, help_text, flag_values=values)

  define(
    flags.DEFINE_string,
    'checkpoint',
    None,
    'Folder of a Hugging Face checkpoint (config.json, *.safetensors), a hub '
    'id, or a .gguf file.',
    required=True,
  )
  define_enum(
    'dtype',
    default.dtype,
    run.DTYPES,
    'Of weights and activations, on both sides.',
  )
  define(
    flags.DEFINE_string,
    'prompts',
    None,
    'UTF-8 text file with one prompt per line; needs a tokenizer.json in the '
    'folder. Blank lines are skipped, BOS is added where the model has one.',
  )
  define(
    flags.DEFINE_bool,
    'tokenizer',
    default.tokenizer,
    "Compare the tokenizer with HF's, where the checkpoint has one.",
  )
  define(
    define_numbers,
    'lengths',
    default.lengths,
    'Without a tokenizer: lengths of the random prompts, BOS included.',
    whole(),
  )
  define(
    define_number,
    'seed',
    default.seed,
    'Of the random prompts.',
    SEED,
  )
  define_enum(
    'padding',
    default.padding,
    PADDINGS,
    "Where rows are padded; 'both' runs every prompt in two rows.",
  )
  define(
    define_number,
    'new_tokens',
    default.new_tokens,
    'Greedy tokens to compare after each prompt. Nothing ends a generation '
    'earlier.',
    whole(),
  )
  define(
    define_number,
    'batch_size',
    default.batch_size,
    'Prompts at a time; fewer where their logits would be large.',
    whole(),
  )
  define_enum(
    'stream',
    default.stream,
    run.STREAM,
    "Whether to hold one layer's weights at a time; 'auto' does so where two "
    'models (bfloat16: three) would not fit into memory.',
  )
  define(
    define_number,
    'tolerance',
    default.tolerance,
    'Factor on the float32 gates, for models that amplify float noise: those '
    'whose error grows through the layers without a jump.',
    POSITIVE,
  )
  define(
    flags.DEFINE_string, 'json', None, 'Where to write every number, as JSON.'
  )
  define(
    flags.DEFINE_bool, 'verbose', False, 'Print every site of every layer.'
  )


def check(values: flags.FlagValues) -> int:
  """Runs the check that parsed flags describe; returns the exit code."""
  try:
    target = _target(values.json)
    prepared = run.prepare(_options(values))
  except (OSError, ValueError, ImportError) as error:
    print(f'check_parity: {error}', file=sys.stderr)
    return 2
  comparison = prepared.run()
  if target is not None:
    numbers = tables.as_json(prepared, comparison)
    target.write_text(json.dumps(numbers, indent=2) + '\n', encoding='utf-8')
  print(tables.report(prepared, comparison, values.verbose))
  return 0 if all(gate.passed for gate in verdict.judge(comparison)) else 1


def _options(values: flags.FlagValues) -> run.Options:
  """The flags as Options."""
  prompts = None if values.prompts is None else pathlib.Path(values.prompts)
  same = (
    'checkpoint dtype tokenizer seed padding new_tokens batch_size stream '
    'tolerance'
  )
  return run.Options(
    prompts=prompts,
    lengths=tuple(values.lengths),
    **{name: values[name].value for name in same.split()},
  )


def _target(name: str | None) -> pathlib.Path | None:
  """Where the JSON goes; its folder is made before the work, not after."""
  if name is None:
    return None
  path = pathlib.Path(name)
  if path.is_dir():
    raise IsADirectoryError(f'--json={path} is a folder; give a file name.')
  path.parent.mkdir(parents=True, exist_ok=True)
  return path


def parse_flags(
  argv: list[str], values: flags.FlagValues = flags.FLAGS
) -> list[str]:
  """Parses the flags; exits with 2 where one is wrong."""
  try:
    rest = values(argv)
    if rest[1:]:
      raise flags.Error(f'Unexpected arguments {rest[1:]}; all are flags.')
  except flags.Error as error:
    print(f'check_parity: {error}\nTry --help.', file=sys.stderr)
    sys.exit(2)
  return rest


if __name__ == '__main__':
  flags.FLAGS.verbosity = -1  # libraries log warnings only, unless told to
  define_flags()
  app.run(lambda argv: check(flags.FLAGS), flags_parser=parse_flags)
