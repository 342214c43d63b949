"""Chats, against HF's apply_chat_template on a template like Gemma's."""

import pytest

from gemma_jax.text.chat import mark, split_at_marks
from gemma_jax.text.templates import compile_template
from gemma_jax.text.tokenizer import Tokenizer
from tests.gemma_jax.text import tiny_tokenizer

# What the models' Jinja template computes, in our words.
GEMMA = """{{ bos_token }}
{%- if messages[0].role == 'system' -%}
  {{ raise_exception('no system role here') }}
{%- endif -%}
{%- for turn in messages -%}
  {%- if loop.index0 is even and turn.role != 'user'
      or loop.index0 is odd and turn.role == 'user' -%}
    {{ raise_exception('roles do not alternate') }}
  {%- endif -%}
  {{- '<start_of_turn>' ~ ('model' if turn.role == 'assistant' else turn.role)
      ~ '\\n' ~ (turn.content | trim) ~ '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<start_of_turn>model\\n' -}}
{%- endif -%}
"""


def _chat(*contents):
  roles = ('user', 'assistant')
  return [
    {'role': roles[i % 2], 'content': content}
    for i, content in enumerate(contents)
  ]


CHATS = [
  _chat('Who wrote Emma?'),
  _chat('Hi', 'Hello!', 'Are you sure you know the player Zoë? '),
  _chat(' \n trimmed \n', ''),
  _chat('日本 😀', 'nul\0', '<bos>', '<end_of_turn>', 'user\nmodel'),
  *(_chat(text) for text in tiny_tokenizer.HOSTILE),
  *(_chat(*tiny_tokenizer.random_texts(3, seed=seed)) for seed in range(30)),
]


@pytest.fixture(name='bare')
def _bare():
  return tiny_tokenizer.ours()


@pytest.fixture(name='templated', scope='module')
def _templated(tmp_path_factory):
  folder = tiny_tokenizer.save(
    tmp_path_factory.mktemp('templated'), chat_template=GEMMA
  )
  return Tokenizer.from_pretrained(folder)


@pytest.fixture(name='tok', params=['bare', 'templated'])
def _tok(request):
  return request.getfixturevalue(request.param)


def _hf(messages, **options):
  return tiny_tokenizer.hf().apply_chat_template(
    messages, chat_template=GEMMA, return_dict=False, **options
  )


@pytest.mark.parametrize('prompt', [True, False])
def test_chats_are_hfs(tok, prompt):
  for messages in CHATS:
    options = {'add_generation_prompt': prompt}
    text = tok.chat_text(messages, generation_prompt=prompt)
    assert text == _hf(messages, tokenize=False, **options)
    encoding = tok.tokenize_chat(messages, generation_prompt=prompt)
    assert encoding.ids == _hf(messages, **options)
    assert encoding.text == text
    assert encoding.ids == tok.encode(text)  # one BOS by this way too


def test_contents_can_be_ordinary_text(tok):
  for messages in CHATS:
    encoding = tok.tokenize_chat(messages, parse_special=False)
    want = _hf(
      messages, add_generation_prompt=True, sanitize_control_tokens=True
    )
    assert encoding.ids == want, messages
    assert encoding.text == tok.chat_text(messages)
    assert encoding.ids.count(tok.bos_id) == 1
    assert encoding.ids.count(tok.end_of_turn_id) == len(messages)
    # The offsets still are those of the text.
    last = encoding.text.rindex('model')
    start, stop = encoding.token_span(last, last + 5)
    assert tok.decode(encoding.ids[start:stop]) == 'model'


def test_the_format(bare):
  messages = _chat('Hi', 'Hello')
  assert bare.chat_text(messages, generation_prompt=False) == (
    '<bos><start_of_turn>user\nHi<end_of_turn>\n'
    '<start_of_turn>model\nHello<end_of_turn>\n'
  )
  question = '<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n'
  assert bare.chat_text('Hi') == question
  turns = [{'role': 'user', 'content': 'a'}, {'role': 'model', 'content': 'b'}]
  assert bare.chat_text(turns) == bare.chat_text(_chat('a', 'b'))


def test_an_answer_can_be_begun(bare):
  ids = bare.encode(bare.chat_text('Hi') + 'Answer:')
  assert ids[0] == bare.bos_id and ids.count(bare.bos_id) == 1
  assert bare.decode(ids).endswith('<start_of_turn>model\nAnswer:')


def test_a_template_without_bos_gets_one(tmp_path):
  folder = tiny_tokenizer.save(
    tmp_path, chat_template='{{ messages[0].content }}'
  )
  tok = Tokenizer.from_pretrained(folder)
  assert tok.tokenize_chat('Hi').ids == tok.encode('Hi')


def test_the_jinja_file_wins_over_the_config(tmp_path):
  tiny_tokenizer.save(tmp_path, chat_template='config')
  (tmp_path / 'chat_template.jinja').write_text('file {{ eos_token }}')
  tok = Tokenizer.from_pretrained(tmp_path)
  assert tok.chat_text('Hi') == 'file <eos>'


def test_of_several_templates_the_default_is_taken(tmp_path):
  entries = [
    {'name': 'rag', 'template': 'no'},
    {'name': 'default', 'template': 'yes'},
  ]
  tiny_tokenizer.save(tmp_path, chat_template=entries)
  assert Tokenizer.from_pretrained(tmp_path).chat_text('Hi') == 'yes'
  tiny_tokenizer.save(tmp_path, chat_template=entries[:1])
  with pytest.raises(ValueError, match=r"\['rag'\].*'default'"):
    Tokenizer.from_pretrained(tmp_path)


