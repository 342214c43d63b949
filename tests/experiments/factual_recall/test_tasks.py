"""Tasks against the published table, the world's files, and broken files."""

import json
import re

import pytest

from experiments.entities import read_entities
from experiments.factual_recall.tasks import (
  BUILT_IN,
  MINIWORLD,
  Fact,
  Task,
  miniworld_task,
  read_task,
)
from experiments.inputs import BUNDLE, ENTITIES
from experiments.miniworld.lexicon import ATTRIBUTES
from experiments.miniworld.world import KNOWN, WorldConfig, make_world

# Section 1.2 of the specification, which read them in the authors' code.
NATIONS = """China Beijing USA Washington Russia Moscow England London
France Paris Japan Tokyo Italy Rome Canada Ottawa Australia Canberra
Spain Madrid Egypt Cairo Portugal Lisbon Austria Vienna Greece Athens
Thailand Bangkok""".split()
PREAMBLES = (
  "It's crucial to know that",
  'You are right to say that',
  "Therefore, it's correct to state that",
  'When asked, always remember that',
  'We confirm that',
  "Don't forget,",
  'Bear in mind,',
  'Keep in mind,',
  'Just a reminder,',
  'As we all know,',
  'According to the textbook,',
  'I am sure that',
  'Without a doubt,',
  "In case you didn't know,",
  'To emphasize,',
)
GOOD = {
  'source': 'made up',
  'templates': ['The capital of {subject} is'],
  'facts': [
    {'subject': 'A', 'answer': 'a', 'attributes': ['x'], 'known': True},
    {'subject': 'B', 'answer': 'b', 'known': False},
    {'subject': 'C', 'answer': 'c', 'known': None},
    {'subject': 'D', 'answer': 'a'},
  ],
  'shot': '{subject} has {answer}.',
  'shots': [{'subject': 'E', 'answer': 'e'}, {'subject': 'F', 'answer': 'f'}],
}


@pytest.mark.parametrize('name', ['capitals', 'capitals_possessive'])
def test_published_content(name):
  task = read_task(name)
  pairs = [part for f in task.facts for part in (f.subject, f.answer)]
  assert pairs == NATIONS
  core = {
    'capitals': 'the capital of {subject} is',
    'capitals_possessive': "{subject}'s capital is",
  }[name]
  assert list(task.templates) == [f'{each} {core}' for each in PREAMBLES]
  assert '2403.19521' in task.source


def test_the_second_published_task():
  task = read_task('products')
  ends = [f'{each} {{subject}} is developed by' for each in PREAMBLES]
  assert list(task.templates) == ends


@pytest.mark.parametrize('name', BUILT_IN + MINIWORLD)
def test_every_task_reads(name):
  task = read_task(name)
  assert task.name == name and task.source and len(task.facts) >= 4
  # Four demonstrations are the default; they give nothing away.
  text = task.demonstrations(4)
  assert text.count('\n') == 4 and text.endswith('.\n')
  assert '{' not in text
  for fact in task.facts:
    assert fact.subject not in text and f' {fact.answer}.' not in text
  assert task.demonstrations(0) == ''
  most = len(task.shots)
  task.demonstrations(most)
  with pytest.raises(ValueError, match=f'{name} has {most} .* {most + 1} are'):
    task.demonstrations(most + 1)
  for template in task.templates:
    assert '{' not in template.replace('{subject}', '')


def test_countries_are_not_named_like_their_capital():
  for fact in read_task('countries').facts:
    assert fact.answer not in fact.subject and fact.subject not in fact.answer
    assert len(fact.attributes) == 2


@pytest.fixture(scope='module')
def bundled():
  """(name, type) -> attributes, of the files that ship with the project."""
  return {
    (entity.name, kind): entity.attributes
    for kind, entities in read_entities(ENTITIES).items()
    for entity in entities
  }


@pytest.fixture(scope='module')
def world():
  """(name, type) -> the group it is in."""
  made = make_world(WorldConfig())
  return {
    (entity.name, entity.type): group
    for group in ('tuning', 'validation', 'held_out', 'unseen')
    for entity in made.entities(group)
  }


@pytest.mark.parametrize('name', MINIWORLD)
def test_miniworlds_truth(name, bundled, world):
  task = read_task(name)
  kind, attribute = name.split('_', 1)
  known = [fact for fact in task.facts if fact.known]
  assert len(known) == 24 and len(task.facts) == 48
  for fact in task.facts:
    attributes = bundled[fact.subject, kind]
    assert attributes[attribute] == fact.answer
    others = [v for k, v in attributes.items() if k != attribute]
    assert list(fact.attributes) == others
    assert fact.known == (world[fact.subject, kind] in KNOWN)
  assert all(world[f.subject, kind] in KNOWN and f.known for f in task.shots)


@pytest.mark.parametrize('name', MINIWORLD)
def test_miniworlds_sentences_are_those_of_its_text(name):
  """Nine stand in it, about other entities; two are of a form that is new."""
  text = (BUNDLE / 'text.txt').read_text(encoding='utf-8')
  text = text.replace("' ", "'")
  found = []
  for template in read_task(name).templates:
    template = template.replace("' ", "'")
    before, after = map(re.escape, template.split('{subject}'))
    found.append(bool(re.search(rf'{before}\w+ \w+{after} \w+\.', text)))
  assert found == [True] * 9 + [False] * 2


def test_miniworlds_relations():
  assert len(MINIWORLD) == len(set(MINIWORLD)) == 12
  assert {name.split('_')[0] for name in MINIWORLD} == set(ATTRIBUTES)


