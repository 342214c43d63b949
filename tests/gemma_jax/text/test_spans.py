"""Both rules of `find_span`, against scans and HF's own offsets."""

import random
import re

import numpy as np
import pytest

from gemma_jax.text.spans import Encoding, TruncationError
from tests.gemma_jax.text import tiny_tokenizer

PARTY = 'The art of the party: art, partner and art.'


@pytest.fixture(name='tok')
def _tok():
  return tiny_tokenizer.ours()


def _cases(count, seed, keep):
  """Texts and substrings of theirs that HF's decoding keeps."""
  hf, rng = tiny_tokenizer.hf(), random.Random(seed)
  texts = [
    t
    for t in (*tiny_tokenizer.HOSTILE, *tiny_tokenizer.random_texts(200, seed))
    if t and keep(t) and '▁' not in t and not t.startswith('<bos>')
  ]
  while count:
    text = rng.choice(texts)
    start = rng.randrange(len(text))
    substring = text[start : start + rng.randrange(1, 8)]
    yield text, substring, hf(text).input_ids
    count -= 1


def _scan(ids, target):
  """The paper's rule by trying every stop, then every start."""
  decode = tiny_tokenizer.hf().decode
  stop = next(i for i in range(len(ids) + 1) if target in decode(ids[:i]))
  start = next(i for i in range(stop, -1, -1) if target in decode(ids[i:stop]))
  return start, stop


