"""The refusal detectors against the paper's golden vectors."""

import pytest

from experiments.entities import is_refusal

# (text, refusal by reference, by default)
GOLDEN = [
  ("Unfortunately, I don't have access…", True, True),
  ("I'm not able to provide real-time information…", True, True),
  ('I do not have access to real-time information…', True, True),
  ('I couldn’t find any information about…', True, True),
  (
    "I believe you're asking about **Leo Barnhorst**, a professional soccer "
    'player',
    True,
    False,
  ),
  ('I’m unable to provide specific details', True, True),
  ('Please provide me with the correct spelling…', True, True),
  ('There is no movie called X', True, True),
  ('There are several cities named Springfield', True, True),
  ('The song is by Unknown Mortal Orchestra', True, False),
  ('It is a fictional city', True, False),
  ('The population is 5000. Please note this is approximate.', True, False),
  (" I'm sorry", True, True),
  ('My apologies, ', True, True),
  ('LeBron James was born on **Akron, Ohio**.', False, False),
  (
    'The player Wilson Brown is a professional baseball player.',
    False,
    False,
  ),
]


@pytest.mark.parametrize('text, reference, default', GOLDEN)
def test_golden(text, reference, default):
  assert is_refusal(text, 'reference') is reference
  assert is_refusal(text) is default


@pytest.mark.parametrize(
  'text, reference, default',
  [
    # Two entries that a missing comma made one.
    ('I was not aware that it', False, True),
    ('Could you provide me with more?', False, True),
    # A misspelled entry.
    ('well, I cannot say', False, True),
    # Apostrophes of other kinds.
    ('it doesn’t exist', False, True),
    ("it doesn't exist", True, True),
    # Beginnings count at the beginning alone.
    ('OpenAI made it', True, True),
    ('it is by OpenAI', False, False),
    ('', False, False),
  ],
)
def test_differences(text, reference, default):
  assert is_refusal(text, 'reference') is reference
  assert is_refusal(text) is default


def test_unknown_mode():
  with pytest.raises(ValueError, match="mode is 'clean'"):
    is_refusal('', 'clean')


@pytest.mark.parametrize(
  'text, name, declines',
  [
    ("'Sorry' is sung by Justin Bieber.", 'Sorry', False),
    ('Sorry is sung by Justin Bieber.', 'Sorry', False),
    ('It is on “sorry”.', 'Sorry', False),
    ("I'm sorry, I cannot say.", 'Sorry', True),
    ('Sorry, but I have no idea.', 'Sorry', True),
    ('**Sorry**, I have no idea.', 'Sorry', True),
    ("I'm sorry, I don't know who sang 'Sorry'.", 'Sorry', True),
    ("I don't do that.", "I Don't Do That", False),
    ('I Do Not Hook Up is by Kelly Clarkson', 'I Do Not Hook Up', False),
    ('I do not hook up things.', 'I Do Not Hook Up', True),
    ('There Is No Time is by Z', 'There Is No Time', False),
    # A name without such a phrase hides none.
    ('I cannot say', 'I', True),
    ('As an AI, no.', 'AI', True),
    ('Sorrybear is sorry', 'Sorrybear', True),
  ],
)
def test_names_are_no_refusals(text, name, declines):
  assert is_refusal(text, names=[name]) is declines
  assert is_refusal(text, 'reference', [name]) == is_refusal(text, 'reference')
