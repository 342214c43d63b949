"""Tokens that stand beside tokenizer.json, against HF on the same files."""

import json

import pytest
import tokenizers
from tokenizers import models
import transformers

from gemma_jax.text.tokenizer import Tokenizer
from tests.gemma_jax.text import families

TEXTS = [
  'a <|im_start|> b',
  'a  <|im_start|>  b<|im_end|>',
  'a <new> b<new>',
  'the party<|im_end|>art art',
  '<|end of text|> <|endoftext|> x',
]


def save(folder, name='smollm2', tokenizer=None, **files):
  """Writes a family's files; others are given by their names without .json."""
  folder.mkdir(exist_ok=True)
  for file, content in families.files(name).items():
    (folder / file).write_text(content)
  if tokenizer:
    (folder / 'tokenizer.json').write_text(json.dumps(tokenizer))
  for file, content in files.items():
    path = folder / f'{file}.json'
    if file == 'tokenizer_config':
      content = json.loads(path.read_text()) | content
    path.write_text(json.dumps(content))
  return folder


def added(token, **flags):
  usual = dict.fromkeys(
    ('lstrip', 'rstrip', 'single_word', 'normalized'), False
  )
  return {'content': token, 'special': True} | usual | flags


def last(name='smollm2'):
  return families.ours(name).vocab_size


START, END = (
  families.ours('smollm2').vocabulary.special_id(token)
  for token in ('<|im_start|>', '<|im_end|>')
)
SAME = {
  'flags': {
    'tokenizer_config': {
      'added_tokens_decoder': {
        str(START): added('<|im_start|>', lstrip=True, rstrip=True),
        str(END): added('<|im_end|>', rstrip=True, special=False),
      }
    }
  },
  'a new token': {
    'tokenizer_config': {
      'added_tokens_decoder': {str(last()): added('<new>', rstrip=True)}
    }
  },
  'two new tokens': {
    'tokenizer_config': {
      'added_tokens_decoder': {
        str(last() + 1): added('<newer>', special=False),
        str(last()): added('<new>', single_word=True, normalized=True),
      }
    }
  },
  'special tokens that are words': {
    'tokenizer_config': {'additional_special_tokens': ['art', '<new>']}
  },
  'special tokens with flags': {
    'tokenizer_config': {
      'extra_special_tokens': [
        {'__type': 'AddedToken'} | added('<new>', lstrip=True)
      ]
    }
  },
  'named extra tokens': {
    'tokenizer_config': {'extra_special_tokens': {'image_token': '<new>'}}
  },
  'a named token of its own': {
    'tokenizer_config': {'image_token': '<new>', 'unk_token': 'art'}
  },
  'special_tokens_map.json': {
    'special_tokens_map': {
      'eos_token': {'content': '<|endoftext|>', 'lstrip': True},
      'pad_token': '<|im_start|>',
      'cls_token': added('<new>', rstrip=True),
    }
  },
  'special_tokens_map.json beside added_tokens_decoder': {
    'tokenizer_config': {
      'added_tokens_decoder': {str(START): added('<|im_start|>')}
    },
    'special_tokens_map': {'eos_token': '<|im_start|>'},
  },
  'added_tokens.json': {
    'added_tokens': {'<new>': last(), '<|im_start|>': START}
  },
  'added_tokens.json, special': {
    'added_tokens': {'<new>': last()},
    'special_tokens_map': {'cls_token': '<new>'},
  },
}


@pytest.mark.parametrize('case', SAME)
def test_ids_are_hfs(tmp_path, case):
  folder = save(tmp_path / 'model', **SAME[case])
  tok = Tokenizer.from_pretrained(folder)
  hf = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
  for text in TEXTS:
    assert tok.encode(text) == hf(text).input_ids, text
    plain = hf(text, split_special_tokens=True).input_ids
    if 'art' not in tok.vocabulary.specials.values():  # it has no other way
      assert tok.encode(text, parse_special=False) == plain, text
    ids = tok.encode(text)
    for skip in (True, False):
      assert tok.decode(ids, skip_special=skip) == hf.decode(
        ids, skip_special_tokens=skip
      )
  assert tok.vocab_size == len(hf)
  assert tok.eos_id == hf.eos_token_id
  template = '{{ eos_token }} {{ cls_token }} {{ unk_token }} {{ image_token }}'
  (folder / 'chat_template.jinja').write_text(template)
  tok = Tokenizer.from_pretrained(folder)
  assert tok.chat_text('Hi') == hf.apply_chat_template(
    [{'role': 'user', 'content': 'Hi'}], chat_template=template, tokenize=False
  )


def test_a_missing_token_that_two_names_share_is_refused(tmp_path):
  config = {'eos_token': '<gone>', 'pad_token': '<gone>'}
  folder = save(tmp_path / 'model', tokenizer_config=config)
  with pytest.raises(ValueError, match="has no token '<gone>'"):
    Tokenizer.from_pretrained(folder)


