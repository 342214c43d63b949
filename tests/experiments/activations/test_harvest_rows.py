"""Which token of which prompt is read, and what becomes of the others."""

from collections import Counter

import numpy as np
import pytest

from experiments.activations import draw, join, make_rows, token_selection
from experiments.entities import (
  Entity,
  Prompt,
  activation_prompt,
  tokenize_prompt,
)
from tests.gemma_jax.text import tiny_tokenizer

TEXTS = (
  'The player Paris was born in San Diego.',
  'One, two and three in the city; the art of the party.',
  'naïve café  crème brûlée\nand 😀🙂 日本語 more',
)


@pytest.fixture(scope='module')
def tokenizer():
  return tiny_tokenizer.ours()


def read(rows, row) -> str:
  """The text up to and with the token that is read."""
  ids = rows.tokens[row][1 : rows.positions[row] + 1]
  return tiny_tokenizer.ours().decode(ids)


def test_entity_by_its_place_not_its_first_occurrence(tokenizer):
  # Searched for as texts, all but the last would be found elsewhere.
  names = ('The', 'player', "'", 'er', 'Łódź 😀', 'San Diego')
  prompts = [activation_prompt(Entity(name, 'player', {})) for name in names]
  rows = make_rows(tokenizer, prompts)
  for row, (prompt, name) in enumerate(zip(prompts, names, strict=True)):
    tokens = tokenize_prompt(tokenizer, prompt)
    assert rows.tokens[row].tolist() == list(tokens.ids)
    assert rows.positions[row] == tokens.entity[1] - 1
    assert read(rows, row).startswith(f"The player '{name}")
  assert rows.prompt_rows.tolist() == list(range(len(names)))


def test_chat_prompts_are_read_where_the_entity_stands(tokenizer):
  prompts = [
    Prompt('Is the user Paris a model?', (12, 17)),
    Prompt('  Paris is where?', (2, 7)),  # templates strip
  ]
  rows = make_rows(tokenizer, prompts, chat=True)
  for row in range(2):
    assert read(rows, row).endswith(' Paris'[row:])
    ids = rows.tokens[row].tolist()
    assert ids.count(tokenizer.bos_id) == 1
    assert ids == tokenizer.tokenize_chat(prompts[row].text).ids
  tokens = tokenize_prompt(tokenizer, prompts[0], chat=True)
  assert rows.positions[0] == tokens.entity[1] - 1


def test_model_is_the_token_that_opens_the_turn(tokenizer):
  said = ['Is a model a model?', 'model', "user\nmodel\n'model'"]
  rows = make_rows(tokenizer, said, tokens='model', chat=True)
  for ids, at in zip(rows.tokens, rows.positions, strict=True):
    assert at == len(ids) - 2  # before the line break
    assert tokenizer.token_strings([ids[at]]) == ['model']
  written = [tokenizer.chat_text(text) for text in said]
  same = make_rows(tokenizer, written, tokens='model', parse_special=True)
  assert same.positions.tolist() == rows.positions.tolist()
  assert all(map(np.array_equal, same.tokens, rows.tokens))
  none = make_rows(tokenizer, ['a model'], tokens='model', parse_special=True)
  assert [one.reason for one in none.dropped] == [token_selection.NO_MODEL_TURN]
  with pytest.raises(ValueError, match='chat=True'):
    make_rows(tokenizer, written, tokens='model')


def test_last_and_substring(tokenizer):
  rows = make_rows(tokenizer, [*TEXTS, ''], tokens='last')
  assert [len(ids) - 1 for ids in rows.tokens] == rows.positions.tolist()
  assert [one.reason for one in rows.dropped] == [token_selection.NO_TOKEN]
  rows = make_rows(tokenizer, TEXTS, tokens='the')
  assert [one.prompt for one in rows.dropped] == [0, 2]
  assert read(rows, 0) == 'One, two and three in the'
  # What a chat's template says is not searched; a choice's name can be.
  rows = make_rows(
    tokenizer, ['Is it?', 'a user?'], tokens='substring:user', chat=True
  )
  assert [one.prompt for one in rows.dropped] == [0]
  rows = make_rows(tokenizer, ['first, last.'], tokens='substring:last')
  assert read(rows, 0).startswith('first, last')


def test_random_word_is_uniform_and_depends_on_its_id_alone(tokenizer):
  text = 'one two three four five six seven eight'
  ids = [f'document {i}' for i in range(2000)]
  rows = make_rows(tokenizer, [text] * 2000, tokens='random', ids=ids, seed=3)
  words = [read(rows, row).split()[-1] for row in rows.prompt_rows]
  counts = Counter(words)
  assert set(counts) == set(text.split())
  # Eight words, 2000 draws: within four standard deviations.
  assert all(abs(count - 250) < 4 * 14.8 for count in counts.values())
  assert len(rows) == rows.denominator == 2000  # documents count each
  backwards = make_rows(
    tokenizer, [text] * 2000, tokens='random', ids=ids[::-1], seed=3
  )
  again = [read(backwards, row).split()[-1] for row in backwards.prompt_rows]
  assert again[::-1] == words
  other = make_rows(tokenizer, [text] * 2000, tokens='random', ids=ids, seed=4)
  assert [read(other, row).split()[-1] for row in other.prompt_rows] != words
  assert draw(3, 'random word', 'x', 10**9) != draw(3, 'other', 'x', 10**9)


