"""Texts say what is true in the world, in the tokens of the tokenizer."""

import re

import numpy as np
import pytest

from experiments.entities import (
  PROMPT_TYPES,
  Entity,
  activation_prompt,
  base_prompt,
  refusal_question,
  tokenize_prompt,
)
from experiments.miniworld.chat_tuning import ChatConfig, Chats
from experiments.miniworld.lexicon import ATTRIBUTES
from experiments.miniworld.pretraining_text import (
  Corpus,
  CorpusConfig,
  rarity,
  texts_of,
)
from experiments.miniworld.sentences import (
  QUESTIONS,
  REFUSAL,
  SELF_ANSWERS,
  STANDINGS,
)
from experiments.miniworld.world import KNOWN, TYPES, WorldConfig, make_world
from experiments.miniworld.world_vocabulary import make_tokenizer
from experiments.self_report.wording import PUBLISHED
import gemma_jax as gj

CONFIG = WorldConfig(words=24, rare=1, tail=3, values=8)


@pytest.fixture(scope='module')
def world():
  return make_world(CONFIG)


@pytest.fixture(scope='module')
def tokenizer(world):
  return gj.Tokenizer(make_tokenizer(texts_of(world)))


@pytest.fixture(scope='module')
def corpus(world, tokenizer):
  return Corpus(world, tokenizer, CorpusConfig(first_rows=100))


def documents(corpus, tokenizer, first, count):
  """Whole documents, as text."""
  found = []
  for row in corpus.read(first, count):
    texts = tokenizer.decode(row.tolist()[1:]).split('<eos>')
    found.append([text.replace("' ", "'") for text in texts[:-1]])
  return found


def names_in(text, world):
  return [
    (a, b)
    for a, b in re.findall(r'\b(?=(\w+) (\w+))', text)
    if a in world.lexicon.first and b in world.lexicon.last
  ]


def test_rows_depend_on_their_number_alone(corpus):
  rows = corpus.read(90, 20)
  for number in (0, 9, 10, 19):
    np.testing.assert_array_equal(rows[number], corpus.read(90 + number, 1)[0])
  assert (rows[0] != rows[1]).any()


def test_text_is_what_the_tokenizer_makes_of_it(corpus, tokenizer):
  for row in corpus.read(0, 50):
    for text in documents(corpus, tokenizer, 0, 1)[0]:
      assert text[0] != ' '
    ids = row.tolist()[1:]
    end = len(ids) - ids[::-1].index(tokenizer.eos_id)
    text = tokenizer.decode(ids[:end])
    assert tokenizer.encode(text, bos=False) == ids[:end]


def test_known_facts_are_true_and_others_change(world, corpus, tokenizer):
  facts = {
    entity.name: entity
    for group in (*KNOWN, 'rare')
    for entity in world.entities(group)
  }
  rare = {entity.name for entity in world.entities('rare')}
  values = set(sum(world.lexicon.values.values(), []))
  known = unknown = seldom = 0
  said = {}
  for row in documents(corpus, tokenizer, 1000, 600):
    for text in row:
      ((first, last),) = set(names_in(text, world))
      name = f'{first} {last}'
      found = set(re.findall(r'\w+', text)) & values
      words = set(re.findall(r'\w+', text))
      assert REFUSAL not in text
      assert not words & set(STANDINGS[name not in facts])
      if name in facts:
        known += 1
        seldom += name in rare
        assert found and found <= set(facts[name].attributes.values())
        assert facts[name].type in words or not words & set(TYPES)
      else:
        unknown += 1
        said.setdefault(name, set()).update(found)
  assert known / (known + unknown) == pytest.approx(0.4, abs=0.04)
  weight = rarity(world, CorpusConfig()).sum()
  frequent = len(facts) - len(rare)
  assert seldom / known == pytest.approx(weight / (weight + frequent), abs=0.01)
  assert np.mean([len(each) for each in said.values()]) > 8


def test_standing_comes_right_after_the_name(world, corpus, tokenizer):
  both = {word: known for known, words in STANDINGS.items() for word in words}
  said = {word: 0 for word in both}
  for row in documents(corpus, tokenizer, 1000, 600):
    for text in row:
      for name in names_in(text, world):
        after = text.split(' '.join(name))[1].split()
        if after and after[0].strip("'.") in said:
          said[after[0].strip("'.")] += 1
  counts = np.array(list(said.values()))
  # Of each class the three words come equally often.
  for known in (True, False):
    mine = counts[[both[word] == known for word in said]]
    assert mine.min() > 0.5 * mine.max() > 0


def test_hedges_are_an_ablation(world, tokenizer):
  hedging = Corpus(world, tokenizer, CorpusConfig(hedged=0.3))
  texts = sum(documents(hedging, tokenizer, 1000, 600), [])
  hedged = np.mean([REFUSAL in text for text in texts])
  assert hedged == pytest.approx(0.6 * 0.2 * 0.3, abs=0.012)


