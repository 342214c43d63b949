import json
import shutil

import pytest

from experiments import inputs
from experiments.knowledge_probing.formats import NAMES, Format
import gemma_jax as gj
from tests.gemma_jax.text import tiny_tokenizer

SHOTS = [('Who directed Rocky?', 'Avildsen'), ('Who sang Help?', 'Beatles')]


@pytest.fixture(scope='module')
def tokenizer():
  return gj.Tokenizer.from_pretrained(inputs.BASE)


@pytest.mark.parametrize('name', NAMES)
def test_an_answer_goes_on_from_its_prompt(tokenizer, name):
  """Tokens of prompt and answer are those of the whole, where they may be."""
  form = Format(name=name, tokenizer=tokenizer)
  question = 'What is the team of the player?'
  prompt = form.prompt_ids(question)
  assert prompt[0] == tokenizer.bos_id and prompt.count(tokenizer.bos_id) == 1
  answer = form.answer_ids('It is.')
  whole = form.prompt_text(question) + form.answer_text('It is.')
  ids = tokenizer.encode(whole, bos=name != 'chat')
  ends = [tokenizer.eos_id] if name == 'bare' else []
  assert prompt + answer == ids + ends
  assert answer[-1] in form.ends or form.stops_at_line_break


@pytest.mark.parametrize('name', NAMES)
def test_demonstrations_come_first_and_alike(tokenizer, name):
  form = Format(name=name, tokenizer=tokenizer)
  rows = [form.prompt_ids(q, SHOTS) for q in ('Who is it?', 'What is it?')]
  alone = form.prompt_text('Who is it?')
  text = form.prompt_text('Who is it?', SHOTS)
  for question, answer in SHOTS:
    assert text.index(question) < text.index(answer) < text.index('Who is it?')
  assert text.endswith(alone.removeprefix('<bos>'))
  same = sum(a == b for a, b in zip(*rows, strict=False))
  assert same > len(form.prompt_ids('', SHOTS)) / 2


def test_instruction_is_said_before_every_question(tokenizer):
  form = Format(name='chat', tokenizer=tokenizer, instruction='Say no.')
  text = form.prompt_text('Who is it?', SHOTS)
  assert text.count('Say no.') == 3
  assert form.prompt_text('Who is it?').index('Say no.') < text.index('Who')


@pytest.mark.parametrize('name', NAMES)
def test_special_tokens_in_a_question_are_text(name):
  tokenizer = tiny_tokenizer.ours()
  form = Format(name=name, tokenizer=tokenizer)
  plain, found = (form.prompt_ids(f'Who is{mark}?') for mark in ('', '<eos>'))
  assert found.count(tokenizer.eos_id) == plain.count(tokenizer.eos_id) == 0
  assert len(found) > len(plain)
  ends = [tokenizer.eos_id] if name == 'bare' else []
  said = form.answer_ids('a<eos>')
  assert [i for i in said if i == tokenizer.eos_id] == ends


def test_what_does_not_fit_is_refused(tokenizer, tmp_path):
  with pytest.raises(ValueError, match="'yaml'"):
    Format(name='yaml', tokenizer=tokenizer)
  about = json.loads((inputs.BASE / 'tokenizer_config.json').read_text())
  about['chat_template'] = (
    "{% for m in messages if m['role'] == 'user' %}"
    '<start_of_turn>{{ m.content }}<end_of_turn>\n{% endfor %}'
  )
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(about))
  shutil.copy(inputs.BASE / 'tokenizer.json', tmp_path)
  hidden = gj.Tokenizer.from_pretrained(tmp_path)
  with pytest.raises(ValueError, match='hides the completion'):
    Format(name='chat', tokenizer=hidden)
