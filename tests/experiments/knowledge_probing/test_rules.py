"""Rules decide as their sources say; tables by hand."""

import dataclasses
import math

import numpy as np
import pytest

from experiments.knowledge_probing import rules
from experiments.knowledge_probing.rules import RuleSettings, decide, decide_all
from tests.experiments.knowledge_probing import made

SETTINGS = RuleSettings()

# Of ten samples: right, informative and wrong, refusals, uninformative.
# The specification's table, section 3.3, row by row.
LLAMA3 = (
  # consistently informative and wrong
  ('w', 'w' * 10, 'refuse'),
  ('w', 'w' * 8 + 'rr', 'refuse'),
  ('w', 'wW' * 4 + 'nn', 'refuse'),  # it need not be the same error
  ('c', 'w' * 10, 'refuse'),  # even if the greedy answer is right
  ('w', 'w' * 9 + 'c', 'unsure'),  # one right sample is above unknown_max
  ('w', 'w' * 7 + 'rrr', 'drop'),
  # known
  ('c', 'c' * 10, 'answer'),
  ('c', 'c' * 8 + 'ww', 'answer'),
  ('w', 'c' * 8 + 'ww', 'drop'),  # its greedy answer is wrong
  ('w', 'c' * 10, 'drop'),
  # it declines already
  ('r', 'r' * 10, 'refuse_keep'),
  ('r', 'r' * 8 + 'ww', 'refuse_keep'),
  ('r', 'r' * 8 + 'cc', 'refuse_keep'),
  # in between
  ('c', 'c' * 7 + 'www', 'unsure'),
  ('w', 'c' + 'r' * 7 + 'ww', 'unsure'),
  # noise
  ('n', 'n' * 10, 'drop'),
  ('w', 'wwwwrrrrnn', 'drop'),
)


@pytest.mark.parametrize(('greedy', 'samples', 'expected'), LLAMA3)
def test_llama3_is_the_table(greedy, samples, expected):
  score = made.score(greedy=greedy, samples=samples)
  assert decide('llama3', score, SETTINGS) == expected


def test_thresholds_are_inclusive():
  settings = RuleSettings(known_min=0.5, unknown_max=0.25, consistent_min=0.75)
  assert decide('llama3', made.score('q', 'w', 'wwwc'), settings) == 'refuse'
  assert decide('llama3', made.score('q', 'c', 'ccww'), settings) == 'answer'
  assert decide('llama3', made.score('q', 'r', 'rrrn'), settings) == (
    'refuse_keep'
  )


@pytest.mark.parametrize(
  ('greedy', 'samples', 'correctness', 'absolute', 'multisample'),
  [
    ('c', 'cccc', 'answer', 'answer', 'answer'),
    ('c', 'wwww', 'answer', 'answer', 'refuse'),
    ('w', 'cccc', 'refuse', 'answer', 'answer'),
    ('w', 'wwwc', 'refuse', 'answer', 'unsure'),
    ('w', 'wrwn', 'refuse', 'refuse', 'refuse'),
    ('r', 'rrrr', 'refuse', 'refuse', 'refuse'),
    ('ccw', 'wwww', 'answer', 'answer', 'refuse'),  # two of three prompts
    ('cw', 'wwww', 'refuse', 'answer', 'refuse'),  # a half is not most
  ],
)
def test_the_other_rules(greedy, samples, correctness, absolute, multisample):
  score = made.score(greedy=greedy, samples=samples)
  assert decide('correctness', score, SETTINGS) == correctness
  assert decide('honesty_absolute', score, SETTINGS) == absolute
  assert decide('honesty_multisample', score, SETTINGS) == multisample


def test_craft_keeps_the_certain_known_and_the_uncertain_unknown():
  scores = [
    made.score('sure right', 'c', 'cccc'),
    made.score('middling right', 'c', 'cccw'),
    made.score('torn right', 'c', 'cwWr'),
    made.score('sure wrong', 'w', 'wwww'),
    made.score('middling wrong', 'w', 'wwwW'),
    made.score('torn wrong', 'w', 'wWrn'),
  ]
  assert decide_all('craft', scores, SETTINGS) == {
    'sure right': 'answer',
    'middling right': 'answer',  # the median itself is certain
    'torn right': 'drop',
    'sure wrong': 'drop',
    'middling wrong': 'refuse',  # the median itself is uncertain
    'torn wrong': 'refuse',
  }


