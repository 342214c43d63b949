"""One study of the planted model, which several tests look at."""

import pytest

from experiments.steering.questions import make_questions
from experiments.steering.study import SteeringOptions, Strength, steer
from tests.experiments.steering import planted

TEXTS = ['the player Kim0 Lee0 the city Old1 Town1 the player Jon2 Doe2'] * 30


@pytest.fixture(scope='session')
def questions():
  return make_questions(
    planted.tokenizer(),
    planted.entities(planted.KNOWN),
    planted.entities(planted.UNKNOWN),
  )


def run_study(questions, folder, redo=False, **changes):
  """Added norms: 5 along S refuses, above 2; 5 against it leaves -1."""
  options = {
    'num_random_directions': 4,
    'sweep': (0.1, 1.0),
    'max_new_tokens': 8,
    'rows_per_batch': 20,  # of all arms, so that they share a program
  }
  return steer(
    planted.model(),
    planted.tokenizer(),
    questions,
    [planted.target('known'), planted.target('unknown')],
    {
      'known': Strength(alpha=10.0),
      'unknown': Strength(goal=0.9, grid=(0.1, 1.0)),
    },
    SteeringOptions(**options | changes),
    validation=questions,
    texts=TEXTS,
    folder=folder,
    identity={'model': 'planted'},
    redo=redo,
  )


@pytest.fixture(scope='session')
def study_folder(tmp_path_factory):
  return tmp_path_factory.mktemp('study')


@pytest.fixture(scope='session')
def study(questions, study_folder):
  return run_study(questions, study_folder)