def test_hfs_saved_template_is_used(tmp_path):
  hf = tiny_tokenizer.hf()
  hf.chat_template = GEMMA
  try:
    hf.save_pretrained(tmp_path)
  finally:
    hf.chat_template = None
  tok = Tokenizer.from_pretrained(tmp_path)
  messages = _chat('Hi', 'Hello', 'Bye')
  assert tok.tokenize_chat(messages).ids == _hf(
    messages, add_generation_prompt=True
  )


@pytest.mark.parametrize(
  'messages',
  [
    [{'role': 'system', 'content': 'Be brief.'}, *_chat('Hi')],
    _chat('Hi') + _chat('Hi'),
    _chat('Hi', 'Hello')[1:],
  ],
)
def test_both_templates_refuse(bare, templated, messages):
  with pytest.raises(ValueError, match='role .* expected .*first user'):
    bare.chat_text(messages)
  with pytest.raises(ValueError, match='refuses this chat: (no system|roles)'):
    templated.chat_text(messages)


def test_gemma_refuses_an_unknown_role(bare):
  with pytest.raises(ValueError, match="Message 1 has role 'tool'"):
    bare.chat_text(_chat('Hi') + [{'role': 'tool', 'content': '3'}])


@pytest.mark.parametrize(
  ('messages', 'message'),
  [
    ([], 'at least one'),
    (['Hi'], "Message 0 .*'Hi'"),
    ([{'role': 'user'}], "Message 0 .*'role': 'user'"),
    ([{'role': 'user', 'content': ['Hi']}], r"\['Hi'\]"),
  ],
)
def test_malformed_messages(tok, messages, message):
  with pytest.raises(ValueError, match=message):
    tok.chat_text(messages)


def test_an_empty_turn_is_a_turn(tok):
  assert 'user\n<end_of_turn>' in tok.chat_text('')


def test_malformed_template():
  with pytest.raises(ValueError, match='template of here is not a Jinja'):
    compile_template('{% if %}', 'here')


def test_a_template_cannot_leave_its_sandbox():
  render = compile_template('{{ messages.__class__.__mro__ }}', 'here')
  with pytest.raises(ValueError, match='refuses'):
    render(messages=[])
  render = compile_template('{{ messages.append(1) }}', 'here')
  with pytest.raises(ValueError, match='refuses'):
    render(messages=[])


def test_white_space_around_blocks_is_hfs(tmp_path):
  source = (
    '{% for m in messages %}\n  {% if true %}\n {{ m.role }}\n{% endif %}'
  )
  source += '\n x\n{% endfor %}\n\ny\n'
  tok = Tokenizer.from_pretrained(
    tiny_tokenizer.save(tmp_path, chat_template=source)
  )
  want = tiny_tokenizer.hf().apply_chat_template(
    _chat('a', 'b'), chat_template=source, tokenize=False
  )
  assert tok.chat_text(_chat('a', 'b')) == want


def test_jinja_dialect():
  source = (
    '{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}'
    "{% endfor %} {{ 'é<' | tojson }}"
  )
  assert compile_template(source, 'here')() == '01 "é<"'


def test_the_longest_special_token_is_marked():
  (message,) = mark([{'role': 'user', 'content': 'x<a>y<a'}], ['<a', '<a>'])
  assert split_at_marks(message['content']) == ['x', '<a>', 'y', '<a', '']


def test_without_special_tokens_nothing_is_marked():
  messages = [{'role': 'user', 'content': 'x<a>'}]
  assert mark(messages, []) == messages


def test_marks_in_a_content_are_refused(bare):
  with pytest.raises(ValueError, match='ufdd0.*|U.FDD0'):
    bare.tokenize_chat('a\ufdd0b', parse_special=False)
  assert bare.tokenize_chat('a\ufdd0b').text.count('\ufdd0') == 1


@pytest.mark.parametrize(
  'source',
  [
    '{% generation %}\n {{ messages[0].content }}{% endgeneration %}\n x',
    '{{ messages | tojson(indent=2, sort_keys=true) }}',
    "{{ messages | tojson(separators=(',', ':'), ensure_ascii=true) }}",
    '{{ tools is none }} {{ documents is none }} {{ nothing is defined }}',
    "{{ strftime_now('%Y') }}",
    '{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}',
    '{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{{ ns.a }}{{ dict(b=3) }}',
  ],
)
def test_the_dialect_is_hfs(tmp_path, source):
  tok = Tokenizer.from_pretrained(
    tiny_tokenizer.save(tmp_path, chat_template=source)
  )
  messages = _chat('é "<', 'b')
  assert tok.chat_text(messages) == tiny_tokenizer.hf().apply_chat_template(
    messages, chat_template=source, tokenize=False
  )


def test_a_template_that_breaks_down_names_its_model():
  with pytest.raises(ValueError, match='template of here refuses.*str'):
    compile_template("{{ 'a' + 1 }}", 'here')()


def test_where_the_template_ends_no_turn_the_end_is_gemmas(tmp_path):
  for source in ('constant', "{{ raise_exception('no') }}"):
    tok = Tokenizer.from_pretrained(
      tiny_tokenizer.save(tmp_path, chat_template=source)
    )
    assert tok.end_of_turn_id == tok.vocabulary.special_id('<end_of_turn>')
