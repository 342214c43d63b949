"""From a model to results.json and back to a report, on planted latents."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn import metrics

from experiments import charts
from experiments.activations import (
  GroupSums,
  gather,
  latents_at_positions,
  make_rows,
)
from experiments.entity_recognition import figures
from experiments.latents import (
  SPLITS,
  AnalysisOptions,
  LatentId,
  analyse,
  linear_probe,
  promoted_tokens,
  read_arrays,
  stream_firing,
  to_arrays,
  to_results,
  top_entities,
  write_arrays,
)
from experiments.runs import outputs
from tests import tiny
from tests.experiments import worlds
from tests.experiments.latents import small

EXAMPLES = ['The player Paris', 'The art of the party']
SETTINGS = AnalysisOptions(
  num_chosen=3,
  max_text_frequency=None,
  num_random=4,
  num_permutations=30,
  num_described=2,
  num_listed=4,
)


def run(settings=SETTINGS, **changes):
  sums, groups = small.sums()
  arguments = {'sums': sums, 'groups': groups, 'data': small.data()} | changes
  return analyse(
    small.model(),
    small.tokenizer(),
    small.saes(),
    settings=settings,
    **arguments,
  )


@pytest.fixture(scope='module')
def findings():
  examples = make_rows(
    small.tokenizer(),
    EXAMPLES,
    tokens='last',
  )
  return run(examples=examples)


@pytest.fixture(scope='module')
def firing():
  return stream_firing(
    small.model(), small.saes(), small.data()['train'].rows, batch_size=16
  )


def test_planted_latents(findings):
  assert findings.selection.best == {
    'known': small.KNOWN,
    'unknown': small.UNKNOWN,
  }
  results = to_results(findings)
  for label in ('known', 'unknown'):
    best = results['chosen'][label][0]
    assert best['score'] == 1.0
    assert best['test']['lowest']['value'] == 1.0
    assert best['auroc']['mean']['value'] == 1.0
    assert results['null'][label]['observed'] == 1.0
    assert results['null'][label]['p_value']['value'] == 1 / 31
  found = {one['name']: one for one in results['detectors']}
  # 70 entities are few for a plane in 40 dimensions.
  assert found['linear probe at resid_post.3']['mean']['value'] > 0.8
  assert found['tokens of the name']['site'] is None
  for one in results['detectors']:
    if one['kind'] == 'random latents':
      mean = one['mean']
      assert mean['low'] <= mean['value'] <= mean['high'] < 0.9
  assert results['random']['known']['of'] == str(small.KNOWN)
  assert 1 <= len(results['random']['known']['ids']) <= 4
  assert results['entities']['test']['player']['known'] > 2
  assert not results['skipped']


def test_every_criterion_is_reported(findings):
  results = to_results(findings)
  test = small.data()['test']
  for criterion in ('auroc', 'frequency', 'mean_activation'):
    for label, id in (('known', small.KNOWN), ('unknown', small.UNKNOWN)):
      one = results['criteria'][criterion][label]
      assert one['null']['p_value']['n'] == 30
      if one['id'] != str(id):
        continue
      x = gather(small.model(), 'resid_post', [3], test.rows)[0]
      w = small.saes()[1].weights()
      f = np.maximum(x @ w.W_enc[:, id.latent] + w.b_enc[id.latent], 0)
      for e, name in enumerate(small.TYPES):
        mine = (test.entities.type_of == e) & test.entities.known
        found = one['mean_activation'][name]['known']
        assert found['value'] == pytest.approx(f[mine].mean(), rel=1e-3)
        assert found['se'] == pytest.approx(
          f[mine].std(ddof=1) / mine.sum() ** 0.5, rel=1e-3, abs=1e-6
        )
  assert results['criteria']['auroc']['known']['id'] == str(small.KNOWN)


def test_difference_of_means_and_probe_from_vectors(findings):
  data = small.data()
  x = {
    split: gather(small.model(), 'resid_post', [3], one.rows)[0]
    for split, one in data.items()
  }
  train, test = data['train'].entities, data['test'].entities
  direction = sum(
    x['train'][(train.type_of == e) & train.known].mean(0)
    - x['train'][(train.type_of == e) & ~train.known].mean(0)
    for e in range(2)
  )
  found = {one.name: one.found for one in findings.detectors}
  means = found['difference of means at resid_post.3']
  want = metrics.roc_auc_score(test.known, x['test'] @ direction)
  assert means['pooled']['value'] == pytest.approx(want)
  probe = linear_probe(
    train, x['train'], data['validation'].entities, x['validation']
  )
  want = metrics.roc_auc_score(test.known, probe.scores(x['test']))
  found = found['linear probe at resid_post.3']
  assert found['pooled']['value'] == pytest.approx(want)


def test_results_survive_the_disk(findings, tmp_path):
  outputs.write_results(tmp_path, {'latents': to_results(findings)})
  write_arrays(tmp_path / 'latents.safetensors', to_arrays(findings))
  results = json.loads((tmp_path / outputs.RESULTS_FILE).read_text())['latents']
  arrays = read_arrays(tmp_path / 'latents.safetensors')
  assert [x.name for x in tmp_path.iterdir() if x.name.startswith('.')] == []
  test = small.data()['test']
  for sae, sums in zip(results['saes'], findings.test, strict=True):
    where = f'{sae["site"]}.{sae["layer"]}'
    assert np.array_equal(arrays[f'test_active/{where}'], sums.active)
    assert arrays[f'text_active/{where}'].shape == (small.F,)
  assert np.array_equal(arrays['test_known'], test.entities.known)
  activation = arrays[f'activation/{small.KNOWN}']
  assert np.array_equal(activation > 0, test.entities.known)
  sections = figures.sections(results, arrays)
  charts.write_report(tmp_path / 'report.html', 'Latents', [], sections)
  page = (tmp_path / 'report.html').read_text()
  assert str(small.KNOWN) in page and page.count('<figure ') >= 5


def test_firing_is_what_sums_count(firing):
  sums, groups = small.sums()
  train = small.data()['train']
  for one, fires in zip(sums, firing, strict=True):
    assert fires.where == (one.site, one.layer)
    for e, name in enumerate(small.TYPES):
      for label in ('known', 'unknown'):
        mine = (train.entities.type_of == e) & (
          train.entities.known == (label == 'known')
        )
        count = (fires.matrix[np.flatnonzero(mine)] > 0).sum(axis=0)
        g = groups.number(name, label, 'train')
        assert np.array_equal(count, one.active[g])


def test_firing_is_what_latents_are(firing):
  """Against JumpReLU in NumPy on what the model has there."""
  x = gather(small.model(), 'resid_post', [1, 3], small.data()['train'].rows)
  for layer, sae, fires in zip(x, small.saes(), firing, strict=True):
    w = sae.weights()
    z = layer.astype('f8') @ np.asarray(w.W_enc, 'f8') + np.asarray(w.b_enc)
    z[np.abs(z) < 1e-3] = 0  # too close to call
    found = fires.matrix.toarray()
    assert np.array_equal(found[z != 0] > 0, (z > 0)[z != 0])
    np.testing.assert_allclose(found[z > 0], z[z > 0], rtol=1e-4, atol=1e-4)


def test_promoted_tokens_are_those_of_the_unembedding():
  model = small.model()
  direction = np.random.default_rng(0).standard_normal(small.D)
  embed = np.asarray(model.embed[...], 'f8')[: small.tokenizer().vocab_size]
  gain = 1 + np.asarray(model.final_norm[...], 'f8')
  for with_gain, d in ((False, direction), (True, direction * gain)):
    found = promoted_tokens(
      model, small.tokenizer(), direction, 5, final_norm_gain=with_gain
    )
    logits = embed @ d
    order = np.argsort(-logits)
    assert [t['id'] for t in found['promoted']] == order[:5].tolist()
    assert [t['id'] for t in found['suppressed']] == order[::-1][:5].tolist()
    np.testing.assert_allclose(
      [t['logit'] for t in found['promoted']], logits[order[:5]], rtol=1e-4
    )
    spelled = small.tokenizer().token_strings(
      [t['id'] for t in found['promoted']]
    )
    assert [t['token'] for t in found['promoted']] == spelled
    assert found['final_norm_gain'] == with_gain
  with pytest.raises(ValueError, match=r'\(64,\), expected \[..., 40\]'):
    promoted_tokens(model, small.tokenizer(), np.zeros(64))


def test_promoted_tokens_are_those_of_hf():
  """With the gain, of a direction whose RMS is 1: the logits of HF's head."""
  hf, _ = tiny.pair(vocab_size=worlds.VOCABULARY)
  d = np.random.default_rng(3).standard_normal(small.D).astype('f4')
  d /= np.sqrt(np.mean(d**2))
  torch = pytest.importorskip('torch')
  with torch.no_grad():
    want = hf.lm_head(hf.model.norm(torch.tensor(d)))
  want = want.numpy()[: small.tokenizer().vocab_size]
  found = promoted_tokens(
    small.model(), small.tokenizer(), d, 3, final_norm_gain=True
  )
  assert [t['id'] for t in found['promoted']] == np.argsort(-want)[:3].tolist()