def test_a_tokenizer_that_is_given_is_left_as_it_was():
  tok = families.ours('smollm2')
  size = tok.vocab_size
  decoder = {str(size): added('<new>')}
  more = Tokenizer(
    tok.vocabulary,
    config={'added_tokens_decoder': decoder, 'eos_token': '<new>'},
  )
  assert more.encode('<new>') == [size] and more.eos_id == size
  assert tok.vocab_size == size and len(tok.encode('<new>')) > 1
  assert len(more.encode('<new>', parse_special=False)) > 1


@pytest.mark.parametrize(
  ('file', 'content', 'message'),
  [
    ('tokenizer_config', {'bos_token': 5}, 'bos_token is 5'),
    ('tokenizer_config', {'eos_token': ['</s>']}, r"eos_token is \['</s>'\]"),
    ('tokenizer_config', {'pad_token': {'lstrip': True}}, 'pad_token is {'),
    ('tokenizer_config', {'unk_token': ''}, "unk_token is ''"),
    ('tokenizer_config', {'unk_token': '\ud800'}, 'unk_token.*surrogates'),
    (
      'tokenizer_config',
      {'bos_token': added('<|im_start|>', lstrip='yes')},
      'bos_token is {.*flags',
    ),
    (
      'tokenizer_config',
      {'add_bos_token': 'false'},
      "'false', expected a bool",
    ),
    ('tokenizer_config', {'tokenizer_class': 7}, 'tokenizer_class is 7'),
    (
      'tokenizer_config',
      {'additional_special_tokens': 'x'},
      "is 'x', .*a list",
    ),
    ('tokenizer_config', {'additional_special_tokens': [7]}, 'tokens is 7'),
    ('tokenizer_config', {'added_tokens_decoder': []}, 'is a list'),
    ('tokenizer_config', {'added_tokens_decoder': {'x': {}}}, "has 'x'"),
    ('tokenizer_config', {'added_tokens_decoder': {'1': 'x'}}, "has '1': 'x'"),
    (
      'tokenizer_config',
      {'added_tokens_decoder': {str(last() + 5): added('<new>')}},
      f"'<new>' the id {last() + 5}, but in the vocabulary it has {last()}",
    ),
    (
      'tokenizer_config',
      {'added_tokens_decoder': {'3': added('<|im_start|>')}},
      f'the id 3, but in the vocabulary it has {START}',
    ),
    ('tokenizer_config', {'chat_template': 5}, 'chat_template holds .*5'),
    ('tokenizer_config', {'chat_template': {'x': 'y'}}, 'chat_template holds'),
    ('tokenizer_config', {'chat_template': ['x']}, 'chat_template holds'),
    (
      'tokenizer_config',
      {'chat_template': [{'name': 'default', 'template': 3}]},
      'chat_template holds',
    ),
    (
      'tokenizer_config',
      {'chat_template': [{'name': 'default', 'template': ''}] * 2},
      "two chat templates named 'default'",
    ),
    ('tokenizer_config', {'added_tokens_decoder': {'9' * 5000: {}}}, 'has .99'),
    (
      'tokenizer_config',
      {'added_tokens_decoder': {i: added('<|im_start|>') for i in ('7', '07')}},
      "has '07'",
    ),
    ('special_tokens_map', {'bos_token': 5}, 'bos_token is 5'),
    ('special_tokens_map', {'additional_special_tokens': 5}, 'tokens is 5'),
    ('special_tokens_map', [], 'holds a JSON list'),
    ('added_tokens', {'<new>': '7'}, "'<new>' has the id '7'"),
    ('added_tokens', {'<new>': True}, "'<new>' has the id True"),
    ('added_tokens', {'<new>': -1}, "'<new>' has the id -1"),
    ('added_tokens', {'<a>': last(), '<b>': last()}, "'<b>' has the id"),
    ('added_tokens', {'<new>': last() + 1}, f'it has {last()}'),
  ],
)
def test_malformed_files_are_named(tmp_path, file, content, message):
  folder = save(tmp_path / 'model', **{file: content})
  with pytest.raises(ValueError, match=message) as error:
    Tokenizer.from_pretrained(folder)
  assert f'{folder / file}.json' in str(error.value)


# Ids.


def _model(name='smollm2'):
  return json.loads(families.files(name)['tokenizer.json'])


def _refused(content, message):
  files = dict(families.files('smollm2'))
  files['tokenizer.json'] = json.dumps(content)
  with pytest.raises(ValueError, match=f'here/tokenizer.json.*{message}'):
    Tokenizer.from_files(files, 'here')


