"""Readers and likelihoods against full runs, HF, and the other readers."""

import re

import numpy as np
import pytest
import torch

from experiments.activations import (
  gather,
  latent_activations,
  latents_at_positions,
)
from experiments.confounds.covariates import (
  count_names,
  describe_names,
  read_frequencies,
)
from experiments.confounds.linear_readout import (
  latent_reader,
  mean_difference_reader,
  mean_readers,
  read_rows,
  read_tokens,
)
from experiments.entities import Entity, activation_prompt, tokenize_prompt
from experiments.latents import class_sums, difference_of_means
from tests import tiny
from tests.experiments import worlds
from tests.experiments.confounds import names
from tests.experiments.latents import small


@pytest.fixture(scope='module')
def readers():
  """Each latent, and the difference of means there."""
  train = small.data()['train']
  latents = {'known': small.KNOWN, 'unknown': small.UNKNOWN}
  means = mean_readers(small.model(), latents, train.entities, train.rows)
  found = []
  for (label, id), mean in zip(latents.items(), means, strict=True):
    found += [latent_reader(label, id, small.saes()[1]), mean]
  return found


def test_at_entities(readers):
  rows = small.data()['test'].rows
  values, norms = read_rows(small.model(), readers, rows)
  latents = latents_at_positions(
    small.model(),
    [(small.saes()[1], id.latent) for id in (small.KNOWN, small.UNKNOWN)],
    rows,
  )
  np.testing.assert_allclose(values[[0, 2]], latents, atol=1e-4)
  x = gather(small.model(), 'resid_post', [0, 3], rows)
  np.testing.assert_allclose(
    norms[[0, 3]], np.linalg.norm(x, axis=-1), rtol=1e-5
  )
  # Latents were planted at a plane.
  known = small.data()['test'].entities.known
  np.testing.assert_array_equal(readers[0].fires(values[0]), known)
  assert readers[1].name == 'difference of means to known at resid_post.3'
  assert readers[0].about()['latent'] == str(small.KNOWN)


def test_difference_of_means(readers):
  """Its direction is the harvest's; it is 0 half way between the means."""
  sums, groups = small.sums()
  expected = difference_of_means(class_sums(sums[1], groups, ('train',)))
  weight = readers[1].weight
  np.testing.assert_allclose(
    weight, expected / np.linalg.norm(expected), atol=1e-4
  )
  np.testing.assert_allclose(readers[3].weight, -weight, atol=1e-6)
  train = small.data()['train']
  x = gather(small.model(), 'resid_post', [3], train.rows)[0]
  one = mean_difference_reader('known', ('resid_post', 3), train.entities, x)
  values = one.values(x)
  e, known = train.entities.type_of, train.entities.known
  means = [
    np.mean([values[(e == i) & (known == k)].mean() for i in range(2)])
    for k in (True, False)
  ]
  assert means[0] == pytest.approx(-means[1], rel=1e-3) and means[0] > 0


def test_at_every_token(readers):
  rows = small.data()['validation'].rows
  logp, values = read_tokens(small.model(), readers[::2], rows, batch_size=16)
  latents = latent_activations(
    small.model(),
    [(small.saes()[1], id.latent) for id in (small.KNOWN, small.UNKNOWN)],
    rows,
  )
  hf = tiny.pair(vocab_size=worlds.VOCABULARY)[0]
  for row in (0, 5, 11):
    np.testing.assert_allclose(values[row], latents[row][:, 1:], atol=1e-4)
    ids = torch.tensor(rows.tokens[row].tolist())
    with torch.no_grad():
      scores = torch.log_softmax(hf(ids[None]).logits[0, :-1], dim=-1)
    expected = scores[torch.arange(len(ids) - 1), ids[1:]].numpy()
    np.testing.assert_allclose(logp[row], expected, atol=2e-3)


