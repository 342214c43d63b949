"""Refusals decline, name the entity, and give nothing away."""

import numpy as np
import pytest

from experiments.entities import is_refusal
from experiments.knowledge_probing import refusal_texts as lib
from experiments.knowledge_probing.formats import Format
from experiments.knowledge_probing.informative import informs, refuses
from experiments.miniworld.sentences import REFUSAL
import gemma_jax as gj
from tests.experiments.knowledge_probing import made

# What could break a text that it is put into.
NAMES = (
  'Paris',
  'Zoë',
  "L'Aquila",
  'The Beatles',
  '東京',
  '{x}',
  'A\u0301b',
  '%s',
)


@pytest.mark.parametrize('name', NAMES)
def test_every_text_is_recognised(name):
  question = made.question(entity=name)
  assert len(set(lib.NAMING)) >= 12
  for text in lib.NAMING:
    text = text.format(entity=name)
    assert name in text
    assert is_refusal(text), text
    assert refuses(question, text) and not informs(question, text), text
  for text in lib.NAMELESS:
    assert is_refusal(text) and refuses(question, text), text


def test_the_choice_is_the_questions_own():
  questions = [made.question(f'q{i}', entity=f'E{i}') for i in range(300)]
  texts = [lib.refusal_text(q) for q in questions]
  assert texts == [lib.refusal_text(q) for q in reversed(questions)][::-1]
  used = {
    text.replace(q.entity, '{entity}')
    for q, text in zip(questions, texts, strict=True)
  }
  assert used == set(lib.NAMING)
  others = [lib.refusal_text(q, seed=1) for q in questions]
  assert np.mean([a == b for a, b in zip(texts, others, strict=True)]) < 0.2
  nameless = {lib.refusal_text(made.question(f'q{i}')) for i in range(300)}
  assert nameless == set(lib.NAMELESS)


def test_an_entity_that_has_the_answer_in_its_name_is_not_named():
  question = made.question(
    entity='Mexico City', answers=('Mexico',), relation='country'
  )
  for seed in range(20):
    text = lib.refusal_text(question, seed=seed)
    assert 'Mexico' not in text and text in lib.NAMELESS


@pytest.mark.parametrize(
  ('text', 'answers', 'found'),
  [
    ('I know of MÉXICO.', ('Mexico',), 'Mexico'),
    ('It is\nthe  U.S.', ('France', 'the US'), 'the US'),
    ('About 1,990 of them', ('1990',), '1990'),
    ('Toronto is unknown to me', ('Ron',), None),
    ('New South Wales', ('South Wales',), 'South Wales'),
    ('South of Wales', ('South Wales',), None),
    ('I do not know', ('', '?', 'the'), None),
  ],
)
def test_answers_are_found_as_whole_words(text, answers, found):
  assert lib.says_answer(text, made.question(answers=answers)) == found


def test_one_text_for_all_overrides_the_pool():
  question = made.question(entity='Ada')
  assert lib.refusal_text(question, text=REFUSAL) == REFUSAL
  bad = made.question('song', answers=('Sorry',))
  with pytest.raises(ValueError, match="'song'.*answer 'Sorry' in it"):
    lib.refusal_text(bad, text=REFUSAL)
  # The pool has a text without it.
  assert 'orry' not in lib.refusal_text(bad)
  with pytest.raises(ValueError, match='not recognised as declining'):
    lib.refusal_text(question, text='It is Paris.')


class Words:
  """A tokenizer of words, and nothing else that `write_refusals` needs."""

  eos_id, stop_ids = 1, (1,)
  adds_bos = False
  vocab_size = 1000

  def __init__(self):
    self._ids = {}

  def encode(self, text, **_):
    return [self._ids.setdefault(w, len(self._ids) + 2) for w in text.split()]

  def decode(self, ids, **_):
    names = {i: word for word, i in self._ids.items()}
    return ' '.join(names[i] for i in ids if i != self.eos_id)

  def pad(self, rows):
    return gj.pad_rows(rows, 0)


def test_what_the_model_writes_is_checked(monkeypatch):
  tokenizer = Words()
  says = {
    'good': "I'm sorry, I do not know.",
    'answers': 'It is Right.',
    'leaks': 'Sorry, I do not know that it is Right.',
    'endless': "I'm sorry",
    'empty': '...',
  }
  questions = [made.question(id, question=f'ask {id}') for id in says]

  def generate(model, tokens, positions, *, max_new_tokens, stop_ids):
    ids = []
    for row in tokens:
      id = tokenizer.decode([row[-1]])
      made_of = tokenizer.encode(says[id])
      ids.append(made_of if id == 'endless' else [*made_of, 1])
    out = np.zeros((len(ids), max_new_tokens), np.int32)
    for row, mine in zip(out, ids, strict=True):
      row[: len(mine)] = mine
    return gj.Generation(
      tokens=out, logprobs=None, lengths=np.array(list(map(len, ids)))
    )

  monkeypatch.setattr(gj, 'generate', generate)
  found = lib.write_refusals(
    None,
    Format(name='bare', tokenizer=tokenizer),
    questions,
    rows_per_batch=2,
  )
  assert found.texts == {'good': says['good']}
  assert found.left_out == {
    'it does not decline': 1,
    'it has the answer': 1,
    'it does not end': 1,
    'it is empty': 1,
  }
