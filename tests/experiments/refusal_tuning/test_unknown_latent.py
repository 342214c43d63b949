import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from experiments.latents import LatentId
from experiments.refusal_tuning import steered as steered_lib
from experiments.refusal_tuning import unknown_latent
from experiments.refusal_tuning.steered import Steered, match
from experiments.refusal_tuning.unknown_latent import compare_steering
import gemma_jax as gj
from tests import tiny
from tests.experiments.refusal_tuning import asking

REFUSALS = [5, 11]
RNG = np.random.default_rng(3)


@pytest.mark.parametrize(
  ('family', 'rows_per_batch'), [('gemma2', 256), ('gpt2', 3)]
)
def test_arms_are_single_runs(family, rows_per_batch):
  _, model = tiny.pair(0, family)
  asked = asking.prompts(5)
  steered = Steered.of(model, asked, 'resid_post', 1, REFUSALS, rows_per_batch)
  directions = RNG.standard_normal((3, 40))
  doses = [0.0, 0.7, 2.0]
  found = steered.read(directions, np.array(doses))
  rows = [gj.pad_rows([ids], 0, buckets=16) for ids in asked.ids]
  norms = [
    np.linalg.norm(
      gj.run(model, *one, capture=gj.capture('resid_post', positions=[end]))[
        'resid_post', 1
      ]
    )
    for one, end in zip(rows, asked.name_ends, strict=True)
  ]
  assert steered.norm == pytest.approx(np.mean(norms), rel=1e-4)
  for arm, dose in enumerate(doses):
    unit = directions[arm] / np.linalg.norm(directions[arm])
    for row, one in enumerate(rows):
      edit = gj.steer(
        'resid_post',
        unit,
        layers=1,
        coefficient=dose * np.mean(norms),
        positions=range(*asked.spans[row]),
      )
      plain, changed = (
        log_softmax(
          np.asarray(
            gj.run(model, *one, interventions=edits, logits_at='last').logits[
              0, 0
            ],
            float,
          )
        )
        for edits in ([], [edit])
      )
      assert found.refusal[arm, row] == pytest.approx(
        np.exp(changed)[REFUSALS].sum(), abs=1e-4
      )
      assert found.refuses[arm, row] == (changed.argmax() in REFUSALS)
      assert found.kl[arm, row] == pytest.approx(
        (np.exp(plain) * (plain - changed)).sum(), rel=5e-3, abs=1e-5
      )


def test_doses_are_data():
  _, model = tiny.pair(0, 'gemma2')
  steered = Steered.of(model, asking.prompts(4), 'resid_post', 2, REFUSALS)
  steered.read(np.eye(40)[:3], np.ones(3))
  compiled = steered_lib._first_tokens._cache_size()
  steered.read(np.eye(40)[4:7] * 5, np.array([0.1, 0.0, 3.0]))
  assert steered_lib._first_tokens._cache_size() == compiled


@pytest.mark.parametrize('target', [0.003, 0.03, 0.2])
def test_random_latents_are_matched_in_divergence(target):
  _, model = tiny.pair(0, 'llama')
  asked = asking.prompts(6)
  steered = Steered.of(model, asked, 'resid_post', 1, REFUSALS)
  directions = np.random.default_rng(0).standard_normal((6, 40))
  found = match(steered, directions, target, start=0.5)
  # What is reported is what these doses do, measured again.
  again = steered.read(directions, found.doses)
  np.testing.assert_allclose(found.found.kl, again.kl, rtol=1e-3, atol=1e-6)
  assert found.matched.all()
  np.testing.assert_allclose(again.kl.mean(1), target, rtol=0.1)


def test_what_cannot_be_reached_is_not_matched():
  _, model = tiny.pair(0, 'llama')
  # At the last layer, names' tokens are read by nobody.
  steered = Steered.of(model, asking.prompts(4), 'resid_post', 4, REFUSALS)
  found = match(steered, np.eye(40)[:2], 0.5, start=1.0)
  assert not found.matched.any()
  # But nothing is as much as nothing.
  assert match(steered, np.eye(40)[:2], 0.0, start=1.0).matched.all()


