"""Judges that are models: what they are asked, and how replies are read."""

import sys

import pytest
import torch
import transformers

from experiments.inputs import BASE, CHAT
from experiments.knowledge_probing import model_judges
from experiments.knowledge_probing.formats import Format
from experiments.knowledge_probing.model_judges import (
  correctness,
  entailment,
  informativeness,
  llm_verdicts,
  read_word,
)
import gemma_jax as gj
from tests.experiments.knowledge_probing.made import question

PASSAGE = question(
  answers=('Paris', 'Lutetia'),
  question='What is its capital?',
  context='France is governed from Paris.',
)
BARE = question('other', answers=('Rome',), question='And of Italy?')
WORDS = ('CORRECT', 'INCORRECT')


@pytest.fixture(scope='module')
def chat():
  lm = gj.load_model(CHAT)
  return lm.model, Format(name='chat', tokenizer=lm.tokenizer)


@pytest.fixture
def says(monkeypatch, chat):
  """Makes a judge of a function of prompts; returns what it was asked."""

  def install(reply):
    asked = []
    tokenizer = chat[1].tokenizer

    def complete(model, its, prompts, seeds, **options):
      assert its is tokenizer and options['temperatures'] == (0.0,)
      assert options['max_new_tokens'] <= 4 and len(seeds) == len(prompts)
      for i in reversed(range(len(prompts))):
        text = tokenizer.decode(prompts[i])
        asked.append(text)
        yield {i: [reply(text)]}

    monkeypatch.setattr(model_judges, 'complete', complete)
    return asked

  return install


@pytest.mark.parametrize(
  'reply, read',
  [
    ('CORRECT', True),
    ('INCORRECT', False),
    (' Correct.', True),
    ('incorrect!', False),
    ('**INCORR', False),
    ('INC', False),
    ('The answer is CORRECT', True),
    ('CORRECT or INCORRECT', None),
    ('not correct', None),
    ('I', None),
    ('', None),
    ('Paris', None),
    ('YES', None),
  ],
)
def test_reading_replies(reply, read):
  assert read_word(reply, WORDS) is read


def test_reading_yes_and_no():
  assert read_word('Yes, it does', ('YES', 'NO')) is True
  assert read_word('No.', ('YES', 'NO')) is False
  assert read_word('None', ('YES', 'NO')) is None
  assert read_word('Nothing', ('YES', 'NO')) is None


def test_what_a_judge_is_asked(chat, says):
  asked = says(
    lambda text: 'INCORRECT' if 'answer: Lyon' in text else 'CORRECT'
  )
  found = correctness(
    *chat, [PASSAGE, PASSAGE, BARE, PASSAGE], 'Paris Lyon Rome Paris'.split()
  )
  assert found.yes == (True, False, True, True) and found.unreadable == 0
  assert len(asked) == 3  # equal ones once
  passages = [text for text in asked if 'governed from Paris' in text]
  assert len(passages) == 2
  assert all('only the passage' in text for text in passages)
  (other,) = set(asked) - set(passages)
  assert 'only the reference answer' in other and 'Passage' not in other
  assert 'Reference answer: Rome' in other


def test_what_cannot_be_read_is_a_no(chat, says):
  says(lambda text: 'YES' if 'Response: Paris' in text else 'Maybe')
  found = informativeness(*chat, [PASSAGE] * 3, ['Paris', 'x', 'x'])
  assert found.yes == (True, False, False) and found.unreadable == 2
  assert informativeness(*chat, [], []).yes == ()


def test_a_judge_that_says_neither_word(chat, says):
  says(lambda text: 'Sorry')
  with pytest.raises(
    ValueError, match='a judge that answers neither word'
  ) as e:
    correctness(*chat, [PASSAGE], ['Paris'])
  assert "'Sorry'" in str(e.value) and '--judge_model' in str(e.value)
  assert 'Proposed answer: Paris' in str(e.value)