def test_top_entities():
  entities = small.data()['test'].entities.take(np.arange(5))
  found = top_entities(entities, np.array([0.5, 2.0, 0.0, 2.0, 0.1]), k=4)
  assert [one['name'] for one in found] == [
    entities.names[i] for i in (1, 3, 0, 4)
  ]
  assert found[0]['type'] == small.TYPES[entities.type_of[1]]
  assert (found[0]['label'] == 'known') == entities.known[1]
  assert len(top_entities(entities, np.array([0, 0, 3.0, 0, 0]), k=4)) == 1


def test_examples_end_at_what_is_read_there(findings):
  rows = make_rows(
    small.tokenizer(),
    EXAMPLES,
    tokens='last',
  )
  for id in (small.KNOWN, small.UNKNOWN):
    last = latents_at_positions(
      small.model(), [(small.saes()[1], id.latent)], rows
    )[0]
    for example, value in zip(findings.examples, last, strict=True):
      values = example['activations'][str(id)]
      assert len(values) == len(example['tokens'])
      assert values[-1] == pytest.approx(value, abs=1e-4)
      assert ''.join(example['tokens']) == example['text']


def test_reference_mode_selects_on_all():
  settings = AnalysisOptions.for_mode(
    'reference',
    num_chosen=1,
    num_permutations=0,
    max_text_frequency=None,
    at_least=1,
    random_pool='matched',
    num_random=2,
  )
  found = run(settings)
  whole = sum(
    np.array([[one[c] for c in ('known', 'unknown')] for one in n.values()])
    for n in [found.selection.n]
  )
  everyone = sum(small.data()[split].entities.counts() for split in SPLITS)
  assert np.array_equal(whole, everyone)
  assert found.selection.split == 'all'
  assert not found.nulls and 'null of the selection' in found.skipped[0]
  assert found.selection.criterion == 'frequency'
  assert AnalysisOptions.for_mode('reference').random_pool == 'zero_score'
  assert AnalysisOptions.for_mode('default') == AnalysisOptions()


