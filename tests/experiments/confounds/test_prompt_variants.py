"""Changed names, and what names alone tell."""

import numpy as np
import pytest

from experiments.confounds.baselines import balance_of_tokens
from experiments.confounds.prompt_variants import (
  ALTERED,
  FAMILIAR,
  TEST,
  in_bytes,
  labelled,
  make_prompts,
)
from experiments.entities import Classes, Entity, EntitySplits
from experiments.entities.entity_splits import split_classes
from experiments.latents import LabelledEntities
from experiments.miniworld.world import WorldConfig, make_world
from tests.gemma_jax.text import tiny_tokenizer

FIRST = 'San Party Art Texas Leonard Paris City Are'.split()
LAST = 'Paris Diego Animals Texas Leonard Parisians Player Music'.split()


def people() -> EntitySplits:
  """Known: every first word with the last word of its place; two types."""
  entities, classes = {}, {}
  for kind, shift in (('player', 0), ('city', 1)):
    known = [
      f'{a} {b}'
      for a, b in zip(FIRST, LAST[shift:] + LAST[:shift], strict=True)
    ]
    known += [f'{a} {a}' for a in ('Zoo', 'Late', 'Late Late', 'Yes')]
    unknown = [
      f'{a} {b} {kind}' for a, b in zip(FIRST, LAST[::-1], strict=True)
    ] + [f'Unknown {i} {kind}' for i in range(6)]
    entities[kind] = [Entity(name, kind, {}) for name in known + unknown]
    classes[kind] = Classes(tuple(known), tuple(unknown), ())
  return split_classes(entities, classes)


@pytest.fixture(scope='module')
def made():
  familiar = [Entity('Art Late', 'city', {})]
  return make_prompts(
    people(), tiny_tokenizer.ours(), familiar=familiar, taken={'Nobody'}
  )


def of(shown, kind):
  return [one for one in shown if one.kind == kind]


def test_test_comes_first_and_the_rest_refers_to_it(made):
  shown, _ = made
  entities, labels = labelled(people(), TEST)
  test = of(shown, TEST)
  assert [one.entity for one in shown[: len(test)]] == entities
  assert [one.label == 'known' for one in test] == labels.known.tolist()
  for kind in ALTERED:
    for one in of(shown, kind):
      assert test[one.of].label == 'known' == one.label
  assert of(shown, FAMILIAR)[0].of == -1


def test_mixed_names_are_nobodys(made):
  shown, _ = made
  test = of(shown, TEST)
  taken = {one.entity.name for one in test}
  lasts = {
    (one.entity.type, one.entity.name.rpartition(' ')[2])
    for one in test
    if one.label == 'known'
  }
  mixed = of(shown, 'mixed')
  assert mixed
  for one in mixed:
    before = test[one.of].entity
    first, _, last = one.entity.name.rpartition(' ')
    assert first == before.name.rpartition(' ')[0]
    assert (before.type, last) in lasts and one.entity.type == before.type
    assert one.entity.name not in taken


def test_the_other_changes(made):
  shown, skipped = made
  test = of(shown, TEST)
  for one in of(shown, 'reversed'):
    first, _, last = test[one.of].entity.name.rpartition(' ')
    assert one.entity.name == f'{last} {first}'
  for one in of(shown, 'wrong type'):
    before = test[one.of].entity
    assert one.entity.name == before.name and one.entity.type != before.type
    assert one.entity.type in one.prompt.text
  for one in of(shown, 'no type'):
    assert one.prompt.text == f"The '{test[one.of].entity.name}'"
  tokenizer = tiny_tokenizer.ours()
  for one in of(shown, 'typo'):
    before = test[one.of].entity.name
    assert len(one.entity.name) == len(before) + 1
    assert not in_bytes(tokenizer, one.entity)
  known = sum(one.label == 'known' for one in test)
  missing = known - len(of(shown, 'typo'))
  assert not missing or skipped['typo'].startswith(f'{missing} ')


def test_draws_follow_the_seed(made):
  shown, _ = made
  again, _ = make_prompts(people(), tiny_tokenizer.ours(), taken={'Nobody'})
  names = lambda found: [one.entity.name for one in found if one.of >= 0]
  assert names(shown) == names(again)
  taken = {one.entity.name for one in of(shown, 'mixed')}
  other, _ = make_prompts(people(), tiny_tokenizer.ours(), taken=taken)
  assert not taken & {one.entity.name for one in of(other, 'mixed')}


def test_words_of_miniworld_are_balanced():
  """Tokens tell nothing of known-ness, less than of shuffled labels."""
  world = make_world(WorldConfig(words=32, tail=9))
  names, known, types = [], [], []
  for group in ('held_out', 'unseen'):
    names += (world.pairs[group] + [0, 100]).tolist()
    known += [group == 'held_out'] * len(world.pairs[group])
    types += world.types[group].tolist()
  entities = LabelledEntities(
    types=('player', 'movie', 'city', 'song'),
    names=tuple(map(str, names)),
    type_of=np.array(types),
    known=np.array(known),
  )
  found = balance_of_tokens(entities, names)
  assert found['auroc'] == pytest.approx(0.5, abs=0.005)
  assert found['shuffled']['low'] > 0.6
  # Where one word gives it away it is found.
  given = [
    [1 if k else 0, last] for k, (_, last) in zip(known, names, strict=True)
  ]
  assert balance_of_tokens(entities, given)['auroc'] == 1