def test_a_vocabulary_without_one_of_its_entries_is_refused():
  """The library itself takes most of them."""
  whole, silent = _model(), 0
  pieces = sorted(whole['model']['vocab'])
  for piece in pieces[::7]:
    content = _model()
    del content['model']['vocab'][piece]
    try:
      tokenizers.Tokenizer.from_str(json.dumps(content))
      silent += 1
    except Exception:  # a merge needs the piece
      pass
    _refused(content, '')
  assert silent > 10


def test_ids_that_cannot_be_right_are_refused():
  content = _model()
  content['model']['vocab']['!'] = content['model']['vocab']['"']
  _refused(content, 'both have the id|no token with id')
  content = _model()
  content['model']['vocab']['!'] = 5000
  _refused(content, 'has the id|no token with id')
  content = _model()
  del content['added_tokens'][0]
  _refused(content, "'<|im_start|>'.*has the id")
  content = _model()
  content['added_tokens'][0]['id'] = 3
  _refused(content, 'has the id 3')


def test_other_kinds_of_vocabularies():
  files = {'tokenizer_config.json': '{"tokenizer_class": "GPT2Tokenizer"}'}
  for model in (
    models.WordPiece({'[UNK]': 0, 'a': 1, 'b': 3}),
    models.WordLevel({'[UNK]': 0, 'a': 1, 'b': 3}),
    models.Unigram([('a', -1.0), ('b', -2.0), ('a', -3.0)], unk_id=0),
  ):
    content = tokenizers.Tokenizer(model).to_str()
    with pytest.raises(ValueError, match='no token with id [02]'):
      Tokenizer.from_files(files | {'tokenizer.json': content}, 'here')
  # A list loses an entry without a trace, but for added tokens after it.
  backend = tokenizers.Tokenizer(
    models.Unigram([('a', -1.0), ('b', -2.0)], unk_id=0)
  )
  backend.add_special_tokens(['<x>'])
  content = json.loads(backend.to_str())
  Tokenizer.from_files(files | {'tokenizer.json': json.dumps(content)}, 'here')
  del content['model']['vocab'][1]
  with pytest.raises(ValueError, match="'<x>' has the id 2, .* makes it 1"):
    Tokenizer.from_files(
      files | {'tokenizer.json': json.dumps(content)}, 'here'
    )


def test_a_panic_of_the_library_is_a_value_error():
  content = _model()
  content['model'] |= {'continuing_subword_prefix': 'ĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠ'}
  _refused(content, 'cannot be read by tokenizers')


def test_an_error_of_the_library_on_a_text_is_a_value_error():
  backend = tokenizers.Tokenizer(models.WordLevel({'a': 0}))
  tok = Tokenizer(backend, config={'tokenizer_class': 'GPT2Tokenizer'})
  with pytest.raises(ValueError, match='this tokenizer: a text cannot be read'):
    tok.encode('b')


# Templates of their own for chats with tools.


@pytest.mark.parametrize('files', [True, False])
def test_chats_with_tools_have_their_own_template(tmp_path, files):
  folder = save(tmp_path / 'model')
  named = {'default': 'plain', 'tool_use': 'tools: {{ tools | tojson }}'}
  if files:
    (folder / 'additional_chat_templates').mkdir()
    (folder / 'chat_template.jinja').write_text(named['default'])
    (folder / 'additional_chat_templates' / 'tool_use.jinja').write_text(
      named['tool_use']
    )
  else:
    listed = [{'name': k, 'template': v} for k, v in named.items()]
    save(folder, tokenizer_config={'chat_template': listed})
  tok = Tokenizer.from_pretrained(folder)
  hf = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
  messages = [{'role': 'user', 'content': 'Hi'}]
  assert tok.chat_text('Hi') == 'plain'
  for tools in ([{'name': 'x'}], []):
    assert tok.chat_text('Hi', variables={'tools': tools}) == (
      hf.apply_chat_template(messages, tools=tools, tokenize=False)
    )


def test_a_template_that_fails_is_named_by_its_file(tmp_path):
  folder = save(
    tmp_path / 'model', tokenizer_config={'chat_template': '{{ 1/0'}
  )
  with pytest.raises(
    ValueError, match='model/tokenizer_config.json is not a J'
  ):
    Tokenizer.from_pretrained(folder)
  (folder / 'chat_template.jinja').write_text('{{ 1 / 0 }}')
  tok = Tokenizer.from_pretrained(folder)
  with pytest.raises(
    ValueError, match='model/chat_template.jinja refuses.*ZeroDivision'
  ):
    tok.chat_text('Hi')


def test_an_empty_template_file_is_a_template(tmp_path):
  folder = save(tmp_path / 'model', tokenizer_config={'chat_template': 'x'})
  (folder / 'chat_template.jinja').write_text('')
  assert Tokenizer.from_pretrained(folder).chat_text('Hi') == ''
