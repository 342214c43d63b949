"""Tokens, text and files, against HF's tokenizer on the same files."""

import builtins
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import models

from gemma_jax.text.tokenizer import Tokenizer
from tests.gemma_jax.text import tiny_tokenizer

BOS = 2
TEXTS = (*tiny_tokenizer.HOSTILE, *tiny_tokenizer.random_texts(200, seed=0))


@pytest.fixture(name='tok')
def _tok():
  return tiny_tokenizer.ours()


@pytest.fixture(name='hf', params=['fast', 'gemma'])
def _hf(request):
  return tiny_tokenizer.hf(request.param)


def test_ids_are_hfs_without_a_second_bos(tok, hf):
  for text in TEXTS:
    want = hf(text).input_ids
    while want[:2] == [BOS, BOS]:
      want = want[1:]
    assert tok.encode(text) == want, text


def test_ids_of_a_piece_of_text_are_hfs(tok, hf):
  for text in TEXTS:
    want = hf(text, add_special_tokens=False).input_ids
    assert tok.encode(text, bos=False) == want, text


def test_special_tokens_can_be_ordinary_text(tok, hf):
  for text in TEXTS:
    want = hf(text, split_special_tokens=True).input_ids
    got = tok.encode(text, parse_special=False)
    assert got == want, text
    assert not set(got[1:]) & set(range(len(tiny_tokenizer.SPECIALS))), text
  # The flag of one call does not leak into the next.
  assert tok.encode('<eos>') == [BOS, 1]


def test_offsets_are_hfs(tok, hf):
  for text in TEXTS:
    raw = hf(text, return_offsets_mapping=True, add_special_tokens=False)
    got = tok.tokenize(text, bos=False)
    assert got.offsets == raw.offset_mapping, text
    assert got.kept == len(text)


@pytest.mark.parametrize('skip', [False, True])
def test_decoded_text_is_hfs(tok, hf, skip):
  for text in TEXTS:
    ids = hf(text).input_ids
    want = hf.decode(ids, skip_special_tokens=skip)
    assert tok.decode(ids, skip_special=skip) == want, text


def test_decoding_bytes_that_are_no_text_is_hfs(tok, hf):
  ids = tok.encode('日😀é', bos=False)
  for start in range(len(ids)):
    for stop in range(start, len(ids) + 1):
      assert tok.decode(ids[start:stop]) == hf.decode(ids[start:stop])


def test_round_trip(tok):
  for text in TEXTS:
    for parse in (True, False):
      ids = tok.encode(text, bos=False, parse_special=parse)
      # Gemma's tokenizer cannot tell U+2581 from a space.
      assert tok.decode(ids) == text.replace('▁', ' ')


@pytest.mark.parametrize(
  'text', ['', 'Hi', '<bos>', '<bos>Hi', '<bos><bos>Hi', '<bos> <bos>Hi']
)
def test_one_bos_at_the_start(tok, text):
  ids = tok.encode(text)
  assert ids[0] == BOS and ids[1:2] != [BOS]
  assert tok.encode(tok.decode(ids)) == ids


def test_a_written_bos_covers_its_characters(tok):
  assert tok.tokenize('<bos><bos>art').offsets[0] == (0, 10)
  assert tok.tokenize('art').offsets[0] == (0, 0)


def test_labels_spell_each_token(tok):
  ids = tok.encode('The movie é\n')
  assert tok.token_strings(ids)[:3] == ['<bos>', 'The', ' movie']
  text = 'The art of café, Zoë\n\n<table>'
  assert ''.join(tok.token_strings(tok.encode(text))) == '<bos>' + text
  emoji = tok.encode('😀', bos=False)
  assert tok.token_strings(emoji) == ['<0xF0>', '<0x9F>', '<0x98>', '<0x80>']


def test_special_ids(tok, hf):
  assert tok.bos_id == hf.bos_token_id
  assert tok.eos_id == hf.eos_token_id
  assert tok.pad_id == hf.pad_token_id
  assert tok.end_of_turn_id == hf.convert_tokens_to_ids('<end_of_turn>')
  assert tok.stop_ids == (tok.eos_id, tok.end_of_turn_id)
  assert tok.vocab_size == len(hf)


def test_ids_may_be_arrays(tok):
  ids = tok.encode('The art')
  for array in (np.asarray(ids, np.int32), jnp.asarray(ids), tuple(ids)):
    assert tok.decode(array) == '<bos>The art'
  assert tok.decode([]) == ''


@pytest.mark.parametrize(
  ('ids', 'message'),
  [
    ([2, -1], '-1 is not a token id'),
    ([2, 10**6], '1000000 is not a token id'),
    ([[2, 3]], r'\(1, 2\)'),
    ([0.5], 'float64'),
  ],
)
def test_wrong_ids_are_refused(tok, ids, message):
  for call in (tok.decode, tok.token_strings, lambda ids: tok.pad([ids])):
    with pytest.raises(ValueError, match=message):
      call(ids)