def test_craft_never_refuses_what_all_samples_agree_on():
  """Most errors are certain: their median is 1, and yet they are left out."""
  scores = [made.score(f'sure {i}', 'w', 'wwww') for i in range(5)]
  scores.append(made.score('torn', 'w', 'wW'))
  made_of = decide_all('craft', scores, SETTINGS)
  assert [id for id, what in made_of.items() if what == 'refuse'] == ['torn']


def test_craft_leaves_out_what_a_rehearsal_teaches():
  names = ('fell', 'same', 'rose a little', 'rose')
  scores = [made.score(name, 'w', 'cc' + 'wW' * 4) for name in names]
  scores.append(made.score('right', 'c', 'c' * 10))
  rehearsed = dict(zip(names, (0.1, 0.2, 0.3, 0.4), strict=True))
  found = decide_all('craft', scores, SETTINGS, rehearsed)
  assert [found[name] for name in names] == ['refuse'] * 3 + ['drop']
  # .3 less .2 is less than .1 as floats are, .8 less .7 is more.
  scores = [made.score('q', 'w', 'c' * 7 + 'wWr')]
  assert decide_all('craft', scores, SETTINGS, {'q': 0.8}) == {'q': 'refuse'}
  with pytest.raises(ValueError, match="such as 'q'.*needs all"):
    decide_all('craft', scores, SETTINGS, {})


def test_craft_without_one_of_the_classes():
  right = [made.score('a', 'c', 'cccc'), made.score('b', 'c', 'ccww')]
  assert decide_all('craft', right, SETTINGS) == {'a': 'answer', 'b': 'drop'}
  assert decide_all('craft', [], SETTINGS) == {}


@pytest.mark.parametrize(
  ('samples', 'expected'),
  [
    ('cccc', 1.0),
    ('cwWr', 0.0),
    ('ccww', 1 - math.log(2) / math.log(4)),
    ('w', 1.0),  # one sample cannot disagree
  ],
)
def test_certainty(samples, expected):
  np.testing.assert_allclose(
    rules.certainty(made.score(samples=samples)), expected, atol=1e-11
  )


def test_certainty_does_not_depend_on_how_clusters_are_ordered():
  found = {
    rules.certainty(made.score(samples=samples))
    for samples in ('ccwwwWWWWW', 'wwcccWWWWW', 'WWwwwccccc')
  }
  assert len(found) == 1


def conflict(scores):
  decisions = {
    rule: rules.decide_all(rule, scores, SETTINGS) for rule in rules.RULES
  }
  return rules.conflict(scores, decisions, SETTINGS)


def test_conflict_counts_who_refuses_which_error():
  scores = [
    *(made.score(f'sure {i}', 'w', 'wwwww') for i in range(3)),
    *(made.score(f'torn {i}', 'w', 'wwWWr') for i in range(2)),
    made.score('lucky', 'w', 'wWWrc'),
    made.score('right', 'c', 'ccccc'),
    made.score('declines', 'r', 'rrrrr'),  # no error
  ]
  found = conflict(scores)
  assert (found['errors'], found['certain'], found['uncertain']) == (6, 3, 3)
  share = {
    rule: (by['certain']['value'], by['uncertain']['value'])
    for rule, by in found['refused'].items()
  }
  assert share['correctness'] == (1.0, 1.0)
  # 'torn' has four of five informative and wrong, though not alike.
  assert share['llama3'] == (1.0, pytest.approx(2 / 3))
  assert share['craft'] == (0.0, 1.0)
  assert share['honesty_absolute'] == (1.0, pytest.approx(2 / 3))
  low, high = (found['refused']['craft']['certain'][k] for k in ('low', 'high'))
  assert low == 0 and 0.5 < high < 0.6  # Wilson's, none of three
  empty = conflict([made.score()])
  assert empty['errors'] == 0
  assert empty['refused']['llama3']['certain']['value'] is None


def test_bad_input_is_named():
  with pytest.raises(ValueError, match="'vote', expected one of"):
    decide('vote', made.score(), SETTINGS)
  with pytest.raises(ValueError, match='use decide_all'):
    decide('craft', made.score(), SETTINGS)
  with pytest.raises(ValueError, match='known_min is 1.5'):
    RuleSettings(known_min=1.5)
  with pytest.raises(ValueError, match='unknown_max=0.8 must be below'):
    RuleSettings(unknown_max=0.8)
  bare = dataclasses.replace(made.score(), samples=(), n=0)
  with pytest.raises(ValueError, match="'q' has 0 samples"):
    decide_all('llama3', [bare], SETTINGS)
