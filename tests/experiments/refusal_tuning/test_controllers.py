import numpy as np
import pytest

from experiments.latents import LatentId
from experiments.refusal_tuning import controllers
from experiments.refusal_tuning.controllers import (
  compare_directions,
  difference,
)
from tests import tiny
from tests.experiments.refusal_tuning import asking

N, D = 80, 40
KNOWN = np.arange(N) % 4 < 2


def cosine(a, b):
  return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.fixture
def planted(monkeypatch):
  """Streams with a detector e0, and a controller that is planted."""

  def plant(after, before=None, refused=~KNOWN, size=4.0):
    rng = np.random.default_rng(0)
    _, first = tiny.pair(0, 'llama')
    _, second = tiny.pair(1, 'llama')
    asked = asking.prompts(N, known=KNOWN)
    e0 = np.eye(D)[0]

    def streams(model, asked, layers, positions):
      x = rng.standard_normal((len(layers), N, D)) * 0.5
      if (positions == asked.name_ends).all():
        return (x + size * ~KNOWN[:, None] * e0).astype(np.float32)
      direction = after if model is second else before
      if direction is not None:
        x = x + size * refused[:, None] * direction
      return x.astype(np.float32)

    monkeypatch.setattr(controllers, 'streams', streams)
    return lambda **kwargs: compare_directions(
      first, second, asked, refused, [1, 3], **kwargs
    )

  return plant


def pairs(found, layer=0):
  return {(p['a'], p['b']): p for p in found['layers'][layer]['cosines']}


def test_a_controller_along_the_detector(planted):
  found = planted(after=np.eye(D)[0])()
  assert found['n'] == N and found['refused'] == N // 2
  by = pairs(found)
  along = by['means.after', 'controller.after']
  assert along['cosine']['low'] > 0.9 > along['null']
  assert min(along['reliability']) > 0.9
  # Nothing of the kind was there before: noise, and said to be.
  noise = by['means.before', 'controller.before']
  assert abs(noise['cosine']['value']) < 0.5
  assert noise['reliability'][1] < 0.4
  assert by['controller.before', 'controller.after']['cosine']['value'] < 0.5
  assert by['means.before', 'means.after']['cosine']['low'] > 0.9
  assert np.shape(found['matrix']) == (2, 2) and np.min(found['matrix']) > 0.9


def test_a_controller_across_the_detector(planted):
  found = planted(after=np.eye(D)[1], before=np.eye(D)[1])()
  by = pairs(found)
  across = by['means.after', 'controller.after']
  assert abs(across['cosine']['value']) < across['null']
  assert min(across['reliability']) > 0.9
  assert by['controller.before', 'controller.after']['cosine']['low'] > 0.85


def test_latents_are_compared_from_their_layer_up(planted):
  id, other = LatentId('resid_post', 1, 7), LatentId('resid_post', 3, 2)
  rows = {id: np.eye(D)[0], other: -np.eye(D)[0]}
  found = planted(after=np.eye(D)[0])(latents=rows)
  low, high = pairs(found), pairs(found, 1)
  assert low[str(id), 'controller.after']['cosine']['low'] > 0.9
  assert low[str(id), 'means.before']['reliability'][0] is None
  assert (str(other), 'controller.after') not in low
  assert high[str(other), 'controller.after']['cosine']['high'] < -0.9
  assert high[str(id), 'controller.after']['cosine']['low'] > 0.9


def test_numbers_are_those_of_a_loop(monkeypatch):
  rng = np.random.default_rng(5)
  asked = asking.prompts(40)
  refused = rng.random(40) < 0.5
  data = rng.standard_normal((4, 1, 40, D)).astype(np.float32)
  data[0] += asked.known[:, None]
  data[2, 0, :, :8] += refused[:, None]
  calls = iter(data)
  monkeypatch.setattr(controllers, 'streams', lambda *a, **k: next(calls))
  _, model = tiny.pair(0, 'llama')
  found = compare_directions(model, model, asked, refused, [2], seed=4)
  # Read in the order: names and ends before, names and ends after.
  by = pairs(found)
  a, b = data[0, 0].astype(float), data[3, 0].astype(float)
  own = by['means.before', 'controller.after']
  direction = difference(a, ~asked.known)
  assert own['cosine']['value'] == pytest.approx(
    cosine(direction, difference(b, refused))
  )
  rng = np.random.default_rng(4)
  names = list(dict.fromkeys(asked.entities))
  counts = rng.multinomial(
    len(names), np.full(len(names), 1 / len(names)), size=1000
  )
  which = np.array([names.index(e) for e in asked.entities])
  drawn = []
  for row in counts:
    rows = np.repeat(np.arange(40), row[which])
    drawn.append(
      cosine(
        difference(a[rows], ~asked.known[rows]),
        difference(b[rows], refused[rows]),
      )
    )
  assert [own['cosine']['low'], own['cosine']['high']] == pytest.approx(
    list(np.quantile(drawn, [0.025, 0.975])), abs=1e-6
  )
  order = rng.permuted(np.tile(np.arange(len(names)), (20, 1)), axis=1)
  halves = []
  for row in order:
    first = (row < len(names) // 2)[which]
    halves.append(
      cosine(*(difference(a[h], ~asked.known[h]) for h in (first, ~first)))
    )
  assert own['reliability'][0] == pytest.approx(np.mean(halves))
  random = rng.standard_normal((1000, 40))
  noise = b - np.where(
    refused[:, None], b[refused].mean(0), b[~refused].mean(0)
  )
  null = [abs(cosine(row @ noise, direction)) for row in random]
  assert own['null'] == pytest.approx(np.quantile(null, 0.95))


def test_bad_input_is_named():
  _, model = tiny.pair(0, 'llama')
  asked = asking.prompts(8)
  with pytest.raises(ValueError, match='8 of 8 prompts are refused'):
    compare_directions(model, model, asked, [True] * 8, [1])
  with pytest.raises(ValueError, match='0 of 8'):
    compare_directions(model, model, asked, [False] * 8, [1])
  refused = np.arange(8) % 2 == 0
  with pytest.raises(ValueError, match='resid_post.4/1 is not at'):
    compare_directions(
      model,
      model,
      asked,
      refused,
      [1],
      latents={LatentId('resid_post', 4, 1): np.ones(D)},
    )
  one_class = asking.prompts(8, known=[True] * 8)
  with pytest.raises(ValueError, match='prompts are all known'):
    compare_directions(model, model, one_class, refused, [1])