def at_the_end(n=8):
  """Prompts that end with the name, so that the last layer can be steered."""
  asked = asking.prompts(n, known=[True] * n)
  return type(asked)(
    ids=tuple(
      ids[:stop] for ids, (_, stop) in zip(asked.ids, asked.spans, strict=True)
    ),
    spans=asked.spans,
    entities=asked.entities,
    known=asked.known,
  )


def planted():
  """A pair: the latent writes the refusal's token in the second one only."""
  _, after = tiny.pair(0, 'llama')
  weights = dict(after.weights())
  direction = np.zeros(40)
  direction[7] = 1
  row = np.zeros(40, np.float32)
  row[7] = 6
  tuned = weights | {'unembed': weights['unembed'].at[5].set(jnp.asarray(row))}
  untuned = weights | {'unembed': weights['unembed'].at[5, 7].set(0)}
  pair = [gj.Decoder(after.config, each) for each in (untuned, tuned)]
  return *pair, direction


def test_a_planted_latent_causes_refusals_after_and_not_before():
  before, after, direction = planted()
  rng = np.random.default_rng(0)
  rows = rng.standard_normal((10, 40))
  rows[:, 7] = 0
  random = {LatentId('resid_post', 4, i + 1): row for i, row in enumerate(rows)}
  target = LatentId('resid_post', 4, 0)
  found = compare_steering(
    before,
    after,
    at_the_end(24),
    target,
    direction,
    random,
    [5],
    doses=[0.1, 0.2],
  )
  assert found['n'] == 24 and found['entities'] == 12
  for dose in found['doses']:
    after_, before_ = dose['after'], dose['before']
    assert after_['matched'] >= 8 and after_['rank'] == 1
    assert after_['refusal']['beyond']['low'] > 0
    assert after_['refusal']['beyond']['value'] == pytest.approx(
      after_['refusal']['change']['value']
      - after_['refusal']['random_change']['value']
    )
    assert abs(before_['refusal']['change']['value']) < 0.02
    assert dose['more']['refusal']['low'] > 0
    assert len(after_['refusal']['random_changes']) == after_['matched']


def test_a_latent_that_is_too_weak_is_not_tried_again(monkeypatch):
  before, after, direction = planted()
  weak = np.zeros(40)
  weak[3] = 1
  tried = []
  honest = unknown_latent.match

  def match_(steered, directions, target, start):
    tried.append(len(directions))
    return honest(steered, directions, target, start)

  monkeypatch.setattr(unknown_latent, 'match', match_)
  random = {LatentId('resid_post', 4, i): weak + 0.01 * i for i in range(1, 4)}
  found = compare_steering(
    before,
    after,
    at_the_end(),
    LatentId('resid_post', 4, 0),
    direction,
    random,
    [5],
    doses=[0.1, 0.5, 4.0],
  )
  last = found['doses'][-1]['after']
  assert last['kl'] > 10 and last['matched'] == 0 and last['rank'] is None
  assert last['refusal']['beyond']['value'] is None
  assert found['doses'][-1]['more']['refusal']['value'] is None
  # Models by turns, dose after dose.
  assert tried[1] == 3 and tried[5] == found['doses'][1]['after']['matched']


def test_bad_input_is_named():
  before, after, direction = planted()
  target, random = LatentId('resid_post', 4, 0), {}
  asked = at_the_end(4)
  with pytest.raises(ValueError, match='0 random latents'):
    compare_steering(before, after, asked, target, direction, random, [5])
  random = {LatentId('resid_post', 4, 1): direction}
  with pytest.raises(ValueError, match='doses above 0'):
    compare_steering(
      before, after, asked, target, direction, random, [5], doses=[0]
    )
  with pytest.raises(ValueError, match='increasing'):
    compare_steering(
      before, after, asked, target, direction, random, [5], doses=[1, 0.5]
    )
  with pytest.raises(ValueError, match='about unknown'):
    compare_steering(
      before, after, asking.prompts(4), target, direction, random, [5]
    )
  with pytest.raises(ValueError, match='Refusals begin with'):
    compare_steering(before, after, asked, target, direction, random, [])
