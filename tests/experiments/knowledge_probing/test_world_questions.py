"""Questions about the bundled world say what its files and its text say."""

import collections

from experiments import inputs
from experiments.entities import read_entities
from experiments.knowledge_probing.world_questions import (
  GROUPS,
  bundled_world,
  world_questions,
)


def found():
  return world_questions(bundled_world(inputs.BUNDLE))


def test_answers_are_those_of_the_entity_files():
  """Of entities that no chat tuning saw; the files are written apart."""
  files = {
    entity.name: entity
    for entities in read_entities(inputs.ENTITIES).values()
    for entity in entities
  }
  seen = 0
  for q in found():
    if q.split == 'train':
      continue
    entity = files[q.entity]
    assert entity.type == q.type
    attribute = q.relation.removeprefix(f'{q.type}_')
    if q.known:
      assert q.answers == (entity.attributes[attribute],)
      seen += 1
    assert q.entity in q.question
  assert seen == 3 * (GROUPS['validation'][2] + GROUPS['test'][2])


def test_text_has_what_is_known_and_nothing_else():
  """Documents with a known entity's name and its value, and none of others'."""
  text = (inputs.BUNDLE / 'text.txt').read_text('utf-8').splitlines()
  by_name = collections.defaultdict(list)
  for line in text:
    words = line.replace("'", '').replace(',', '').replace('.', '').split()
    for pair in zip(words, words[1:], strict=False):
      by_name[' '.join(pair)].append(set(words))
  agree, said = collections.Counter(), collections.Counter()
  for q in found():
    group = (q.split, q.known)
    documents = by_name[q.entity]
    said[group] += len(documents)
    agree[group] += sum(q.answers[0] in words for words in documents)
  for split in GROUPS:
    assert agree[split, True] > 0.4 * said[split, True] > 0
  assert agree['train', False] < 0.1 * said['train', False]
  assert said['test', False] == said['validation', False] == 0


def test_no_entity_is_in_two_splits_and_types_are_even():
  questions = found()
  assert questions == found()
  splits = collections.defaultdict(set)
  for q in questions:
    splits[q.entity].add((q.split, q.known))
  assert all(len(each) == 1 for each in splits.values())
  counts = collections.Counter((q.split, q.known, q.type) for q in questions)
  for split, (_, _, count) in GROUPS.items():
    of_split = {n for (s, _, _), n in counts.items() if s == split}
    assert of_split == {3 * count // 4}
  other = world_questions(bundled_world(inputs.BUNDLE), seed=1)
  assert {q.id for q in other} != {q.id for q in questions}