def changed(split, **fields):
  data = dict(small.data())
  entities = dataclasses.replace(data[split].entities, **fields)
  data[split] = dataclasses.replace(data[split], entities=entities)
  return data


def test_labels_in_another_order_are_noticed():
  known = small.data()['train'].entities.known
  type_of = small.data()['train'].entities.type_of
  swapped = known.copy()
  for e in range(2):
    swapped[type_of == e] = np.sort(known[type_of == e])
  with pytest.raises(ValueError, match='not in the order of the rows'):
    run(data=changed('train', known=swapped))


def test_errors():
  sums, groups = small.sums()
  with pytest.raises(ValueError, match='the sums are over'):
    known = np.ones(small.SIZES['test'], bool)
    run(data=changed('test', known=known))
  with pytest.raises(ValueError, match='SAEs read.*in one order'):
    run(sums=sums[::-1])
  with pytest.raises(ValueError, match='at least 500 are needed'):
    run(dataclasses.replace(SETTINGS, at_least=500))
  with pytest.raises(ValueError, match='types'):
    run(data=changed('test', types=('player', 'song')))
  data = small.data()['test']
  with pytest.raises(ValueError, match='60 entities, 60 rows and.*59 names'):
    dataclasses.replace(data, name_tokens=data.name_tokens[1:])
  for wrong in (
    {'criterion': 'best'},
    {'selection_split': 'test'},
    {'num_random': 0},
  ):
    with pytest.raises(ValueError, match=next(iter(wrong))):
      AnalysisOptions(**wrong)
  with pytest.raises(ValueError, match="mode is 'paper'"):
    AnalysisOptions.for_mode('paper')
  assert isinstance(sums[0], GroupSums) and LatentId(*small.KNOWN)