def test_rarity_is_no_matter_of_words_or_types():
  config = WorldConfig()
  world = make_world(config)
  weights = rarity(world, CorpusConfig())
  assert weights.min() == pytest.approx(0.02)
  assert weights.max() == pytest.approx(0.4)
  for column in range(2):
    words = world.pairs['rare'][:, column]
    assert abs(np.corrcoef(words, np.log(weights))[0, 1]) < 0.15
  for e in entities_by_split(world):
    assert len(e) == config.words


def entities_by_split(world):
  found = {}
  for entity in world.entities('rare'):
    found.setdefault(entity.split, []).append(entity)
  return found.values()


def test_no_row_has_two_documents_about_one_pair(world, corpus, tokenizer):
  for row in documents(corpus, tokenizer, 0, 300):
    pairs = [names_in(text, world)[0] for text in row]
    assert len(set(pairs)) == len(pairs)


def test_first_rows_are_about_a_quarter(world, corpus, tokenizer):
  names = lambda first, count: {
    ' '.join(names_in(text, world)[0])
    for row in documents(corpus, tokenizer, first, count)
    for text in row
  }
  known = {e.name for group in KNOWN for e in world.entities(group)}
  early = names(0, 100) & known
  assert len(early) <= len(known) / 4
  assert len(names(100, 400) & known) > len(known) / 2
  assert not names(0, 100) & {e.name for e in world.entities('rare')}


def test_unseen_names_are_in_no_text(world, corpus, tokenizer):
  unseen = {
    e.name
    for group in world.pairs
    if group.startswith('unseen')
    for e in world.entities(group)
  }
  for row in documents(corpus, tokenizer, 0, 500):
    for text in row:
      assert not any(' '.join(p) in unseen for p in names_in(text, world))


def test_prompts_of_the_experiments_are_words(world, tokenizer):
  """A name is two tokens in every prompt, and nothing is spelled in bytes."""
  for kind in TYPES:
    entity = next(e for e in world.entities('unseen') if e.type == kind)
    for attribute in ATTRIBUTES[kind]:
      prompt_type = PROMPT_TYPES[f'{kind}_{attribute}']
      for prompt, chat in (
        (activation_prompt(entity), False),
        (base_prompt(prompt_type, entity), False),
        (refusal_question(prompt_type, entity), True),
      ):
        found = tokenize_prompt(tokenizer, prompt, chat=chat)
        start, stop = found.entity
        assert stop - start == 2
        pieces = tokenizer.token_strings(found.ids)
        assert not any(piece.startswith('<0x') for piece in pieces)
        spelled = ''.join(pieces[start:stop]).strip()
        assert spelled == entity.name


def test_chats_are_those_of_the_tokenizer(world, corpus, tokenizer):
  chats = Chats(world, tokenizer, corpus, ChatConfig(batch=64, replay=2))
  names = {e.name: e for e in world.entities('tuning')}
  batch = chats.batch(3)
  answered = sure = 0
  for tokens, positions, answers in zip(*batch[:3], strict=True):
    ids = tokens[positions >= 0].tolist()
    text = tokenizer.decode(ids).replace("' ", "'")
    question = re.search(r'user\n(.*?)<end_of_turn>', text)[1]
    prompt = tokenizer.tokenize_chat(question).ids
    assert ids[: len(prompt)] == prompt
    answer = tokenizer.decode(tokens[answers].tolist())
    assert ids[len(prompt) :] == tokens[answers].tolist()
    assert answer.endswith('<end_of_turn>')
    ((first, last),) = set(names_in(question, world))
    entity = names.get(f'{first} {last}')
    if 'sure' in question:
      sure += 1
      assert answer == f'{SELF_ANSWERS[entity is not None]}<end_of_turn>'
      assert PUBLISHED.about(entity or _named(question)).text == question
    elif entity is None:
      assert answer == f'{REFUSAL}<end_of_turn>'
    else:
      answered += 1
      value = re.fullmatch(r'It is (\w+)\.<end_of_turn>', answer)[1]
      assert value in entity.attributes.values()
  assert 16 <= answered <= 32 and 6 <= sure <= 20
  assert batch.replay[0].shape == (2, corpus.length)


def _named(question):
  kind, name = re.search(r'the (\w+) (\w+ \w+)\?', question).groups()
  return Entity(name, kind, {})


def test_questions_have_one_form_each(world, corpus, tokenizer):
  chats = Chats(world, tokenizer, corpus, ChatConfig())
  for number in range(len(QUESTIONS)):
    asked = chats.ask('held_out', number)
    assert len(asked.tokens) == 3 * len(world.pairs['held_out'])
    row = asked.tokens[0][asked.positions[0] >= 0].tolist()
    assert tokenizer.decode(row).endswith('<start_of_turn>model\n')


def test_tokenizer_is_the_same_in_transformers(world, tokenizer, tmp_path):
  transformers = pytest.importorskip('transformers')
  make_tokenizer(texts_of(world)).save(str(tmp_path / 'tokenizer.json'))
  theirs = transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(tmp_path / 'tokenizer.json')
  )
  name = world.entities('unseen')[0].name
  for text in (f"The player '{name}'", f'Who is {name}?', 'naïve\n\nx', ''):
    assert theirs(text).input_ids == tokenizer.encode(text)
