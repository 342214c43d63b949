"""Settings of these tests."""

import math

import pytest
import torch

from experiments.inputs import sae_fit
from tests.experiments.attention import statements
from tests.experiments.steering import planted, planted_files


@pytest.fixture(scope='session', autouse=True)
def one_torch_thread():
  """Small products are faster on one thread than handed around."""
  before = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(before)


@pytest.fixture(scope='module', autouse=True)
def planted_saes_fit():
  """SAEs with a few planted latents reconstruct nothing; see test_sae_fit."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sae_fit, 'MOST_FVU', math.inf)
    patch.setattr(sae_fit, 'MOST_OF_PERMUTED', math.inf)
    yield


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  """The planted model as files; latent 0 makes it refuse, latent 1 answer.

  Its base model is the one that knows statements.
  """
  folder = tmp_path_factory.mktemp('world')
  return planted_files.write(
    folder,
    planted.ROWS,
    planted.LAYER,
    controls={'known': [3, 4], 'unknown': [5, 2]},
    base=statements.save(folder / 'base'),
  )