def test_covariates():
  prompts = [
    activation_prompt(Entity(name, 'city', {}))
    for name in ('Paris', 'San Diego', 'Paris Party')
  ]
  texts = ['Paris is in Texas', 'the player Paris Party', 'San Diego']
  tokenizer, model = small.tokenizer(), small.model()
  found = describe_names(model, tokenizer, prompts, texts=texts)
  assert found.names == (
    'tokens', 'surprisal', 'token frequency', 'name frequency',
  )  # fmt: skip
  counts = [2, 1, 1]
  np.testing.assert_allclose(
    names.column(found, 'name frequency'), np.log1p(counts)
  )
  hf = tiny.pair(vocab_size=worlds.VOCABULARY)[0]
  every = [i for text in texts for i in tokenizer.encode(text, bos=False)]
  for i, prompt in enumerate(prompts):
    one = tokenize_prompt(tokenizer, prompt)
    start, stop = one.entity
    assert names.column(found, 'tokens')[i] == stop - start
    with torch.no_grad():
      logits = hf(torch.tensor([one.ids])).logits[0]
    scores = torch.log_softmax(logits, dim=-1)
    nats = [-scores[t - 1, one.ids[t]].item() for t in range(start, stop)]
    assert names.column(found, 'surprisal')[i] == pytest.approx(
      np.mean(nats), abs=2e-3
    )
    frequency = np.mean([np.log1p(every.count(t)) for t in one.ids[start:stop]])
    assert names.column(found, 'token frequency')[i] == pytest.approx(frequency)
  given = describe_names(
    model, tokenizer, prompts, frequencies={'Paris': 9, 'San Diego': 3}
  )
  assert given.names == ('tokens', 'surprisal', 'name frequency')
  np.testing.assert_allclose(
    names.column(given, 'name frequency'), np.log1p([9, 3, 0])
  )
  assert 'lacks 1 of 3' in given.sources['name frequency']
  assert given.without('tokens').names == ('surprisal', 'name frequency')
  with pytest.raises(ValueError, match='4 prompts have 3 distinct'):
    describe_names(model, tokenizer, [*prompts, prompts[0]])


def test_names_are_counted_as_words():
  counts = count_names(
    ['Bar', 'Bar Tan', "O'Bar", "'Til", 'U.S.'],
    ["Barcelona: the Bar, a Bar Tan; O'Bar 'Til U.S. Bartender", 'Bar_ Bar'],
  )
  assert counts == {
    'Bar': 4, 'Bar Tan': 1, "O'Bar": 1, "'Til": 1, 'U.S.': 1
  }  # fmt: skip


def test_counts_are_those_of_one_expression_per_name():
  rng = np.random.default_rng(0)
  letters = list("aab  \n.'é_1-")
  drawn = lambda n: ''.join(rng.choice(letters, n))
  texts = [drawn(300) for _ in range(20)]
  names = {drawn(int(rng.integers(1, 6))).strip() for _ in range(200)} - {''}
  names |= {'a a', 'aa b', 'a.a'}
  counts = count_names(names, texts)
  for name in names:
    whole = re.compile(rf'(?<!\w){re.escape(name)}(?!\w)')
    assert counts[name] == sum(len(whole.findall(x)) for x in texts), name
  assert sum(counts.values()) > 500


def test_files_of_frequencies(tmp_path):
  tsv, json = tmp_path / 'a.tsv', tmp_path / 'a.json'
  tsv.write_text('Paris\t12\nSan Diego\t3\n')
  json.write_text('{"Paris": 12, "San Diego": 3}')
  assert read_frequencies(str(tsv)) == read_frequencies(str(json))
  for text, said in (
    ('Paris 12\n', 'line 1: expected a name, a tab'),
    ('Paris\t1\nLima\tmany\n', "line 2: 'Lima' has the count 'many'"),
    ('Paris\t-1\n', "count '-1'"),
    ('Paris\tnan\n', "count 'nan'"),
    ('Paris\t1\nParis\t2\n', "line 2: 'Paris' has a count already"),
  ):
    tsv.write_text(text)
    with pytest.raises(ValueError, match=said):
      read_frequencies(str(tsv))
  json.write_text('[1]')
  with pytest.raises(ValueError, match='expected a JSON object'):
    read_frequencies(str(json))
  json.write_text('{"Paris": 1, "Paris": 2}')
  with pytest.raises(ValueError, match="'Paris' is given twice"):
    read_frequencies(str(json))
  with pytest.raises(ValueError, match='.json'):
    read_frequencies('counts.csv')
  assert latent_reader('known', small.KNOWN, small.saes()[1]).bias != 0
