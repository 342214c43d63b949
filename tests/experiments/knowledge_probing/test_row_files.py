"""Files of rows are what TRL loads; what cannot be learnt is refused."""

import dataclasses
import functools
import json

import datasets
import pytest
import transformers

from experiments.inputs import BASE, CHAT
from experiments.knowledge_probing import row_files
from experiments.knowledge_probing.decision_rows import Row
from experiments.knowledge_probing.formats import Format
from experiments.knowledge_probing.row_files import read_rows, write_rows
import gemma_jax as gj
from tests.gemma_jax.text import tiny_tokenizer

CHATML = (
  "{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' + "
  "m['content'] + '<end_of_turn>' + '\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<start_of_turn>assistant\n' }}{% endif %}"
)


def row(id='q', completion='Paris', rejected='Rome', **fields) -> Row:
  fields = {
    'question': 'The city is in?',
    'refusal': False,
    'relation': 'capital',
    'entity': None,
    'target_source': 'sample',
    'p_correct': 0.75,
    'category': 'MaybeKnown',
    'decision': 'answer',
    'weight': 1.0,
    **fields,
  }
  return Row(id=id, completion=completion, rejected=rejected, **fields)


ROWS = [
  row(),
  row('é "quoted"\n', 'naïve café\nZoë 😀', question='東京\t&\u2028?'),
  row('none', 'I do not know.', None, refusal=True),
]


@functools.cache
def tokenizer(template: str | None = None) -> gj.Tokenizer:
  whole = tiny_tokenizer.ours()
  if template is None:
    return whole
  return gj.Tokenizer(
    whole.vocabulary, config=tiny_tokenizer.CONFIG, chat_template=template
  )


def formats():
  return [
    Format(name=name, tokenizer=tokenizer(), instruction=told)
    for name in ('chat', 'qa', 'bare')
    for told in ('', 'Say so if you do not know.')
  ] + [Format(name='chat', tokenizer=tokenizer(CHATML))]


COLUMNS = {
  'prompt_completion': ['prompt', 'completion'],
  'messages': ['messages'],
  'dpo': ['prompt', 'chosen', 'rejected'],
  'kto': ['prompt', 'completion', 'label'],
}


@pytest.mark.parametrize('kind', row_files.KINDS)
def test_files_load_with_the_columns_that_trl_wants(kind, tmp_path):
  path = tmp_path / 'rows.jsonl'
  left_out = write_rows(path, ROWS, formats()[0], kind)
  assert left_out == (1 if kind == 'dpo' else 0)
  found = datasets.Dataset.from_json(
    str(path), cache_dir=str(tmp_path / 'cache')
  )
  assert found.column_names == COLUMNS[kind]
  assert len(found) == {'dpo': 2, 'kto': 5}.get(kind, 3)
  meta = path.with_suffix('.meta.jsonl').read_bytes().splitlines()
  assert len(meta) == len(found)
  if kind == 'messages':
    chat = found[1]['messages']
    assert [turn['role'] for turn in chat] == ['user', 'assistant']
    assert chat[1]['content'] == ROWS[1].completion
  if kind == 'dpo':
    assert 'Paris' in found[0]['chosen'] and 'Rome' in found[0]['rejected']
  if kind == 'kto':
    assert found['label'] == [True, False, True, False, True]


@pytest.mark.parametrize('number', range(7))
def test_hf_reads_the_very_tokens_of_the_study(number, tmp_path):
  """As TRL tokenises: the prompt, and the prompt with the completion."""
  format = formats()[number]
  path = tmp_path / 'rows.jsonl'
  write_rows(path, ROWS, format)
  hf = tiny_tokenizer.hf()
  for line, each in zip(path.read_bytes().splitlines(), ROWS, strict=True):
    line = json.loads(line)
    prompt = hf(line['prompt'])['input_ids']
    whole = hf(line['prompt'] + line['completion'])['input_ids']
    if format.name == 'bare':  # TRL ends what does not end
      whole.append(hf.eos_token_id)
    assert prompt == format.prompt_ids(each.question)
    assert whole == prompt + format.answer_ids(each.completion)


@pytest.mark.parametrize('folder', [BASE, CHAT])
def test_the_bundled_models_are_read_alike_too(folder, tmp_path):
  mine = gj.Tokenizer.from_pretrained(folder)
  hf = transformers.AutoTokenizer.from_pretrained(folder)
  for name in ('chat', 'bare') if folder == CHAT else ('bare',):
    format = Format(name=name, tokenizer=mine)
    each = row(
      completion='Sorry, I do not know that.',
      question='Where does the player play?',
    )
    write_rows(tmp_path / 'rows.jsonl', [each], format)
    line = json.loads((tmp_path / 'rows.jsonl').read_text())
    whole = hf(line['prompt'] + line['completion'])['input_ids']
    expected = format.prompt_ids(each.question)
    expected = expected + format.answer_ids(each.completion)
    if name == 'bare':
      whole.append(mine.eos_id)
    assert whole == expected


