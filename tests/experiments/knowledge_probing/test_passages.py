"""Questions that a model writes: what is taken, and what is refused."""

import json

import pytest

from experiments.knowledge_probing import passages
from experiments.knowledge_probing.formats import ADMIT, Format
from experiments.knowledge_probing.passages import (
  REASONS,
  check,
  read_snippets,
  write_questions,
)
from experiments.knowledge_probing.probe_records import Snippet
from tests import tiny
from tests.gemma_jax.text import tiny_tokenizer

EMMA = Snippet(
  id='emma',
  text='Emma is a novel by Jane Austen. It was printed in the U.S. in 1816.',
  entity='Emma',
  type='book',
)


@pytest.mark.parametrize(
  'text, made',
  [
    (
      'Question: Who wrote Emma?\nAnswer: Jane Austen',
      ('Who wrote Emma?', 'Jane Austen'),
    ),
    (
      'OK!\r\n\r\n**Question:** Who wrote "Emma"?\r\n**Answer:** Jane Austen.',
      ('Who wrote "Emma"?', 'Jane Austen'),
    ),
    (
      '1. question : Where was emma printed?\nanswer: U.S.\nQuestion: Else?',
      ('Where was emma printed?', 'U.S.'),
    ),
    ('Who wrote Emma? Jane Austen', REASONS[0]),
    ('Answer: Jane Austen\nQuestion: Who wrote Emma?', REASONS[0]),
    ('Question: Who wrote Emma?\nAnswer:', REASONS[0]),
    ('', REASONS[0]),
    ('Question: Who wrote Emma?\nAnswer: jane austen', REASONS[1]),
    ('Question: Who wrote Emma?\nAnswer: Austen, Jane', REASONS[1]),
    ('Question: Who wrote Emma?\nAnswer: .', REASONS[1]),
    ('Question: Who wrote it?\nAnswer: Jane Austen', REASONS[2]),
    ('Question: What is an Emmanuel?\nAnswer: novel', REASONS[2]),
    ('Question: Which novel is Emma?\nAnswer: novel', REASONS[3]),
    (f'Question: Emma {"so " * 29}?\nAnswer: novel', REASONS[4]),
    (
      f'Question: Emma {"so " * 28}?\nAnswer: novel',
      (f'Emma {"so " * 28}?', 'novel'),
    ),
  ],
)
def test_what_is_taken(text, made):
  assert check(EMMA, text) == made


def test_without_an_entity_any_subject_will_do():
  bare = Snippet(id='x', text=EMMA.text)
  text = 'Question: Who wrote it?\nAnswer: Jane Austen'
  assert check(bare, text) == ('Who wrote it?', 'Jane Austen')


@pytest.fixture
def writes(monkeypatch):
  """Has `complete` return given texts; the prompts that it got."""
  got = {}

  def install(*texts):
    def complete(model, tokenizer, prompts, seeds, *, temperatures, **options):
      got.update(prompts=prompts, seeds=seeds, temperatures=temperatures)
      yield from ({i: each} for i, each in reversed(list(enumerate(texts))))

    monkeypatch.setattr(passages, 'complete', complete)
    return got

  return install


def model_and_format(name, **options):
  tokenizer = tiny_tokenizer.ours()
  model = tiny.pair(
    3,
    'gemma2',
    vocab_size=tokenizer.vocab_size + 3,
    num_hidden_layers=2,
  )[1]
  return model, Format(name=name, tokenizer=tokenizer, **options)


