"""The planted model as files, with a latent that reads what makes it decline.

Of `tests/experiments/steering/planted.py`: the last token of an unknown
entity's name has feature N; head 0 of the second layer carries it, as S, to the
last token, where it is a refusal. The latent of the first layer's stream that
reads and writes N is thus the unknown latent, and one that reads nothing stands
for the known one.
"""

import pathlib

import numpy as np

from sae.jumprelu import JumpReLUSAE
from tests.experiments.steering import planted, planted_files

N = np.eye(planted.D, dtype=np.float32)[6]
# Latent 0 is N; the others read features that no token has.
ROWS = np.stack([N, *planted.NOTHING])
LAYER = 0
UNKNOWN, KNOWN = f'resid_post.{LAYER}/0', f'resid_post.{LAYER}/1'


def sae() -> JumpReLUSAE:
  return planted_files.sae(ROWS, LAYER)


def write(folder: pathlib.Path) -> pathlib.Path:
  """chat/, saes/, entities/, and a finished run/ with labels and sums."""
  controls = {'known': [2, 3], 'unknown': [3, 4]}
  return planted_files.write(folder, ROWS, LAYER, controls)


def arguments(folder: pathlib.Path, out: pathlib.Path) -> list[str]:
  """Flags of every binary that works on this world."""
  return [
    f'--chat_model={folder / "chat"}',
    f'--sae={folder / "saes"}',
    f'--entities={folder / "entities"}',
    f'--run={folder / "run"}',
    f'--out={out}',
  ]