def test_random_word_lies_wholly_in_the_window(tokenizer):
  text = 'Parties ' * 60
  whole = tokenizer.tokenize(text)
  per_word = len(whole.ids) / 60
  assert per_word > 2
  texts = [text, '   ', '<bos>', '<bos> art', 'x' * 400]
  for window in (9, 10, 11, 12):
    for seed in range(12):
      rows = make_rows(
        tokenizer,
        texts,
        tokens='random',
        window=window,
        seed=seed,
        parse_special=True,
      )
      assert read(rows, 0).split()[-1] == 'Parties'
      assert all(len(ids) <= window for ids in rows.tokens)
      assert rows.positions.min() > 0  # no BOS
      assert [one.prompt for one in rows.dropped] == [1, 2, 4]
      assert rows.denominator == 2
  about = rows.about()
  assert about['dropped'] == {token_selection.NO_WORD: 3}
  assert about['prompts'] == about['read'] + 3
  assert len(about['dropped_prompts']) == 3


def test_published_denominator_counts_documents_without_a_word(tokenizer):
  # The word is drawn from all 20; the window has the first few.
  texts = [' '.join(f'{i % 10}x{j}' for j in range(20)) for i in range(60)]
  kwargs = {'tokens': 'random', 'window': 32}
  ours = make_rows(tokenizer, texts, **kwargs)
  assert (len(ours), ours.denominator, ours.dropped) == (60, 60, [])
  theirs = make_rows(
    tokenizer, texts, **kwargs, pile_denominator='all_documents'
  )
  assert 10 < len(theirs) < 40
  assert theirs.denominator == 60 == len(theirs) + len(theirs.dropped)
  # The first occurrence of a word is read, wherever it was drawn.
  (row,) = [
    make_rows(
      tokenizer,
      ['art in the art of art'],
      tokens='random',
      seed=seed,
      pile_denominator='all_documents',
    )
    for seed in range(40)
    if draw(seed, 'random word', '0', 6) == 5
  ][:1]
  assert read(row, 0) == 'art'


def test_truncated_prompts_are_dropped_unless_the_token_is_there(tokenizer):
  prompt = Prompt('The city Paris is in Texas; parties there.', (9, 14))
  size = len(tokenizer.encode(prompt.text))
  at = make_rows(tokenizer, [prompt]).positions[0]
  kept = make_rows(tokenizer, [prompt], window=at + 1)
  assert kept.positions.tolist() == [at] and len(kept.tokens[0]) == at + 1
  cut = make_rows(tokenizer, [prompt], window=at)
  assert cut.dropped[0].reason == token_selection.TRUNCATED and len(cut) == 0
  last = make_rows(tokenizer, [prompt.text], tokens='last', window=size - 1)
  assert last.dropped[0].reason == token_selection.TRUNCATED


def test_duplicates_are_run_once_and_found_again(tokenizer):
  prompts = [
    Prompt('The city Paris', (9, 14)),
    Prompt('The city San', (9, 12)),
    'no entity',
    Prompt('The city Paris', (9, 14)),
    Prompt('The city Paris', (4, 8)),  # another place of it
  ]
  rows = make_rows(tokenizer, prompts, ids='abcde')
  assert rows.prompt_rows.tolist() == [0, 1, -1, 0, 2]
  assert rows.ids == ['a', 'b', 'e']
  assert rows.about() | {'dropped_prompts': None, 'tokens_to_run': None} == {
    'tokens': ['entity'],
    'windows': [8192],
    'prompts': 5,
    'read': 4,
    'unique': 3,
    'duplicates': 1,
    'denominator': 3,
    'tokens_to_run': None,
    'dropped': {token_selection.NO_ENTITY: 1},
    'dropped_prompts': None,
  }
  assert rows.groups([4, 1, 9, 4, -1]).tolist() == [4, 1, -1]
  with pytest.raises(ValueError, match=r"'The city Paris' are in .*\[3, 4\]"):
    rows.groups([4, 1, 9, 3, -1])
  with pytest.raises(ValueError, match='each of 5 prompts'):
    rows.groups([0])


def test_join(tokenizer):
  cities = make_rows(tokenizer, [Prompt('The city Paris', (9, 14)), 'none'])
  texts = make_rows(tokenizer, TEXTS, tokens='random', window=16)
  both = join(cities, texts)
  assert both.prompt_rows.tolist() == [0, -1, 1, 2, 3]
  assert both.choices == ['entity', 'random'] and both.windows == [8192, 16]
  assert [(one.prompt, one.id) for one in join(texts, cities).dropped] == [
    (4, '1')
  ]
  assert both.denominator == len(both) == 4
  assert read(both, 2) == read(texts, 1)


@pytest.mark.parametrize(
  'prompts, options, message',
  [
    ([Prompt('Paris', (2, 9))], {}, r'\[2, 9\)'),
    ([Prompt('Paris', (2, 2))], {}, r'\[2, 2\)'),
    (['Paris'], {'tokens': ''}, 'expected one of entity'),
    (['Paris'], {'tokens': 'substring:'}, 'expected one of entity'),
    (['Paris'], {'ids': ['a', 'b']}, '2 ids for 1'),
    (['Paris'], {'window': 1}, 'no room'),
    (['Paris'], {'pile_denominator': 'none'}, 'all_documents'),
  ],
)
def test_malformed_input(tokenizer, prompts, options, message):
  with pytest.raises(ValueError, match=message):
    make_rows(tokenizer, prompts, **options)