def test_questions_and_reasons(writes):
  other = Snippet(id='other', text='Persuasion is by Jane Austen, too.')
  good = 'Question: Who wrote Emma?\nAnswer: Jane Austen'
  got = writes(
    [good, good.replace('Who wrote', 'Whose is'), good, 'no'],
    [good, 'Question: What is by Austen?\nAnswer: Persuasion', '', ''],
  )
  model, format = model_and_format('chat', instruction=ADMIT)
  found = write_questions(model, format, [EMMA, other])
  assert [q.id for q in found.questions] == ['emma/0', 'emma/1', 'other/1']
  first, _, last = found.questions
  assert (first.entity, first.type, first.group) == ('Emma', 'book', None)
  assert first.context == EMMA.text and first.answers == ('Jane Austen',)
  # What has no entity is not cut by a split either.
  assert (last.entity, last.unit) == (None, 'other')
  assert found.refused == {REASONS[5]: 2, REASONS[0]: 3}
  assert got['temperatures'] == [0.0, 1.0, 1.0, 1.0]
  assert len({seed for row in got['seeds'] for seed in row}) == 8
  prompt = format.tokenizer.decode(got['prompts'][0])
  assert EMMA.text in prompt and ADMIT not in prompt
  assert prompt.endswith('<start_of_turn>model\n')


def test_a_base_model_goes_on(writes):
  got = writes([' Who wrote Emma?\nAnswer: Jane Austen\n\nHere is a'])
  model, format = model_and_format('qa')
  found = write_questions(model, format, [EMMA], per_passage=1)
  assert [q.question for q in found.questions] == ['Who wrote Emma?']
  assert format.tokenizer.decode(got['prompts'][0]).endswith(
    'Answer: ...\n\nQuestion:'
  )


def test_nothing_passes():
  """A random model writes nothing of use; no file hides that."""
  model, format = model_and_format('chat')
  with pytest.raises(ValueError, match='No question of 1 passages') as error:
    write_questions(model, format, [EMMA], per_passage=2, max_new_tokens=4)
  assert f'2 times, {REASONS[0]}' in str(error.value)
  assert "about 'emma'" in str(error.value)


def test_a_passage_too_long():
  model, format = model_and_format('chat')
  long = Snippet(id='long', text='art ' * 9000)
  with pytest.raises(ValueError, match="Passage 'long' has"):
    write_questions(model, format, [EMMA, long])


def test_snippets(tmp_path):
  text = tmp_path / 'emma.txt'
  text.write_bytes('\ufeffOne\r\nand one.\r\n \r\n\r\nZwei ë.\n'.encode())
  found = read_snippets(text)
  assert [each.id for each in found] == ['emma/0', 'emma/1']
  assert [each.text for each in found] == ['One\nand one.', 'Zwei ë.']
  lines = tmp_path / 'emma.jsonl'
  row = {'id': 'a', 'text': 'T', 'source': 's', 'entity': 'e', 'type': None}
  lines.write_text(
    json.dumps(row) + '\n' + json.dumps({'id': 'b', 'text': 'U'})
  )
  assert read_snippets(lines) == [
    Snippet(id='a', text='T', source='s', entity='e'),
    Snippet(id='b', text='U'),
  ]


@pytest.mark.parametrize(
  'name, content, said',
  [
    ('a.txt', ' \n\n', 'has no passage'),
    ('a.jsonl', '', 'has no passage'),
    ('a.csv', 'x', 'must be a .jsonl or a .txt'),
    ('a.jsonl', '{"id": "a", "text": "T"}\n' * 2, "line 2: 'id' 'a' belongs"),
    ('a.jsonl', '{"id": "a", "passage": "T"}', "unknown field 'passage'"),
    ('a.jsonl', '{"id": "a"}', "no 'text'"),
    ('a.jsonl', '{"id": "a", "text": ""}', "'text' is ''"),
  ],
)
def test_bad_snippets(tmp_path, name, content, said):
  path = tmp_path / name
  path.write_text(content)
  with pytest.raises(ValueError, match=said) as error:
    read_snippets(path)
  assert str(path) in str(error.value)


def test_no_file_of_snippets(tmp_path):
  with pytest.raises(FileNotFoundError, match='none.txt'):
    read_snippets(tmp_path / 'none.txt')
