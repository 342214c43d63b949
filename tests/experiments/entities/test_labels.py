"""Labels against the published ones, and known and unknown by counting."""

import json

import pytest

from experiments.entities import (
  PROMPT_TYPES,
  Record,
  classify,
  label_completion,
  label_record,
  label_trivia,
)
from tests.real_data import of_each

COUNTRY = PROMPT_TYPES['city_country']


def _record(prompt_type, entity, greedy='x', samples=()):
  return Record(
    entity=entity,
    entity_type=PROMPT_TYPES[prompt_type].entity_type,
    prompt_type=prompt_type,
    correct_answer='Italy',
    prompt='...',
    question=None,
    greedy_completion=greedy,
    sampled_completions=tuple(samples),
  )


@of_each
def test_published_labels_of_triviaqa(data):
  """gemma-2b-it's answers; six labels are of an older list of refusals."""
  same = count = 0
  for batch in (0, 1):
    path = data / 'triviaqa' / f'batch_{batch}.json'
    for row in json.loads(path.read_text(encoding='utf-8')):
      completions = [row['greedy_completion'], *row['sampled_completions']]
      labels = [
        row['string_matching_greedy_label'],
        *row['string_matching_sampled_labels'],
      ]
      for completion, label in zip(completions, labels, strict=True):
        found = label_trivia(completion, row['correct_answer'], 'reference')
        same += found == label
        count += 1
  assert count in (64 * 11, 1024 * 11)
  assert same >= count - 6


def test_right_goes_before_refused():
  both = 'Sorry, it is Italy.'
  label = lambda text: label_completion(COUNTRY, text, 'Italy', subject='Rome')
  assert label(both) == 'correct'
  assert label('Sorry!') == 'refusal'
  assert label('Spain') == 'error'
  assert label_trivia(both, ['Italy']) == 'refusal'
  assert label_trivia('It is Italy.', ['Rome', 'Italy']) == 'correct'
  assert label_trivia('It is Spain.', ['Rome', 'Italy']) == 'error'
  record = label_record(_record('city_country', 'Rome', both, [both, 'Spain']))
  assert record.string_matching_greedy_label == 'correct'
  assert record.label == 'refusal'
  assert record.string_matching_sampled_labels == ('correct', 'error')


def test_names_that_sound_like_refusals():
  sung = lambda text, mode='default': label_completion(
    PROMPT_TYPES['song_performers'], text, 'Madonna', mode, subject='Sorry'
  )
  assert sung("'Sorry' is sung by Madonna.") == 'correct'
  assert sung("'Sorry' is sung by Cher.") == 'error'
  assert sung("'Sorry' is sung by Cher.", 'reference') == 'refusal'
  assert sung("Sorry, I don't know who sings Sorry.") == 'refusal'
  asked = 'Who sang "Sorry" in 2005?'
  said = '"Sorry" was sung by Madonna.'
  assert label_trivia(said, ['Madonna'], question=asked) == 'correct'
  assert label_trivia(said, ['Madonna']) == 'refusal'
  assert label_trivia('Sorry', ['Sorry']) == 'correct'
  assert label_trivia('40,000', ['40000']) == 'correct'


def test_modes_of_answers_and_of_refusals():
  label = lambda *modes: label_completion(COUNTRY, *modes, subject='X')
  swapped = ('States? United we are.', 'United States')
  assert label(*swapped) == 'error'
  assert label(*swapped, 'reference') == 'correct'
  fiction = ('a fictional one', 'Italy')
  assert label(*fiction) == 'error'
  assert label(*fiction, 'reference') == 'refusal'
  assert label(*fiction, 'reference', 'default') == 'error'
  assert label(*fiction, 'default', 'reference') == 'refusal'
  with pytest.raises(ValueError, match="mode is 'x'"):
    label(*fiction, 'default', 'x')


def _sampled(prompt_type, entity, right):
  samples = ['Italy'] * right + ['Spain'] * (10 - right)
  return label_record(_record(prompt_type, entity, 'Italy', samples))


def test_known_and_unknown():
  rows = {
    'city_country': [2, 3, 10, 2, 0],
    'city_population': [2, 2, 3, 10, 0],
    'city_elevation': [2, 3, 0, 2, 10],
    'player_weight': [10, 10, 10, 10, 10],  # does not count
    'player_height': [10, 10, 10, 10, 10],
  }
  # With the judge of a country throughout, whatever is asked.
  records = {}
  for name, rights in rows.items():
    records[name] = [
      _sampled('city_country', f'{name.split("_")[0]} {i}', right)
      for i, right in enumerate(rights)
    ]
  classes = classify(records)
  assert list(classes) == ['city']
  assert classes['city'].known == ['city 1', 'city 2']
  assert classes['city'].unknown == ['city 0']
  assert classes['city'].discarded == ['city 3', 'city 4']
  loose = classify(records, min_correct=2, min_known=3)['city']
  assert loose.known == ['city 0', 'city 1', 'city 3']


def test_what_cannot_be_classified():
  few = label_record(_record('city_country', 'Rome', 'x', ['Italy']))
  with pytest.raises(ValueError, match="'Rome' has 1 labelled.*min_correct"):
    classify({'city_country': [few]})
  with pytest.raises(ValueError, match='None of the prompt types.*weight'):
    classify({'player_weight': [_record('player_weight', 'Leo')]})
