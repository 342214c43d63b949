"""Converts checkpoints between Hugging Face's format and Orbax's.

  python -m tools.convert_checkpoint --source=google/gemma-2-2b \\
    --target=checkpoints/gemma-2-2b
  python -m tools.convert_checkpoint --source=llama-3.2-1b-q8_0.gguf --to=hf \\
    --target=checkpoints/llama-3.2-1b

Models are Gemma 1, 2 and 3, Llama, Mistral, Qwen 2 and 3, GPT-2 and OPT.

The source is a folder of either format, a hub id, or a .gguf file, whose
weights become float32 unless --dtype says otherwise. The target is the other
format, of a .gguf Hugging Face's, unless --to says which. Converting a
checkpoint to its own format changes its dtype or drops its last layers.
Everything is checked before any weight is read, and the target appears under
its name when it is complete. Tokenizer files and generation_config.json are
carried along. The host needs memory for the whole model, once.
"""

import contextlib
import pathlib
import sys
import threading

from absl import app, flags
import tqdm

from experiments.runs import define_number, whole
from gemma_jax.checkpoint import hf_format
from gemma_jax.checkpoint.hf import (
  CheckpointReader,
  check_new_folder,
  new_folder,
  save_checkpoint,
)
from gemma_jax.checkpoint.orbax import is_orbax, load_orbax, save_orbax
from gemma_jax.families import FAMILIES
from gemma_jax.weights import LETTERS, Decoder

_TITLES = ', '.join(family.title for family in FAMILIES.values())


def define_flags():
  """Defines this program's flags."""
  flags.FLAGS.verbosity = -1  # libraries log warnings only, unless told to
  flags.DEFINE_string(
    'source',
    None,
    'Folder of a Hugging Face or Orbax checkpoint, a hub id, or a .gguf file. '
    f'Families: {_TITLES}.',
    required=True,
  )
  flags.DEFINE_string(
    'target', None, 'Folder to write; new or empty.', required=True
  )
  flags.DEFINE_enum(
    'to',
    None,
    ['orbax', 'hf'],
    'Format to write. Default: the other one; of a .gguf, hf.',
  )
  flags.DEFINE_enum(
    'dtype',
    None,
    ['bfloat16', 'float16', 'float32'],
    "Of the weights written. Default: the source's.",
  )
  define_number(
    'num_layers',
    None,
    'Keep only the first so many layers. Default: all.',
    whole(1, 10_000),
  )
  flags.DEFINE_string(
    'revision', None, 'Branch, tag or commit of a hub id. Default: main.'
  )
  define_number(
    'max_shard_bytes',
    4 * 10**9,
    'Size at which another file is begun, when writing the hf format.',
    whole(1, 10**15),
  )


def convert(
  source: str,
  target: str | pathlib.Path,
  *,
  to: str | None = None,
  dtype=None,
  num_layers: int | None = None,
  revision: str | None = None,
  max_shard_bytes: int = 4 * 10**9,
) -> str:
  """Converts a checkpoint, showing progress on stderr; see the flags.

  Returns:
    The format written.

  Raises:
    FileExistsError: the target is not a new or empty folder.
    FileNotFoundError, ValueError: the source cannot be loaded.
  """
  check_new_folder(target)
  if is_orbax(source):
    to = to or 'hf'
    if revision is not None:
      raise ValueError(
        f'{source} is a folder; revision={revision!r} has no use.'
      )
    companions = hf_format.read_companions(pathlib.Path(source))
    with _waiting('Reading'):
      model = load_orbax(source, dtype=dtype)
    if num_layers is not None:
      model = _first_layers(model, num_layers)
  else:
    reader = CheckpointReader(
      source, dtype=dtype, num_layers=num_layers, revision=revision
    )
    to = to or ('orbax' if reader.gguf is None else 'hf')
    companions = reader.companions()
    with _bar('Reading', reader.num_bytes) as bar:
      model = reader.load(on_bytes=bar.update)

  with new_folder(target) as partial:
    if to == 'orbax':
      with _waiting('Writing'):
        save_orbax(model, partial)
    else:
      size = sum(array.nbytes for array in model.weights().values())
      with _bar('Writing', size) as bar:
        save_checkpoint(
          model,
          partial,
          max_shard_bytes=max_shard_bytes,
          on_bytes=bar.update,
        )
    for name, content in companions.items():
      (partial / name).write_bytes(content)
  return to


def _bar(what: str, total: int):
  """A progress bar in bytes."""
  return tqdm.tqdm(desc=what, total=total, unit='B', unit_scale=True)


@contextlib.contextmanager
def _waiting(what: str):
  """Shows how long a step has taken that does not say how far it is."""
  done = threading.Event()
  with tqdm.tqdm(desc=what, bar_format='{desc} ... {elapsed}') as bar:

    def tick():
      while not done.wait(1):
        bar.refresh()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
      yield
    finally:
      done.set()
      thread.join()


def _first_layers(model: Decoder, num_layers: int) -> Decoder:
  config = model.config.truncated(num_layers)
  weights = {
    name: array[:num_layers] if LETTERS[name][0] == 'L' else array
    for name, array in model.weights().items()
  }
  return Decoder(config, weights)


def main(argv: list[str]) -> int:
  """Returns the exit code: 0, or 1 if nothing was converted."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}.')
  values = flags.FLAGS
  try:
    written = convert(
      values.source,
      values.target,
      to=values.to,
      dtype=values.dtype,
      num_layers=values.num_layers,
      revision=values.revision,
      max_shard_bytes=values.max_shard_bytes,
    )
  except (ImportError, OSError, ValueError) as error:
    print(f'Error: {error}', file=sys.stderr)
    return 1
  print(f'{values.target}: written in the {written} format.')
  return 0


if __name__ == '__main__':
  define_flags()
  app.run(main)
