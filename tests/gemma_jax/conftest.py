"""Checkpoints that several test files use."""

import pathlib
import shutil

import pytest

from tests.gemma_jax.checkpoints import CONFIG
from tools.make_checkpoint import random_model, write_checkpoint


@pytest.fixture(scope='session')
def model():
  return random_model(CONFIG)


@pytest.fixture(scope='session')
def saved(tmp_path_factory):
  """Folders 'one' and 'four', by the number of files."""
  folder = tmp_path_factory.mktemp('saved')
  write_checkpoint(CONFIG, folder / 'one')
  write_checkpoint(CONFIG, folder / 'four', shards=4)
  return folder


@pytest.fixture
def one(saved, tmp_path):
  """A copy of the checkpoint of one file, to be damaged."""
  return pathlib.Path(shutil.copytree(saved / 'one', tmp_path / 'one'))


@pytest.fixture
def four(saved, tmp_path):
  """A copy of the checkpoint of four files, to be damaged."""
  return pathlib.Path(shutil.copytree(saved / 'four', tmp_path / 'four'))
