"""Every decoder family's tokenizer, against HF's on the same file."""

import json
import random
import unicodedata

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors
import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from gemma_jax.text.spans import TruncationError
from gemma_jax.text.tokenizer import Tokenizer
from tests.gemma_jax.text import families, tiny_tokenizer
from tests.gemma_jax.text.families import FAMILIES
from tools.parity.hostile import HOSTILE, compare

BYTE_LEVEL = [name for name, family in FAMILIES.items() if family.byte_level]
CHATS = [name for name, family in FAMILIES.items() if family.end_of_turn]
MESSAGES = [
  {'role': 'user', 'content': 'Who is Zoë?'},
  {
    'role': 'assistant',
    'content': 'A player, 日本 😀 </s> <|im_end|><|eot_id|>',
  },
  {'role': 'user', 'content': ' <s>\n<|im_start|>Sure?'},
]


@pytest.fixture(name='name', params=FAMILIES)
def _name(request):
  return request.param


def test_the_hostile_texts_are_many_and_different():
  assert len(HOSTILE) == len(set(HOSTILE)) > 200


def test_ids_are_hfs(name):
  bos = FAMILIES[name].bos
  tok, hf = families.ours(name), families.hf(name)
  differing = compare(tok, hf)
  # Where the text spells BOS out, HF has two.
  want = [t for t in HOSTILE if bos and t.startswith(bos)]
  assert [text for text, _, _ in differing] == want
  for text, ours, theirs in differing:
    assert [tok.bos_id, *ours] == theirs, text


def test_compare_finds_a_wrong_tokenizer():
  tok, hf = families.ours('gpt2'), families.hf('llama3')
  assert compare(tok, hf, ['', 'Hi']) == [
    ('', [], hf('').input_ids),
    ('Hi', tok.encode('Hi'), hf('Hi').input_ids),
  ]


def test_ids_of_a_piece_are_hfs(name):
  tok, hf = families.ours(name), families.hf(name)
  for text in HOSTILE:
    want = hf(text, add_special_tokens=False).input_ids
    assert tok.encode(text, bos=False) == want, text
    want = hf(text, add_special_tokens=False, split_special_tokens=True)
    assert tok.encode(text, bos=False, parse_special=False) == want.input_ids


