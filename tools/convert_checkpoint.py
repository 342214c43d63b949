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
import dataclasses
import pathlib
import threading
from typing import Annotated, Literal

import tqdm

from experiments.runs import KeepFlags, check_numbers, start, whole
from gemma_jax.checkpoint import hf_format
from gemma_jax.checkpoint.hf import (
  CheckpointReader,
  check_new_folder,
  new_folder,
  save_checkpoint,
)
from gemma_jax.checkpoint.orbax import is_orbax, load_orbax, save_orbax
from gemma_jax.weights import LETTERS, Decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Says which checkpoint is converted, and how.

  Attributes:
    source: Folder of a Hugging Face or Orbax checkpoint, a hub id, or a .gguf
      file, of Gemma 1, Gemma 2, Gemma 3, Llama, Mistral, Qwen 2, Qwen 3, GPT-2
      or OPT.
    target: Folder to write; new or empty.
    to: Format to write. Default: the one that the source does not have; hf for
      a .gguf file.
    dtype: Data type of the weights that are written. Default: that of the
      source.
    num_layers: Number of layers that are kept, the first ones. Default: all.
    revision: Branch, tag or commit of a hub id. Default: main.
    max_shard_bytes: Size in bytes at which another file is begun, in the hf
      format.
  """

  source: str
  target: str
  to: Literal['orbax', 'hf'] | None = None
  dtype: Literal['bfloat16', 'float16', 'float32'] | None = None
  num_layers: Annotated[int, whole(1, 10_000)] | None = None
  revision: str | None = None
  max_shard_bytes: Annotated[int, whole(1, 10**15)] = 4 * 10**9

  def __post_init__(self):
    check_numbers(self)


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
  """Converts a checkpoint, showing progress on stderr.

  Arguments are those of `Settings`.

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
  """Returns a progress bar in bytes."""
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


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Converts the checkpoint; returns what was written."""
  del keep_flags
  written = convert(**dataclasses.asdict(settings))
  return f'{settings.target}: written in the {written} format.'


if __name__ == '__main__':
  start(Settings, work)