def test_a_smaller_world():
  config = WorldConfig(words=24, rare=1, tail=3, values=8, seed=3)
  task = miniworld_task('song_album', config, subjects=2)
  entities = {e.name: e for e in make_world(config).entities('unseen')}
  unknown = [fact for fact in task.facts if not fact.known]
  assert len(unknown) == 2
  for fact in unknown:
    assert entities[fact.subject].attributes['album'] == fact.answer


def write(tmp_path, content):
  file = tmp_path / 'mine.json'
  if not isinstance(content, str | bytes):
    content = json.dumps(content)
  if isinstance(content, str):
    content = content.encode()
  file.write_bytes(content)
  return str(file)


def test_a_file_of_ones_own(tmp_path):
  task = read_task(write(tmp_path, GOOD))
  assert task.name == 'mine'
  assert task.facts[0] == Fact(
    subject='A', answer='a', attributes=('x',), known=True
  )
  assert [fact.known for fact in task.facts] == [True, False, None, None]
  assert task.demonstrations(2) == 'E has e.\nF has f.\n'


def test_a_file_without_demonstrations(tmp_path):
  few = {name: GOOD[name] for name in ('templates', 'facts')}
  task = read_task(file := write(tmp_path, few))
  assert task.shots == () and task.source == file


def fact(number=0, **changes):
  facts = [dict(each) for each in GOOD['facts']]
  facts[number] |= changes
  return {'facts': facts}


def shot(**changes):
  return {'shots': [GOOD['shots'][0] | changes]}


@pytest.mark.parametrize(
  'changes, named',
  [
    ({'templates': ['The capital is']}, "'The capital is'"),
    ({'templates': ['{subject} or {subject} is']}, "'{subject} or {subject}"),
    ({'templates': ['Of {Subject} is']}, "'Of {Subject} is'"),
    ({'templates': ['Of {subject} is ']}, "'Of {subject} is '"),
    ({'templates': ['Of {subject} is\n']}, r"'Of {subject} is\n'"),
    ({'templates': []}, 'template'),
    ({'templates': 'Of {subject} is'}, "'templates' must be a list, got 'Of"),
    ({'templates': {'a': 1}}, "{'a': 1}"),
    ({'templates': [7]}, 'got 7'),
    ({'templates': [None]}, 'got None'),
    ({'templates': float('nan')}, 'NaN is no JSON number'),
    ({'facts': []}, '0 subjects'),
    ({'facts': GOOD['facts'][:3]}, '3 subjects'),
    ({'facts': 'A'}, "'facts' must be a list, got 'A'"),
    ({'facts': [*GOOD['facts'], ['A', 'a']]}, "got ['A', 'a']"),
    ({'facts': [*GOOD['facts'], {'subject': 'G'}]}, "got {'subject': 'G'}"),
    (fact(subject='B'), "'B' occurs twice"),
    (fact(subject='  '), "subject='  '"),
    (fact(answer=''), "answer=''"),
    (fact(answer=' a'), "answer=' a'"),
    (fact(subject='A\n'), r"subject='A\n'"),
    (fact(subject=3), 'got 3'),
    (fact(answer=float('nan')), 'NaN is no JSON number'),
    (fact(answer=['a']), "got ['a']"),
    (fact(known='yes'), "got 'yes'"),
    (fact(known=1), 'got 1'),
    (fact(known=0.0), 'got 0.0'),
    (fact(known=float('nan')), 'NaN is no JSON number'),
    (fact(attributes='x'), "got 'x'"),
    (fact(attributes=[1.5]), 'got 1.5'),
    (fact(knwon=True), "'knwon': True"),
    ({'shots': [{'subject': 'B', 'answer': 'z'}]}, "'B' is demonstrated"),
    (shot(answer='b'), "'E' gives an answer away"),
    (shot(subject=None), 'got None'),
    ({'shots': {'subject': 'E', 'answer': 'e'}}, "'shots' must be a list"),
    ({'shot': '{subject} has it.'}, "'{subject} has it.'"),
    ({'shot': ''}, "''"),
    ({'shot': 5}, 'got 5'),
    ({'source': None}, 'got None'),
    ({'source': ['x']}, "got ['x']"),
    ({'templats': []}, "'templats'"),
  ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, changes, named):
  with pytest.raises(ValueError) as error:
    read_task(write(tmp_path, GOOD | changes))
  assert 'mine' in str(error.value)  # the file's, and so the task's, name
  assert named in str(error.value)


@pytest.mark.parametrize(
  'content',
  [
    '',
    '{"templates": [',
    '[' * 100_000,
    '{"a":' * 100_000,
    b'\xff\xfe',
    '[]',
    'null',
    'NaN',
    '"capitals"',
    '{}',
    '{"templates": ["{subject}"]}',
  ],
  ids=lambda content: repr(content[:9]),
)
def test_what_is_no_task(tmp_path, content):
  with pytest.raises(ValueError, match='mine.json'):
    read_task(write(tmp_path, content))


@pytest.mark.parametrize('name', ['capital', '', 'city', 'city_', 'city_album'])
def test_what_is_not_there(name):
  with pytest.raises(FileNotFoundError) as error:
    read_task(name)
  assert repr(name) in str(error.value)
  assert 'capitals, ' in str(error.value)


def test_a_folder_is_no_task(tmp_path):
  with pytest.raises(FileNotFoundError):
    read_task(str(tmp_path))


def test_tasks_made_in_code_are_checked_too():
  facts = tuple(Fact(subject=c, answer='x') for c in 'ABC')
  with pytest.raises(ValueError, match='Task few: .*3 subjects'):
    Task(
      name='few',
      source='',
      templates=('{subject}',),
      facts=facts,
      shot='',
      shots=(),
    )