@pytest.mark.parametrize('text', ['a\ud800b', b'bytes', None, 3])
def test_what_is_not_text_is_refused(tok, text):
  with pytest.raises(ValueError, match='ud800|bytes|None|3'):
    tok.encode(text)
  with pytest.raises(ValueError, match='ud800|bytes|None|3'):
    tok.encode_batch(['fine', text])


# Length.


def test_too_long_a_text_is_named(tok):
  text = 'The art of the party'
  size = len(tok.encode(text))
  assert tok.encode(text, max_length=size) == tok.encode(text)
  with pytest.raises(ValueError, match=f'{text}.* has {size} tokens.*truncate'):
    tok.encode(text, max_length=size - 1)
  with pytest.raises(ValueError, match='The art of.*max_length=4'):
    tok.encode_batch(['Hi', text], max_length=4)
  with pytest.raises(ValueError, match='max_length=4'):
    tok.encode_batch([text], buckets=(2, 4))


def test_truncation_is_hfs(tok, hf):
  for text in TEXTS:
    if text.startswith('<bos>'):
      continue
    want = hf(text, truncation=True, max_length=6).input_ids
    # HF's general class truncates on the side its files say: the right one.
    assert tok.encode(text, max_length=6, truncate=True) == want, text


def test_truncation_keeps_bos_and_says_what_it_kept(tok):
  cut = tok.tokenize('ab😀c', max_length=1, truncate=True)
  assert cut.ids == [BOS] and cut.kept == 0
  cut = tok.tokenize('ab😀c', max_length=5, truncate=True)  # inside the emoji
  assert cut.text[: cut.kept] == 'ab'
  with pytest.raises(ValueError, match='max_length=0'):
    tok.tokenize('ab', max_length=0, truncate=True)


# Batches.


@pytest.mark.parametrize('side', ['left', 'right'])
def test_a_batch_is_hfs(tok, hf, side):
  texts = [t for t in TEXTS if not t.startswith('<bos>') and len(t) < 60]
  tokens, positions = tok.encode_batch(texts, side=side, buckets=64)
  want = hf(
    texts,
    padding='max_length',
    max_length=64,
    padding_side=side,
    return_tensors='np',
  )
  np.testing.assert_array_equal(tokens, want.input_ids)
  mask = want.attention_mask
  np.testing.assert_array_equal(positions >= 0, mask == 1)
  np.testing.assert_array_equal(
    positions, np.where(mask, np.cumsum(mask, 1) - 1, -1)
  )
  assert tokens.dtype == positions.dtype == np.int32


def test_pad_takes_ids_and_encodings(tok):
  text = 'The art'
  a = tok.pad([tok.encode(text), tok.tokenize('Hi')])
  b = tok.encode_batch([text, 'Hi'])
  np.testing.assert_array_equal(a.tokens, b.tokens)
  np.testing.assert_array_equal(a.positions, b.positions)


def test_a_text_is_no_batch(tok):
  with pytest.raises(ValueError, match="list of texts, got the text 'Hi'"):
    tok.encode_batch('Hi')


# Files.


def test_names_of_special_tokens_come_from_the_config(tmp_path):
  folder = tiny_tokenizer.save(tmp_path, pad_token='<eos>', eos_token=None)
  tok = Tokenizer.from_pretrained(folder)
  assert (tok.pad_id, tok.eos_id, tok.bos_id) == (1, 1, 2)


def test_the_config_may_be_absent(tmp_path, tok):
  tiny_tokenizer.train().save(str(tmp_path / 'tokenizer.json'))
  alone = Tokenizer.from_pretrained(str(tmp_path))
  assert alone.encode('The art') == tok.encode('The art')
  assert alone.pad_id == tok.pad_id


def test_padding_and_truncation_in_the_file_are_switched_off(tmp_path, tok):
  backend = tiny_tokenizer.train()
  backend.enable_padding(length=50)
  backend.enable_truncation(3)
  backend.save(str(tmp_path / 'tokenizer.json'))
  text = 'The art of the party'
  assert Tokenizer.from_pretrained(tmp_path).encode(text) == tok.encode(text)
  backend.encode_special_tokens = True
  assert Tokenizer(backend).encode('<eos>') == [BOS, tok.eos_id]


def test_byte_tokens_whose_use_is_not_said_are_refused(tmp_path):
  """Without the field, text that has no other token is one unknown token."""
  tiny_tokenizer.save(tmp_path)
  path = tmp_path / 'tokenizer.json'
  content = json.loads(path.read_text())
  assert content['model'].pop('byte_fallback')
  path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match='tokenizer.json has a token for each'):
    Tokenizer.from_pretrained(tmp_path)