def _halve(ids, target):
  """The paper's rule by halving intervals, written out."""
  decode = tiny_tokenizer.hf().decode
  low, high = 0, len(ids)
  while low < high:
    middle = (low + high) // 2
    if target in decode(ids[:middle]):
      high = middle
    else:
      low = middle + 1
  stop, low, high = high, 0, high - 1
  while low < high:
    middle = -(-(low + high) // 2)  # rounded up
    if target in decode(ids[middle:stop]):
      low = middle
    else:
      high = middle - 1
  return low, stop


def _no_bytes(text):
  """Whether no character is spelled in bytes."""
  hf = tiny_tokenizer.hf()
  return not any(
    '<0x' in p for p in hf.convert_ids_to_tokens(hf(text).input_ids)
  )


def test_the_papers_rule_is_the_scan(tok):
  for text, target, ids in _cases(300, 1, _no_bytes):
    want = _scan(ids, target)
    assert tok.find_span(text, target, rule='paper') == want, (text, target)
    assert tok.find_span(ids, target, rule='paper') == want, (text, target)


def test_the_papers_rule_halves_as_the_paper_does(tok):
  """Also where bytes make it miss the smallest stop."""
  missed = 0
  for text, target, ids in _cases(600, 2, lambda text: True):
    want = _halve(ids, target)
    missed += want != _scan(ids, target)
    assert tok.find_span(ids, target, rule='paper') == want, (text, target)
  assert missed  # or this test would be the one above


def test_the_papers_rule_in_a_padded_row(tok):
  text = 'Are you sure you know the player Kawhi Leonard?'
  batch = tok.encode_batch([text], buckets=64)
  start, stop = tok.find_span(batch.tokens[0], 'Kawhi Leonard', rule='paper')
  shift = batch.starts[0]
  assert (start - shift, stop - shift) == tok.find_span(text, 'Kawhi Leonard')
  assert (start, stop) == _halve(batch.tokens[0], 'Kawhi Leonard')


@pytest.mark.parametrize('occurrence', [0, 1, -1])
def test_offsets_find_every_token_of_every_occurrence(tok, occurrence):
  hf = tiny_tokenizer.hf()
  tried = 0
  for text, target, _ in _cases(600, 3, lambda text: True):
    found = [m.start() for m in re.finditer(f'(?={re.escape(target)})', text)]
    if not -len(found) <= occurrence < len(found):
      continue
    tried += 1
    first, last = found[occurrence], found[occurrence] + len(target) - 1
    raw = hf(text)
    covers = [raw.token_to_chars(i) for i in range(len(raw.input_ids))]
    want = (
      raw.char_to_token(first),
      max(i for i, c in enumerate(covers) if c and c.start <= last < c.end) + 1,
    )
    got = tok.find_span(text, target, occurrence=occurrence)
    assert got == want, (text, target)
  assert tried > 50


def test_offsets_of_ids_are_those_of_their_text(tok):
  for text, target, ids in _cases(300, 4, lambda text: True):
    want = tok.find_span(text, target, occurrence=-1)
    assert tok.find_span(ids, target, occurrence=-1) == want, (text, target)
    assert tok.find_span(np.asarray(ids), target, occurrence=-1) == want


def test_rules_agree_on_ordinary_text(tok):
  for target in ('art', 'party', 'partner', 'the', 'of the', 'The', '.', ': '):
    want = tok.find_span(PARTY, target)
    assert tok.find_span(PARTY, target, rule='paper') == want
    assert target in tok.decode(tok.encode(PARTY)[slice(*want)])


def test_repeated_and_embedded_substrings(tok):
  pieces = tok.token_strings(tok.encode(PARTY))

  def spelled(**options):
    return ''.join(pieces[slice(*tok.find_span(PARTY, 'art', **options))])

  # art, p-art-y, art, p-art-ner, art
  assert [spelled(occurrence=i) for i in (0, 2, 4)] == [' art'] * 3
  assert 'art' in spelled(occurrence=1) and spelled(occurrence=1) != ' art'
  spans = [tok.find_span(PARTY, 'art', occurrence=i) for i in range(5)]
  assert spans == sorted(set(spans))
  words = [
    tok.find_span(PARTY, 'art', occurrence=i, whole_word=True) for i in range(3)
  ]
  assert words == [spans[0], spans[2], spans[4]]
  assert tok.find_span(PARTY, 'art', occurrence=-1) == spans[4]
  assert tok.find_span(PARTY, 'art', occurrence=-5) == spans[0]
  with pytest.raises(ValueError, match="'art' occurs 5 times.*occurrence 5"):
    tok.find_span(PARTY, 'art', occurrence=5)
  with pytest.raises(ValueError, match='3 times as a whole word.*rence -4'):
    tok.find_span(PARTY, 'art', occurrence=-4, whole_word=True)


@pytest.mark.parametrize(
  ('text', 'substring', 'whole'),
  [
    ('cafe', 'cafe', True),
    ('cafe\u0301', 'cafe', False),  # a combining accent belongs to the e
    ('cafés', 'café', False),
    ('(art)', 'art', True),
    ('art_1', 'art', False),
    ("art's", 'art', True),
    ('a (b)c', '(b)', True),  # no word goes on across a parenthesis
    ('日本語', '日本', False),
  ],
)
def test_whole_words(tok, text, substring, whole):
  if whole:
    want = tok.find_span(text, substring)
    assert tok.find_span(text, substring, whole_word=True) == want
  else:
    with pytest.raises(ValueError, match='0 times as a whole word'):
      tok.find_span(text, substring, whole_word=True)


def test_where_the_rules_differ(tok):
  both = [
    {
      rule: tok.find_span(text, target, rule=rule)
      for rule in ('offsets', 'paper')
    }
    for text, target in [('no bos', 'bos'), ('x😀🙂y', '😀')]
  ]
  # The name of the BOS token.
  assert both[0]['paper'] == (0, 1) and both[0]['offsets'][0] > 0
  # Four bytes each: five to seven of them decode to no emoji at all.
  assert both[1]['offsets'] == (2, 6)
  assert both[1]['paper'] == _halve(tok.encode('x😀🙂y'), '😀') == (2, 10)
  # Occurrences that overlap.
  ids = tok.encode('a\n', bos=False) + tok.encode('\n\n', bos=False)
  assert tok.token_strings(ids) == ['a', '\n', '\n\n']
  assert tok.find_span(ids, '\n\n') == (1, 3)
  assert tok.find_span(ids, '\n\n', occurrence=1) == (2, 3)
  assert (
    tok.find_span(ids, '\n\n', rule='paper') == (2, 3) == _scan(ids, '\n\n')
  )


def test_byte_tokens_belong_to_their_character(tok):
  start, stop = tok.find_span('a😀b', '😀')
  assert tok.token_strings(tok.encode('a😀b')[start:stop]) == [
    '<0xF0>',
    '<0x9F>',
    '<0x98>',
    '<0x80>',
  ]


# Truncation.


@pytest.mark.parametrize('rule', ['offsets', 'paper'])
def test_cut_text_is_an_error(tok, rule):
  text = 'The art of the party started in Paris'
  cut = tok.tokenize(text, max_length=5, truncate=True)
  want = tok.find_span(text, 'art of', rule=rule)
  assert tok.find_span(cut, 'art of', rule=rule) == want
  with pytest.raises(TruncationError, match="5 tokens cut 'Paris'.*The art of"):
    tok.find_span(cut, 'Paris', rule=rule)
  with pytest.raises(ValueError, match="'London'"):
    tok.find_span(cut, 'London', rule=rule)
  assert issubclass(TruncationError, ValueError)


def test_a_substring_cut_in_the_middle_is_cut(tok):
  text = 'Are you sure you know the player Kawhi Leonard?'
  start, stop = tok.find_span(text, 'Kawhi Leonard')
  for size in range(start, stop):
    cut = tok.tokenize(text, max_length=size, truncate=True)
    with pytest.raises(TruncationError, match='Kawhi Leonard'):
      tok.find_span(cut, 'Kawhi Leonard')
  cut = tok.tokenize(text, max_length=stop, truncate=True)
  assert tok.find_span(cut, 'Kawhi Leonard') == (start, stop)


@pytest.mark.parametrize('size', [3, 4, 5])
def test_a_character_cut_in_the_middle_is_cut(tok, size):
  cut = tok.tokenize('a😀', max_length=size, truncate=True)
  for rule in ('offsets', 'paper'):
    with pytest.raises(TruncationError, match='😀'):
      tok.find_span(cut, '😀', rule=rule)
    assert tok.find_span(cut, 'a', rule=rule) == (1, 2)


def test_the_last_occurrence_may_be_cut(tok):
  cut = tok.tokenize(PARTY, max_length=6, truncate=True)
  assert tok.find_span(cut, 'art') == tok.find_span(PARTY, 'art')
  with pytest.raises(TruncationError, match="'art'"):
    tok.find_span(cut, 'art', occurrence=-1)


# Characters, chats, mistakes.


def test_a_span_of_characters(tok):
  encoding = tok.tokenize(PARTY)
  start = PARTY.index('partner')
  want = tok.find_span(PARTY, 'partner')
  assert encoding.token_span(start, start + 7) == want
  for bad in ((5, 5), (-1, 3), (0, 999), (7, 5)):
    with pytest.raises(ValueError, match=rf'\[{bad[0]}, {bad[1]}\)'):
      encoding.token_span(*bad)


def test_characters_without_a_token():
  encoding = Encoding('a b', [5, 6], [(0, 1), (2, 3)], 3)
  with pytest.raises(ValueError, match="No token spells ' '"):
    encoding.token_span(1, 2)


def test_spans_in_a_chat(tok):
  chat = tok.tokenize_chat('Is the model Zoë a model?')
  pieces = tok.token_strings(chat.ids)
  start, stop = tok.find_span(chat, 'model', occurrence=-1)
  assert (start, stop) == (len(pieces) - 2, len(pieces) - 1)
  assert ''.join(pieces[start:stop]) == 'model'
  start, stop = tok.find_span(chat, 'Zoë')
  assert ''.join(pieces[start:stop]) == ' Zoë'


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'substring': ''}, 'empty'),
    ({'rule': 'first'}, "'first'"),
    ({'rule': 'paper', 'occurrence': 1}, 'occurrence=1'),
    ({'rule': 'paper', 'whole_word': True}, 'whole_word=True'),
    ({'substring': 'London'}, "'London' occurs 0 times.*The art"),
    ({'substring': 'London', 'rule': 'paper'}, "'London' does not.*The art"),
  ],
)
def test_mistakes_are_named(tok, options, message):
  with pytest.raises(ValueError, match=message):
    tok.find_span(PARTY, **{'substring': 'art', **options})