def test_a_real_model_that_cannot_judge():
  """MiniWorld's base model has never seen a chat."""
  lm = gj.load_model(BASE)
  format = Format(name='qa', tokenizer=lm.tokenizer)
  with pytest.raises(ValueError, match='neither word'):
    informativeness(lm.model, format, [BARE], ['Rome'])


def test_verdicts(chat, says):
  """Refusals are not asked about; right answers are informative."""

  def reply(text):
    if 'YES or NO' in text:
      return 'NO' if 'Response: Lutetia' in text else 'YES'
    return 'CORRECT' if 'answer: Lutetia' in text else 'hm'

  asked = says(reply)
  texts = [['Lutetia', 'Lyon', 'I do not know.', 'Lutetia'], ['Rome']]
  (first, second), unreadable = llm_verdicts(*chat, [PASSAGE, BARE], texts)
  assert len(asked) == 6 and not any('do not know' in text for text in asked)
  assert list(first) == ['Lutetia', 'Lyon', 'I do not know.']
  assert first['Lutetia'].correct and first['Lutetia'].informative
  assert first['Lutetia'].rule == 'llm' and first['Lutetia'].exact
  assert not first['Lyon'].correct and first['Lyon'].informative
  assert first['Lyon'].rule == 'none: llm'
  declined = first['I do not know.']
  assert declined.refusal and declined.rule == 'none: declines'
  assert not declined.correct and not declined.informative
  assert second['Rome'].exact and not second['Rome'].correct
  assert unreadable == {'correctness': 2, 'informativeness': 0}


LABELS = {0: 'CONTRADICTION', 1: 'NEUTRAL', 2: 'ENTAILMENT'}


def save(folder, labels=LABELS):
  """A tiny random BERT for three labels, with a tokenizer of few words."""
  words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
  words += 'paris lyon it is in not the a what city'.split()
  folder.mkdir()
  (folder / 'vocab.txt').write_text('\n'.join(words))
  transformers.BertTokenizerFast(
    vocab={word: i for i, word in enumerate(words)}
  ).save_pretrained(folder)
  config = transformers.BertConfig(
    vocab_size=len(words),
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=40,
    id2label=labels,
    label2id={name: i for i, name in labels.items()},
    initializer_range=1.0,
  )
  torch.manual_seed(0)
  model = transformers.BertForSequenceClassification(config)
  model.save_pretrained(folder)
  return folder


def test_entailment_both_ways(tmp_path):
  """By HF, each pair in a run of its own, without padding."""
  folder = save(tmp_path / 'nli')
  alike = entailment(folder)
  model = transformers.BertForSequenceClassification.from_pretrained(folder)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

  def entails(a, b):
    with torch.no_grad():
      logits = model.eval()(**tokenizer(a, b, return_tensors='pt')).logits
    return int(logits.argmax()) == 2

  texts = ['paris', 'in paris', 'it is lyon', 'a city', 'not in the city', 'is']
  seen = set()
  for a in texts:
    for b in texts:
      both = a == b or (entails(a, b) and entails(b, a))
      assert alike(a, b) is both and alike(b, a) is both
      seen.add((entails(a, b), entails(b, a)))
  assert len(seen) >= 3  # one way only is not enough
  about = alike.about('what is it')
  for a, b in (('paris', 'lyon'), ('paris', 'a city'), ('is', 'in')):
    assert about(a, b) is alike(f'what is it {a}', f'what is it {b}')


def test_entailment_models_that_will_not_do(tmp_path, monkeypatch):
  with pytest.raises(FileNotFoundError, match='config.json.*--nli_model'):
    entailment(tmp_path / 'nothing')
  folder = save(tmp_path / 'moods', {0: 'happy', 1: 'sad'})
  with pytest.raises(ValueError, match="'happy', 'sad'.*entailment"):
    entailment(folder)
  monkeypatch.setitem(sys.modules, 'transformers', None)
  with pytest.raises(ImportError, match=r"pip install '\.\[real\]'"):
    entailment(folder)
