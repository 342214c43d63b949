"""Settings of these tests."""

import pytest
import torch


@pytest.fixture(scope='session', autouse=True)
def one_torch_thread():
  """Small products are faster on one thread than handed around."""
  before = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(before)