def test_a_folder_without_a_tokenizer(tmp_path):
  with pytest.raises(FileNotFoundError, match='tokenizer.json.*transformers'):
    Tokenizer.from_pretrained(tmp_path)
  with pytest.raises(FileNotFoundError, match='missing'):
    Tokenizer.from_pretrained(tmp_path / 'missing')


@pytest.mark.parametrize(
  ('name', 'content'),
  [
    ('tokenizer.json', '{}'),
    ('tokenizer.json', 'no json'),
    ('tokenizer.json', ''),
    ('tokenizer.json', '{"model": 1, "model": 2}'),
    ('tokenizer.json', '[' * 100_000),
    ('tokenizer_config.json', '{"bos'),
    ('tokenizer_config.json', '[]'),
    ('tokenizer_config.json', ' '),
    ('tokenizer_config.json', '{"model_max_length": ' + '9' * 5000 + '}'),
    ('tokenizer_config.json', '{"x":' * 100_000),
    ('tokenizer_config.json', '{"bos_token": "<bos>", "bos_token": "<eos>"}'),
    ('special_tokens_map.json', 'null'),
    ('special_tokens_map.json', '{"a": NaN}'),
    ('added_tokens.json', '[]'),
    ('chat_template.jinja', b'\xff'),
  ],
)
def test_an_unreadable_file_is_named(tmp_path, name, content):
  tiny_tokenizer.save(tmp_path)
  content = content if isinstance(content, bytes) else content.encode()
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))):
    Tokenizer.from_pretrained(tmp_path)


def test_a_missing_special_token_is_named(tmp_path):
  tiny_tokenizer.save(tmp_path, bos_token='<|begin|>')
  with pytest.raises(ValueError, match=r"has no token '<\|begin\|>'"):
    Tokenizer.from_pretrained(tmp_path)


def _bare(vocab, merges=(), added=('<pad>', '<eos>', '<bos>')):
  """A tokenizer of a few pieces, without chats."""
  pieces = ['<pad>', '<eos>', '<bos>', *vocab]
  backend = tokenizers.Tokenizer(
    models.BPE({p: i for i, p in enumerate(pieces)}, list(merges))
  )
  backend.add_special_tokens(list(added))
  return backend


def test_a_special_token_must_be_recognised_in_text():
  with pytest.raises(ValueError, match="'<bos>' is in the vocabulary.*added"):
    Tokenizer(_bare('ab', added=('<pad>', '<eos>')))


def test_a_vocabulary_without_turns():
  tok = Tokenizer(_bare('ab'))
  assert tok.stop_ids == (1,)
  for call in (lambda: tok.end_of_turn_id, lambda: tok.chat_text('a')):
    with pytest.raises(ValueError, match="no token '<end_of_turn>'"):
      call()


def test_a_special_token_that_cannot_be_spelled():
  vocab = ['<', 'b', 'o', 's', '>', '<b', '<bo', '<bos']
  merges = [('<', 'b'), ('<b', 'o'), ('<bo', 's'), ('<bos', '>')]
  tok = Tokenizer(_bare(vocab, merges))
  assert tok.encode('<bos>b') == [2, 4]
  with pytest.raises(ValueError, match="cannot spell '<bos>'.*'b<bos>'"):
    tok.encode('b<bos>', parse_special=False)


def test_a_hub_id_needs_huggingface_hub(monkeypatch):
  real = builtins.__import__

  def without(name, *args, **kwargs):
    if name == 'huggingface_hub':
      raise ImportError(name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, '__import__', without)
  with pytest.raises(ImportError, match=r'google/gemma-2-2b.*\[hub\]'):
    Tokenizer.from_pretrained('google/gemma-2-2b')


def test_a_hub_id_is_downloaded(monkeypatch, tmp_path, tok):
  import huggingface_hub

  asked = {}

  def snapshot_download(name, revision, allow_patterns):
    asked.update(name=name, revision=revision, patterns=allow_patterns)
    return str(tiny_tokenizer.save(tmp_path / 'commit'))

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot_download)
  got = Tokenizer.from_pretrained('google/gemma-2-2b', revision='main')
  assert got.encode('The art') == tok.encode('The art')
  assert (asked['name'], asked['revision']) == ('google/gemma-2-2b', 'main')
  files = {'tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'}
  assert files <= set(asked['patterns'])
  assert not any(
    'safetensors' in p and 'index' not in p for p in asked['patterns']
  )


def test_the_config_is_what_hf_writes(tmp_path, hf, tok):
  """Files that HF saves, in its newest layout, are read to the same ids."""
  hf.save_pretrained(tmp_path)
  assert json.loads((tmp_path / 'tokenizer_config.json').read_text())
  saved = Tokenizer.from_pretrained(tmp_path)
  for text in tiny_tokenizer.HOSTILE:
    assert saved.encode(text) == tok.encode(text), text