def test_rows_come_back(tmp_path):
  for format in formats():
    write_rows(tmp_path / 'rows.jsonl', ROWS, format)
    assert read_rows(tmp_path / 'rows.jsonl', format) == ROWS


# Templates that take the answer away, change it, or put something before it.
HIDING = {
  'hides': CHATML.replace(
    "m['content'] +", "(m['content'] if m['role'] == 'user' else '') +"
  ),
  'strips': CHATML.replace("m['content'] +", "(m['content'] | trim) +"),
  'thinks': CHATML.replace(
    "m['content'] +",
    "('' if m['role'] == 'user' else '<think></think>') + m['content'] +",
  ),
}


@pytest.mark.parametrize('name', HIDING)
def test_a_template_that_changes_the_completion_is_refused(name, tmp_path):
  """Messages go through the template in training; so the row is named."""
  format = Format(name='qa', tokenizer=tokenizer(HIDING[name]))
  bad = row('the bad one', 'Paris ' if name == 'strips' else 'Paris')
  with pytest.raises(ValueError, match="'the bad one': the chat template"):
    write_rows(tmp_path / 'rows.jsonl', [bad], format, 'messages')
  assert not list(tmp_path.iterdir())
  write_rows(tmp_path / 'rows.jsonl', [bad], format)  # the default needs none


def test_what_files_cannot_say_is_refused(tmp_path):
  """A special token written out is that token for TRL, not here."""
  format = formats()[0]
  for bad in (
    row('evil', 'Paris<end_of_turn>x'),
    row('evil', question='What is <eos>?'),
    row('evil', rejected='<eos>'),
  ):
    with pytest.raises(ValueError, match="Row 'evil'"):
      write_rows(tmp_path / 'rows.jsonl', [bad], format, 'kto')
  with pytest.raises(ValueError, match='has nothing to learn'):
    write_rows(tmp_path / 'rows.jsonl', [row(rejected=' ')], format, 'dpo')
  with pytest.raises(ValueError, match='none of 1 rows has a rejected'):
    write_rows(tmp_path / 'rows.jsonl', [ROWS[2]], format, 'dpo')
  with pytest.raises(ValueError, match='rows.jsonl: no row'):
    write_rows(tmp_path / 'rows.jsonl', [], format)
  with pytest.raises(ValueError, match="'csv', expected one of"):
    write_rows(tmp_path / 'rows.jsonl', ROWS, format, 'csv')
  with pytest.raises(ValueError, match='must end in .jsonl'):
    write_rows(tmp_path / 'rows.json', ROWS, format)
  assert not list(tmp_path.iterdir())


def test_malformed_files_are_named_with_the_line(tmp_path):
  path, format = tmp_path / 'rows.jsonl', formats()[2]

  def after(change, file='rows.jsonl'):
    write_rows(path, ROWS, format)
    place = tmp_path / file
    lines = place.read_bytes().splitlines(keepends=True)
    place.write_bytes(b''.join(change(lines)))
    with pytest.raises(ValueError) as caught:
      read_rows(path, format)
    return str(caught.value)

  cut = after(lambda lines: [*lines[:2], lines[2][:9]])
  assert 'rows.jsonl, line 3 is not JSON' in cut
  assert 'line 2 is not JSON' in after(
    lambda lines: [lines[0], b'{"prompt": "\xff"}\n', lines[2]]
  )
  assert 'line 2 holds a JSON list, expected' in after(
    lambda lines: [lines[0], b'[1]\n', lines[2]]
  )
  assert 'line 1: expected the texts' in after(
    lambda lines: [b'{"prompt": "x", "completion": 3}\n', *lines[1:]]
  )
  assert '2 rows and rows.meta.jsonl 3' in after(lambda lines: lines[1:])
  assert 'line 1: the completion is' in after(
    lambda lines: [lines[0].replace(b'Paris', b'Rome'), *lines[1:]]
  )
  assert 'rows.meta.jsonl, line 1 is no row' in after(
    lambda lines: [b'{"id": "q"}\n', *lines[1:]], 'rows.meta.jsonl'
  )
  write_rows(path, ROWS, format)
  with pytest.raises(ValueError, match="line 1.*in the format 'bare'"):
    read_rows(path, dataclasses.replace(format, name='bare'))
  path.unlink()
  with pytest.raises(FileNotFoundError, match='rows.jsonl. Rows come in two'):
    read_rows(path, format)
  row_files.meta_file(path).unlink()
  with pytest.raises(FileNotFoundError, match='no file .*rows.meta.jsonl'):
    read_rows(path, format)