def test_decoded_text_is_hfs(name):
  tok, hf = families.ours(name), families.hf(name)
  for text in HOSTILE:
    ids = tok.encode(text)
    assert tok.decode(ids) == hf.decode(ids), text
    cut = ids[1 : len(ids) // 2]
    assert tok.decode(cut) == hf.decode(cut), text


def test_the_rule_about_bos(name):
  tok, bos = families.ours(name), FAMILIES[name].bos
  assert tok.adds_bos == (bos is not None)
  for text in ('', 'Hi', f'{bos}Hi'):
    ids = tok.encode(text)
    if bos:
      assert ids[0] == tok.bos_id and ids.count(tok.bos_id) == 1
    else:
      assert ids == tok.encode(text, bos=False)
  assert tok.encode_batch(['Hi']).tokens[0].tolist()[-1] == tok.encode('Hi')[-1]


def test_special_ids(name):
  tok, hf = families.ours(name), families.hf(name)
  assert (tok.bos_id, tok.eos_id) == (hf.bos_token_id, hf.eos_token_id)
  if hf.pad_token_id is not None:
    assert tok.pad_id == hf.pad_token_id
  elif '<pad>' not in tok.vocabulary:
    assert tok.pad_id == tok.eos_id


# What tokens spell.


def _bytes(name, ids):
  """The bytes of byte-level tokens, by HF's table."""
  hf = families.hf(name)
  table = {char: byte for byte, char in bytes_to_unicode().items()}
  return [
    piece.encode()
    if piece in hf.all_special_tokens or piece in hf.added_tokens_encoder
    else bytes(table[char] for char in piece)
    for piece in hf.convert_ids_to_tokens(ids)
  ]


def _whole(piece):
  try:
    return piece.decode()
  except UnicodeDecodeError:
    return None


@pytest.mark.parametrize('name', BYTE_LEVEL)
def test_labels_spell_the_text(name):
  tok, split = families.ours(name), 0
  for text in HOSTILE:
    if name == 'qwen':
      text = unicodedata.normalize('NFC', text)
    ids = tok.encode(text, bos=False)
    pieces, labels = _bytes(name, ids), tok.token_strings(ids)
    assert b''.join(pieces).decode() == text
    for piece, label in zip(pieces, labels, strict=True):
      if (whole := _whole(piece)) is not None:
        assert label == whole
      else:
        split += 1
        assert f'<0x{piece[-1]:02X}>' in label or f'<0x{piece[0]:02X}>' in label
    if all(_whole(piece) is not None for piece in pieces):
      assert ''.join(labels) == text
  assert split > 100


def test_labels():
  tok = families.ours('gpt2')
  assert ''.join(tok.token_strings(tok.encode(' the café\n'))) == ' the café\n'
  assert tok.token_strings(tok.encode('ߐ')) == ['<0xDF>', '<0x90>']
  assert tok.token_strings(tok.encode('<|endoftext|>')) == ['<|endoftext|>']
  tok = families.ours('llama2')
  assert tok.token_strings(tok.encode('art.')) == ['<s>', ' art', '.']


def test_an_added_token_spells_itself():
  backend = families.gpt2()
  backend.add_tokens(['Ġé', 'a b'])
  tok = Tokenizer(backend)
  for text in ('Ġé', 'a b'):
    assert tok.token_strings(tok.encode(text)) == [text]
    assert tok.find_span(tok.encode(text), text[-1]) == (0, 1)


# Spans.


def _substrings(count, seed, texts):
  rng = random.Random(seed)
  texts = [t for t in texts if t]
  for _ in range(count):
    text = rng.choice(texts)
    start = rng.randrange(len(text))
    yield text, text[start : start + rng.randrange(1, 8)]


@pytest.mark.parametrize('name', BYTE_LEVEL)
def test_spans_have_every_token_with_a_byte_of_the_substring(name):
  tok, bos = families.ours(name), FAMILIES[name].bos
  texts = [
    t
    for t in HOSTILE
    if not (bos and t.startswith(bos)) and unicodedata.is_normalized('NFC', t)
  ]
  for text, target in _substrings(500, 0, texts):
    ids = tok.encode(text)
    pieces = _bytes(name, ids)
    if bos:
      pieces[0] = b''
    at = text.index(target)
    start = len(text[:at].encode())
    stop = start + len(target.encode())
    ends = np.cumsum([len(piece) for piece in pieces])
    starts = ends - [len(piece) for piece in pieces]
    hits = np.flatnonzero((starts < stop) & (ends > start))
    # A token with some bytes of a character spells that character.
    inside = [i for i, p in enumerate(pieces) if _whole(p) is None]
    got = tok.find_span(text, target)
    assert got[0] <= hits[0] and got[1] > hits[-1], (text, target)
    assert {*range(*got)} - {*hits} <= {*inside}, (text, target)
    if not bos:  # the text that ids spell has a BOS in front
      assert tok.find_span(ids, target) == got, (text, target)


@pytest.mark.parametrize('name', BYTE_LEVEL)
def test_the_space_before_a_word_is_its_tokens(name):
  tok = families.ours(name)
  start, stop = tok.find_span('The art of', ' art')
  assert tok.token_strings(tok.encode('The art of')[start:stop]) == [' art']
  assert tok.find_span('The art of', 'art') == (start, stop)
  assert tok.find_span('The art of', ' ') == (start, stop)


def test_spans_of_characters_in_several_tokens(name):
  tok = families.ours(name)
  ids = tok.encode('a😺b')
  start, stop = tok.find_span('a😺b', '😺')
  assert b''.join(tok.vocabulary.spelled(ids[start:stop])) == '😺'.encode()
  assert stop - start > 1
  assert tok.find_span(ids, '😺') == (start, stop)
  assert tok.find_span('a😺b', 'b') == (stop, stop + 1)
  cut = tok.tokenize('a😺b', max_length=stop - 1, truncate=True)
  assert cut.kept == 1
  with pytest.raises(TruncationError, match='😺'):
    tok.find_span(cut, '😺')


def test_the_papers_rule_is_a_scan(name):
  tok, hf = families.ours(name), families.hf(name)
  texts = ['The art of the party: Zoë Zoë, 2024.', "I don't know  Paris\n\nart"]
  for text, target in _substrings(60, 1, texts):
    ids = tok.encode(text)
    stop = next(i for i in range(len(ids) + 1) if target in hf.decode(ids[:i]))
    start = next(
      (i for i in range(stop, -1, -1) if target in hf.decode(ids[i:stop])), 0
    )
    assert tok.find_span(text, target, rule='paper') == (start, stop)


@pytest.mark.parametrize('name', ['llama2', 'mistral'])
def test_a_space_that_the_tokenizer_adds_spells_nothing(name):
  tok = families.ours(name)
  encoding = tok.tokenize('日 art')
  assert tok.token_strings(encoding.ids)[:2] == ['<s>', ' ']
  assert encoding.offsets[1] == (0, 0)
  start, stop = tok.find_span('日 art', '日')
  assert b''.join(tok.vocabulary.spelled(encoding.ids[start:stop])) == (
    '日'.encode()
  )
  assert tok.tokenize('日  x').offsets[-2:] == [(2, 3), (3, 4)]


# Chats.


@pytest.mark.parametrize('name', CHATS)
@pytest.mark.parametrize('prompt', [True, False])
def test_chats_are_hfs(name, prompt):
  tok, hf = families.ours(name), families.hf(name)
  for messages in (MESSAGES, MESSAGES[:1], MESSAGES[:2]):
    options = {'add_generation_prompt': prompt}
    text = tok.chat_text(messages, generation_prompt=prompt)
    assert text == hf.apply_chat_template(messages, tokenize=False, **options)
    want = hf.apply_chat_template(messages, return_dict=False, **options)
    got = tok.tokenize_chat(messages, generation_prompt=prompt)
    assert got.ids == want  # one BOS, or none


@pytest.mark.parametrize('name', CHATS)
def test_contents_can_be_ordinary_text(name):
  tok, hf = families.ours(name), families.hf(name)
  got = tok.tokenize_chat(MESSAGES, parse_special=False)
  assert got.ids == hf.apply_chat_template(
    MESSAGES,
    add_generation_prompt=True,
    return_dict=False,
    sanitize_control_tokens=True,
  )
  start, stop = tok.find_span(got, 'Sure', occurrence=-1)
  assert 'Sure' in ''.join(tok.token_strings(got.ids[start:stop]))
  assert all(0 <= a <= b <= len(got.text) for a, b in got.offsets)


@pytest.mark.parametrize('name', CHATS)
def test_the_end_of_a_turn_is_what_the_template_writes(name):
  tok, hf = families.ours(name), families.hf(name)
  end = hf.convert_tokens_to_ids(FAMILIES[name].end_of_turn)
  assert tok.end_of_turn_id == end
  assert tok.stop_ids == tuple(dict.fromkeys((hf.eos_token_id, end)))


def test_a_base_model_has_no_chats():
  tok = families.ours('gpt2')
  with pytest.raises(ValueError, match='gpt2 has no chat template.*base model'):
    tok.tokenize_chat('Hi')
  with pytest.raises(ValueError, match='no token that ends a turn'):
    _ = tok.end_of_turn_id
  assert tok.stop_ids == (tok.eos_id,)


def test_variables_of_a_template():
  tok, hf = families.ours('llama3'), families.hf('llama3')
  variables = {'date_string': '26 Jul 2024'}
  text = tok.chat_text('Hi', variables=variables)
  assert 'Today: 26 Jul 2024' in text
  messages = [{'role': 'user', 'content': 'Hi'}]
  options = {'tokenize': False, 'add_generation_prompt': True}
  assert text == hf.apply_chat_template(messages, **options, **variables)
  assert tok.tokenize_chat('Hi', variables=variables).text == text

  tok, hf = families.ours('qwen'), families.hf('qwen')
  tools = [{'type': 'function', 'function': {'name': 'größe', 'x': [1, '<']}}]
  text = tok.chat_text('Hi', variables={'tools': tools})
  assert '"größe"' in text
  assert text == hf.apply_chat_template(messages, tools=tools, **options)


@pytest.mark.parametrize(
  ('variables', 'message'),
  [
    ({'enable_thinking': False}, r"\['enable_thinking'\].*takes \['bos_token"),
    ({'messages': []}, r"not take the variables \['messages'\]"),
  ],
)
def test_a_variable_that_is_not_read_is_refused(variables, message):
  with pytest.raises(ValueError, match=message):
    families.ours('llama3').chat_text('Hi', variables=variables)
  with pytest.raises(ValueError, match="Gemma 2's format has no variables"):
    tiny_tokenizer.ours().chat_text('Hi', variables=variables)


# Files.


def _with(name, **config):
  files = dict(families.files(name))
  config = json.loads(files['tokenizer_config.json']) | config
  files['tokenizer_config.json'] = json.dumps(config)
  return Tokenizer.from_files(files, 'here')


def test_a_folder_is_its_files(tmp_path, name):
  for file, content in families.files(name).items():
    (tmp_path / file).write_text(content)
  tok = Tokenizer.from_pretrained(tmp_path)
  assert tok.encode('The art') == families.ours(name).encode('The art')
  assert tok.stop_ids == families.ours(name).stop_ids


def test_a_template_file_wins():
  files = families.files('smollm2') | {'chat_template.jinja': 'file'}
  assert Tokenizer.from_files(files, 'here').chat_text('Hi') == 'file'


def test_the_config_decides_about_bos():
  assert not _with('llama3', add_bos_token=False).adds_bos
  tok = _with('smollm2', add_bos_token=True)
  assert tok.encode('Hi')[0] == tok.bos_id
  with pytest.raises(ValueError, match='names no bos_token'):
    _with('qwen', add_bos_token=True)
  with pytest.raises(ValueError, match='begin_of_text.*by its tok.*eot_id'):
    _with('llama3', bos_token='<|eot_id|>')


@pytest.mark.parametrize(
  ('kind', 'adds'),
  [
    ('LlamaTokenizerFast', True),
    ('GemmaTokenizer', True),
    ('GPT2Tokenizer', False),
    ('Qwen2Tokenizer', False),
  ],
)
def test_without_a_post_processor_the_class_decides(kind, adds):
  files = dict(families.files('mistral'))
  content = json.loads(files['tokenizer.json']) | {'post_processor': None}
  files['tokenizer.json'] = json.dumps(content)
  files['tokenizer_config.json'] = json.dumps({'tokenizer_class': kind})
  assert Tokenizer.from_files(files, 'here').adds_bos == adds


def test_what_the_post_processor_adds_decides():
  files = {'tokenizer.json': families.files('llama3')['tokenizer.json']}
  tok = Tokenizer.from_files(files, 'here')
  assert tok.adds_bos and tok.token_strings([tok.bos_id]) == [
    '<|begin_of_text|>'
  ]
  assert (tok.eos_id, tok.pad_id) == (None, 0)
  assert tok.pad([[5], [5, 6]]).tokens[0, 0] == 0
  with pytest.raises(ValueError, match='here has no token that ends a text'):
    _ = tok.stop_ids


def test_an_eos_after_a_text_is_refused():
  backend = families.gpt2()
  end = '<|endoftext|>'
  backend.post_processor = processors.TemplateProcessing(
    single=f'$A {end}', special_tokens=[(end, backend.token_to_id(end))]
  )
  with pytest.raises(ValueError, match=r"\[\] before and \['<.endoftext.>'\]"):
    Tokenizer(backend)


def test_the_librarys_object_is_left_as_it_was():
  backend = families.llama3()
  before = backend.to_str()
  Tokenizer(backend)
  assert backend.to_str() == before


@pytest.fixture(name='opt')
def _opt():
  model = json.loads(families.gpt2().to_str())['model']
  pieces = ['<s>', '<pad>', '</s>', '<unk>', *model['vocab']]
  config = {
    'tokenizer_class': 'GPT2Tokenizer',
    'add_bos_token': True,
    'bos_token': {'content': '</s>', '__type': 'AddedToken'},
    'eos_token': {'content': '</s>', '__type': 'AddedToken'},
    'unk_token': {'content': '</s>', '__type': 'AddedToken'},
    'pad_token': '<pad>',
  }
  return {
    'vocab.json': json.dumps({piece: i for i, piece in enumerate(pieces)}),
    'merges.txt': '#version: 0.2\n'
    + ''.join(f'{a} {b}\n' for a, b in model['merges']),
    'tokenizer_config.json': json.dumps(config),
  }


def test_opt(opt, tmp_path):
  for file, content in opt.items():
    (tmp_path / file).write_text(content)
  tok = Tokenizer.from_pretrained(tmp_path)
  hf = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
  assert (tok.adds_bos, tok.bos_id, tok.eos_id, tok.pad_id) == (True, 2, 2, 1)
  assert [t for t, _, _ in compare(tok, hf) if not t.startswith('</s>')] == []
  hf.save_pretrained(tmp_path / 'saved')  # with a tokenizer.json
  saved = Tokenizer.from_pretrained(tmp_path / 'saved')
  assert compare(saved, hf) == compare(tok, hf)
  assert saved.adds_bos


def test_vocab_and_merges_of_another_class_are_refused(opt):
  config = json.dumps({'tokenizer_class': 'Qwen2Tokenizer'})
  with pytest.raises(FileNotFoundError, match='here has no tokenizer.json'):
    Tokenizer.from_files(opt | {'tokenizer_config.json': config}, 'here')
  with pytest.raises(ValueError, match='here: vocab.json and merges.txt'):
    Tokenizer.from_files(opt | {'merges.txt': 'a b c\n'}, 'here')


def test_an_unreadable_content_is_named():
  files = families.files('gpt2')
  for file in files:
    with pytest.raises(ValueError, match=f'here/{file} is not JSON'):
      Tokenizer.from_files(files | {file: '{'}, 'here')


# Fit of an embedding.


def test_every_token_needs_a_row(name):
  tok = families.ours(name)
  size = tok.vocab_size
  tok.check_fits(size, 'the model')
  tok.check_fits(size + 100, 'the model')
  with pytest.raises(
    ValueError, match=f'{name} does not fit the model.*id {size - 1}.*5 rows'
  ):
    tok.check_fits(5, 'the model')


def test_a_special_token_may_lack_a_row():
  backend = tokenizers.Tokenizer(models.WordLevel({'a': 0, '<eos>': 1}))
  backend.pre_tokenizer = pre_tokenizers.Split('a', 'isolated')
  backend.add_special_tokens(['<eos>', '<image>'])
  tok = Tokenizer(backend, config={'tokenizer_class': 'GPT2Tokenizer'})
  assert tok.encode('a<image>') == [0, 2]
  tok.check_fits(2, 'the model')
  assert tok.encode('a<eos>') == [0, 1]
  with pytest.raises(ValueError, match="'<image>', for which the model has no"):
    tok.encode('a<image>')
  with pytest.raises(ValueError, match="the first is 1, '<eos>'|1 tokens"):
    Tokenizer(
      _plain(['a', 'b']), config={'tokenizer_class': 'GPT2Tokenizer'}
    ).check_fits(1, 'the model')


def _plain(words):
  vocab = {word: i for i, word in enumerate(words)}
  return tokenizers.Tokenizer(models.WordLevel(vocab))
