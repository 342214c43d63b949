"""A tiny model with a tokenizer and texts, and ways to run the binaries."""

from collections.abc import Callable, Mapping, Sequence
import json
import pathlib

from absl import flags
import numpy as np

from experiments.entities import Entity, Record, prompt_types_of
from experiments.inputs.token_rows import TokenRows, write_rows
from experiments.runs import define_flags
from experiments.runs.binary import parse
from experiments.runs.binary import run as run_study
import gemma_jax as gj
from tests import tiny
from tests.gemma_jax.text import tiny_tokenizer

VOCABULARY = 600  # the tokenizer has fewer
SPECIAL = (0, 1, 2)
WORDS = 'the player Paris was born in city art party of movie San'.split()


def model() -> gj.Decoder:
  return tiny.ours(vocab_size=VOCABULARY)


def save(folder: pathlib.Path, tokenizer: bool = True) -> pathlib.Path:
  gj.save_checkpoint(model(), folder)
  if tokenizer:
    tiny_tokenizer.save(folder)
  return folder


def texts(count: int, seed: int = 0) -> list[str]:
  rng = np.random.default_rng(seed)
  return [
    ' '.join(rng.choice(WORDS, rng.integers(1, 60))) for _ in range(count)
  ]


def write_jsonl(path: pathlib.Path, documents, field='text') -> pathlib.Path:
  lines = [json.dumps({field: document}) for document in documents]
  path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
  return path


def write(folder: pathlib.Path, documents, **changes) -> TokenRows:
  """Documents as rows of at most ten tokens."""
  options = {
    'identity': {'documents': documents},
    'context': 10,
    'vocab_size': VOCABULARY,
    'special': SPECIAL,
  }
  return write_rows(
    folder, lambda: iter(documents), tiny_tokenizer.ours(), **options | changes
  )


def records(
  entities: Mapping[str, Sequence[Entity]],
  known: Callable[[Entity], bool],
  samples: int = 3,
) -> dict[str, list[Record]]:
  """Answers of a model to all there is to ask: all right, or all wrong.

  Args:
    entities: Type -> entities.
    known: Whether it knows one.
    samples: Answers to each question, besides the greedy one.
  """
  found = {}
  for of_type in entities.values():
    for entity in of_type:
      label = 'correct' if known(entity) else 'error'
      for prompt_type in prompt_types_of(entity):
        record = Record(
          entity=entity.name,
          entity_type=entity.type,
          prompt_type=prompt_type.name,
          correct_answer=entity.attributes[prompt_type.attribute],
          prompt='?',
          question=None,
          greedy_completion='x',
          sampled_completions=('x',) * samples,
          string_matching_greedy_label=label,
          string_matching_sampled_labels=(label,) * samples,
          label=label,
        )
        found.setdefault(prompt_type.name, []).append(record)
  return found


def run(binary, *arguments: str) -> int:
  """Returns the exit code of a program with these flags."""
  values = flags.FlagValues()
  names = define_flags(binary.Settings, values)
  try:
    parse(['test', *arguments], values)
  except SystemExit as error:
    return error.code
  return run_study(binary.Settings, binary.work, values, names)
