"""Rows hold every token of the documents, once, and are found by number."""

import numpy as np
import pytest

from experiments.inputs.token_rows import TokenRows, cut_rows
from tests.experiments import worlds
from tests.experiments.worlds import SPECIAL, write
from tests.gemma_jax.text import tiny_tokenizer


@pytest.mark.parametrize('pack', [False, True])
def test_every_token_of_every_document_once(tmp_path, pack):
  texts = [*worlds.texts(20), '<bos>', 'a <eos> b', '<bos><bos>art']
  rows = write(tmp_path / 'rows', texts, pack=pack)
  got = rows.read(0, 10**6)
  assert rows.num_rows == len(got) and rows.length == 10
  assert all(row[0] == 2 and 2 <= len(row) <= 10 for row in got)
  tokenizer = tiny_tokenizer.ours()
  expected = [tokenizer.encode(text)[1:] for text in texts]
  tokens = np.concatenate(got)
  np.testing.assert_array_equal(tokens[tokens != 2], sum(expected, []))
  kept = sum(x not in SPECIAL for x in sum(expected, []))
  assert rows.num_kept == rows.counts.tokens_kept == kept
  assert rows.counts.tokens_dropped == len(tokens) - kept
  assert rows.counts.documents == len(texts)
  assert rows.counts.documents_without_tokens == 1
  if pack:
    assert len(got) < len(texts) + len(tokens) // 10


def test_documents_without_tokens_are_documents_not_rows(tmp_path):
  """Nine tokens fill a row; the <eos> after them stands alone in the next."""
  texts = ['a ' * 4 + 'a<eos>', '<eos><eos>', 'a']
  ids = tiny_tokenizer.ours().encode(texts[0])
  rows = write(tmp_path / 'rows', texts)
  assert len(ids) == rows.length + 1 and rows.num_rows == 2
  assert rows.counts.documents == 3
  assert rows.counts.documents_without_tokens == 1


def test_packed_rows_by_hand():
  cut = lambda pack: list(cut_rows([[5] * 3, [6] * 2, [], [7] * 9], 6, 2, pack))
  assert cut(False) == [
    [2, 5, 5, 5],
    [2, 6, 6],
    [2, 7, 7, 7, 7, 7],
    [2, 7, 7, 7, 7],
  ]
  assert cut(True) == [
    [2, 5, 5, 5, 2, 6],
    [2, 6, 2, 7, 7, 7],
    [2, 7, 7, 7, 7, 7],
    [2, 7],
  ]


def test_rows_without_bos_by_hand():
  cut = lambda pack: list(
    cut_rows([[5] * 3, [6] * 2, [], [7] * 5], 4, None, pack)
  )
  assert cut(False) == [[5] * 3, [6] * 2, [7] * 4, [7]]
  assert cut(True) == [[5, 5, 5, 6], [6, 7, 7, 7], [7, 7]]


@pytest.mark.parametrize('repeat', [False, True])
def test_find_agrees_with_counting(tmp_path, repeat):
  write(tmp_path / 'rows', worlds.texts(9))
  rows = TokenRows(tmp_path / 'rows', repeat=repeat)
  count = 60 if repeat else rows.num_rows
  places = [
    (number, before)
    for number, row in enumerate(rows.read(0, count))
    for before in range((~np.isin(row, SPECIAL)).sum())
  ]
  for kept, place in enumerate(places):
    assert rows.find(kept) == place
  if not repeat:
    assert rows.find(rows.num_kept) == (rows.num_rows, 0)


def test_written_rows_are_used_again_only_if_the_same(tmp_path, monkeypatch):
  texts = worlds.texts(5)
  first = write(tmp_path / 'rows', texts).read(0, 99)
  calls = []
  tokenizer = tiny_tokenizer.ours()
  encode = tokenizer.vocabulary.encode
  monkeypatch.setattr(
    tokenizer.vocabulary,
    'encode',
    lambda *args: calls.append(1) or encode(*args),
  )
  again = write(tmp_path / 'rows', texts).read(0, 99)
  assert not calls
  for a, b in zip(first, again, strict=True):
    np.testing.assert_array_equal(a, b)
  assert write(tmp_path / 'rows', texts, context=5).length == 5
  assert calls


@pytest.mark.parametrize(
  'name', ['tokens.bin', 'starts.npy', 'kept.npy', 'about.json']
)
@pytest.mark.parametrize(
  'damage',
  [
    lambda raw: raw[:-8],
    lambda raw: raw[:-1] + bytes([raw[-1] ^ 4]),
    lambda raw: bytes(len(raw)),
    lambda raw: b'',
  ],
)
def test_damaged_rows_are_written_again(tmp_path, capsys, name, damage):
  texts = worlds.texts(5)
  # Copies: rows are views of the file that is about to be damaged.
  first = [row.copy() for row in write(tmp_path / 'rows', texts).read(0, 99)]
  path = tmp_path / 'rows' / name
  path.write_bytes(damage(path.read_bytes()))
  again = write(tmp_path / 'rows', texts).read(0, 99)
  for a, b in zip(first, again, strict=True):
    np.testing.assert_array_equal(a, b)
  assert 'It is made again' in capsys.readouterr().err


def test_enough(tmp_path):
  rows = write(tmp_path / 'rows', worlds.texts(50), enough=40)
  assert 40 <= rows.num_kept < 50


def test_refused(tmp_path):
  with pytest.raises(ValueError, match='no token besides'):
    write(tmp_path / 'a', ['<bos>', '<eos>'])
  with pytest.raises(ValueError, match='do not belong together'):
    write(tmp_path / 'b', ['Paris'], vocab_size=100)
  with pytest.raises(ValueError, match='context of 1'):
    write(tmp_path / 'c', ['Paris'], context=1)
  assert not (tmp_path / 'b').exists()
