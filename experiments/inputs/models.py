"""What an experiment works on: models, and where the bundled world is.

Where nothing is said it is the bundled world (experiments/miniworld), whose
files are read by the very code that reads public ones.
"""

import os
import pathlib
import re

import gemma_jax as gj

BUNDLE = pathlib.Path(__file__).parents[1] / 'miniworld' / 'bundle'
BASE, CHAT = BUNDLE / 'base', BUNDLE / 'chat'
SAES, ENTITIES = BUNDLE / 'saes', BUNDLE / 'entities'
# Entities that the bundled model saw seldom; and text of its world.
RARE, TEXT = BUNDLE / 'rare', BUNDLE / 'text.txt'
# What --help and flags.txt call them.
BUNDLED = 'miniworld'


def short_name(model: str) -> str:
  """Returns a model's name in tables: the end of its path or hub id."""
  path = pathlib.Path(model)
  name = path.stem if path.suffix == '.gguf' else path.name
  return re.sub(r'[^\w.-]+', '-', name)


def resolve_path(value: str, bundled: pathlib.Path) -> str:
  """Returns the path or name that a flag stands for.

  Raises:
    FileNotFoundError: the bundled world is meant, and is not there.
  """
  if value != BUNDLED:
    return value
  if not bundled.is_dir():
    raise FileNotFoundError(
      f'{bundled} does not exist: this checkout lacks the bundled world. '
      f'`python -m tools.train_miniworld --out={BUNDLE}` makes it.'
    )
  return str(bundled)


def open_model(path: str, dtype: str | None = None) -> gj.CheckpointReader:
  """Opens a whole checkpoint; no weight is read yet.

  Raises:
    ValueError, OSError, ImportError: see `CheckpointReader`; or the checkpoint
      holds only the first layers of a model.
  """
  reader = gj.CheckpointReader(path, dtype=dtype)
  if (whole := reader.config.truncated_from) is not None:
    raise ValueError(
      f'{reader.folder} holds the first {reader.config.num_layers} of {whole} '
      'layers; take the whole model.'
    )
  return reader


def open_named(
  model: str, dtype: str | None = None, bundled: pathlib.Path = BASE
) -> tuple[gj.CheckpointReader, gj.Tokenizer]:
  """Opens what --model names, and its tokenizer; no weight is read yet.

  Args:
    model: A folder, a hub id, a .gguf file, or BUNDLED.
    dtype: Data type of the weights; None is the checkpoint's.
    bundled: What BUNDLED stands for.

  Raises:
    ValueError: the model has no tokenizer; or see `open_model`.
    OSError, ImportError: see `open_model`.
  """
  path = resolve_path(model, bundled)
  reader = open_model(path, dtype)
  tokenizer = gj.read_tokenizer(reader)
  if tokenizer is None:
    raise ValueError(f'{path} has no tokenizer, which prompts are read with.')
  return reader, tokenizer


def open_chat_model(
  path: str, base: gj.CheckpointReader, dtype: str | None = None
) -> gj.CheckpointReader:
  """Opens the chat model, checked to be of the base model's shape.

  Raises:
    ValueError: its layers or widths are others; or see `open_model`.
  """
  reader = open_model(path, dtype)
  for name in ('num_layers', 'd_model', 'num_heads', 'vocab_size'):
    mine, its = getattr(reader.config, name), getattr(base.config, name)
    if mine != its:
      raise ValueError(
        f'{reader.folder} has {name}={mine}, the base model {base.folder} '
        f'{its}: it is no chat model of it, and its SAEs do not fit.'
      )
  return reader


def read_tokenizer(reader: gj.CheckpointReader) -> gj.Tokenizer:
  """Reads the tokenizer in the folder of a checkpoint."""
  return gj.Tokenizer.from_pretrained(os.fspath(reader.folder))
