"""Every kind of edit against PyTorch hooks on HF's models, row by row.

Gemma 2 has each site alone; the other families have all of them at once, each
at a layer and a token of its own.
"""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gemma_jax as gj
from gemma_jax import interventions as iv
from gemma_jax import running
from gemma_jax.where import select
from tests import tiny
from tests.gemma_jax.hf_hooks import hooked

T = 12
LENGTHS = [12, 9, 7]
LAYERS = [0, 3, 4]
COEFFICIENTS = [2.0, -3.0, 0.5]
FAMILIES = ('gemma2', 'gemma3_text', 'llama', 'gpt2')
SITE_BY_SITE = [('gemma2', [site]) for site in gj.VECTOR_SITES]
PLACES = SITE_BY_SITE + [(f, list(gj.VECTOR_SITES)) for f in FAMILIES[1:]]
name_place = lambda value: value[0] if isinstance(value, list) else str(value)


def batch(side='left'):
  """Three prompts of 12, 9 and 7 tokens."""
  rng = np.random.default_rng(1)
  tokens = np.zeros((3, T), np.int32)
  positions = np.full((3, T), -1, np.int32)
  for row, n in enumerate(LENGTHS):
    at = slice(T - n, T) if side == 'left' else slice(0, n)
    tokens[row, at] = rng.integers(3, 97, n)
    positions[row, at] = np.arange(n)
  return tokens, positions


def model_of(family='gemma2'):
  return tiny.pair(family=family)[1]


def logits_of(model, interventions, side='left', **kwargs):
  tokens, positions = batch(side)
  out = gj.run(
    model,
    tokens,
    positions,
    interventions=interventions,
    logits_at='all',
    **kwargs,
  )
  return np.asarray(out.logits)


def hf_rows(family, changes_of_row, side='left', cut_of_row=None):
  """HF's logits [3, T, V], one row at a time with that row's hooks."""
  hf, _ = tiny.pair(family=family)
  tokens, positions = batch(side)
  rows = []
  for row in range(3):
    changes = [
      (site, layer, _where(positions[row], at, change))
      for site, layer, at, change in changes_of_row(row)
    ]
    cut = cut_of_row(row, positions[row]) if cut_of_row else None
    with hooked(hf, changes, cut):
      out = tiny.hf_forward(hf, tokens[[row]], positions[[row]])
    rows.append(out.logits[0].numpy())
  return np.stack(rows)


def _where(positions, at, change):
  """A change applied only where the position is in `at` (None: everywhere)."""
  on = torch.tensor(
    np.isin(positions, at) if at is not None else positions >= 0
  )

  def selected(x):
    return torch.where(on[None, :, None], change(x), x)

  return selected


def assert_close(
  ours, reference, side='left', family='gemma2', tolerance=3e-5, effect=0.05
):
  """Equal at real tokens, and different from an unedited run."""
  real = batch(side)[1] >= 0
  scale = max(1, np.abs(reference[real]).max() / 2)
  np.testing.assert_allclose(
    ours[real], reference[real], atol=tolerance * scale
  )
  clean = logits_of(model_of(family), [], side)
  for row in range(3):
    moved = np.abs(ours[row] - clean[row])[real[row]].max()
    assert moved > effect, f'the change does nothing in row {row}: {moved}'


def direction(site, seed=0, shape=(), family='gemma2'):
  W = gj.site_width(model_of(family).config, site)
  rng = np.random.default_rng(seed)
  return rng.standard_normal((*shape, W)).astype(np.float32)


def layers_of(number):
  """Layer of each row, for the number-th site of a list."""
  return [(layer + 2 * number) % 5 for layer in LAYERS]


def positions_of(number):
  """Positions of each row, likewise."""
  rows = zip([[3, 5], [8], [0, 6]], LENGTHS, strict=True)
  return [[(p + number) % n for p in at] for at, n in rows]


@pytest.mark.parametrize('side', ['left', 'right'])
@pytest.mark.parametrize('family, sites', PLACES, ids=name_place)
def test_steer(family, sites, side):
  vectors = {
    site: direction(site, i, (3,), family) for i, site in enumerate(sites)
  }
  edits = [
    gj.steer(
      site,
      vectors[site],
      layers=gj.per_row(layers_of(i)),
      coefficient=COEFFICIENTS,
      positions=gj.per_row(positions_of(i)),
    )
    for i, site in enumerate(sites)
  ]

  def add(site, row):
    return lambda x: x + COEFFICIENTS[row] * torch.tensor(vectors[site][row])

  reference = hf_rows(
    family,
    lambda r: [
      (site, layers_of(i)[r], positions_of(i)[r], add(site, r))
      for i, site in enumerate(sites)
    ],
    side,
  )
  assert_close(
    logits_of(model_of(family), edits, side), reference, side, family
  )


@pytest.mark.parametrize(
  'family', [f for f in tiny.FAMILIES if f not in FAMILIES]
)
def test_steer_in_other_families(family):
  test_steer(family, list(gj.VECTOR_SITES), 'left')


@pytest.mark.parametrize('value', [0.0, 1.5])
@pytest.mark.parametrize('family, sites', PLACES, ids=name_place)
def test_ablate_direction(family, sites, value):
  layers = [[0, 1], [2, 3], [4, 2]]
  bases = {
    site: gj.orthonormal_basis(direction(site, i, (3, 2), family))
    for i, site in enumerate(sites)
  }
  edits = [
    gj.ablate_direction(
      site, bases[site], layers=gj.per_row(layers), value=value
    )
    for site in sites
  ]

  def change(site, row):
    q = torch.tensor(np.asarray(bases[site][row]))
    return lambda x: x - x @ q.T @ q + value * q.sum(0)

  reference = hf_rows(
    family,
    lambda r: [
      (site, layer, None, change(site, r))
      for site in sites
      for layer in layers[r]
    ],
  )
  assert_close(logits_of(model_of(family), edits), reference, family=family)


@pytest.mark.parametrize('operation', ['clamp', 'clamp if active', 'scale'])
@pytest.mark.parametrize(
  'family, site',
  [('gemma2', 'mlp_out'), ('gemma2', 'z')]
  + [(family, 'resid_post') for family in FAMILIES],
)
def test_latents_keep_the_error_term(family, site, operation):
  """Against decode(f') + (x - decode(f)) with the whole SAE."""
  model = model_of(family)
  W, F = gj.site_width(model.config, site), 64
  rng = np.random.default_rng(2)
  w_enc = rng.standard_normal((W, F)).astype(np.float32)
  w_dec = rng.standard_normal((F, W)).astype(np.float32)
  b_enc = rng.standard_normal(F).astype(np.float32)
  theta = rng.uniform(0.1, 1.0, F).astype(np.float32)
  ids = np.array([[3, 9], [11, 60], [0, 1]])
  amount = np.array([4.0, -1.0, 3.0], np.float32)
  # As `sae.select(ids)` gives them.
  latents = types.SimpleNamespace(
    encoder=w_enc.T[ids],
    decoder=w_dec[ids],
    bias=b_enc[ids],
    threshold=theta[ids],
    site=site,
    layer=gj.per_row(LAYERS),
  )
  if operation == 'scale':
    edit = gj.scale_latents(latents, amount[:, None])
  else:
    edit = gj.clamp_latents(
      latents, amount[:, None], only_active=operation == 'clamp if active'
    )
  active, inactive = [], []

  def change(row):
    def surgery(x):
      f = x @ torch.tensor(w_enc) + torch.tensor(b_enc)
      f = torch.where(f > torch.tensor(theta), f, 0.0)
      chosen = f[..., ids[row]]
      active.append(int((chosen > 0).sum()))
      inactive.append(int((chosen == 0).sum()))
      new = f.clone()
      if operation == 'scale':
        new[..., ids[row]] *= float(amount[row])
      elif operation == 'clamp':
        new[..., ids[row]] = float(amount[row])
      else:
        kept = torch.where(chosen > 0, float(amount[row]), 0.0)
        new[..., ids[row]] = kept
      return new @ torch.tensor(w_dec) + (x - f @ torch.tensor(w_dec))

    return surgery

  reference = hf_rows(family, lambda r: [(site, LAYERS[r], None, change(r))])
  assert min(active) > 0 and min(inactive) > 0, 'both cases must occur'
  ours = logits_of(model, [edit])
  assert_close(ours, reference, family=family, tolerance=2e-4)


@pytest.mark.parametrize('family, sites', PLACES, ids=name_place)
def test_patch_from_another_run(family, sites):
  """Row by row, a stretch of another prompt's activations, by position."""
  model = model_of(family)
  donor, donor_positions = batch('right')
  donor = np.where(donor_positions >= 0, 96 - donor, 0)
  source = gj.run(model, donor, donor_positions, capture=gj.capture(*sites))
  changes = [
    gj.patch(
      site,
      source,
      layers=gj.per_row(layers_of(i)),
      positions=gj.per_row(positions_of(i)),
    )
    for i, site in enumerate(sites)
  ]

  def replace(site, layer, row):
    # The donor is padded on the right, HF's row on the left.
    seen = np.asarray(source[site, layer])
    n = LENGTHS[row]
    by_place = np.zeros((1, T, seen.shape[-1]), np.float32)
    by_place[0, T - n :] = seen[row, :n]
    return lambda x: torch.tensor(by_place)

  reference = hf_rows(
    family,
    lambda r: [
      (
        site,
        layers_of(i)[r],
        positions_of(i)[r],
        replace(site, layers_of(i)[r], r),
      )
      for i, site in enumerate(sites)
    ],
  )
  ours = logits_of(model, changes)
  assert_close(ours, reference, family=family, effect=0.02)


@pytest.mark.parametrize(
  'family, side',
  [('gemma2', 'left')] + [(family, 'right') for family in FAMILIES],
)
def test_patching_everything_gives_the_other_run(family, side):
  model = model_of(family)
  tokens, positions = batch(side)
  clean = gj.run(
    model,
    tokens,
    positions,
    logits_at='all',
    capture=gj.capture('resid_post'),
  )
  real = positions >= 0
  for layer in range(5):
    out = gj.run(
      model,
      np.where(real, 96 - tokens, 0),
      positions,
      interventions=[gj.patch('resid_post', clean, layers=layer)],
      logits_at='all',
    )
    np.testing.assert_allclose(out.logits[real], clean.logits[real], atol=5e-5)


@pytest.mark.parametrize('mean', [False, True])
@pytest.mark.parametrize('family', FAMILIES)
def test_ablate_heads(family, mean):
  H = model_of(family).config.head_dim
  heads = [[0, 1], [2, -1], [3, 1]]
  source = direction('z', 3, family=family) * mean
  change = gj.patch(
    'z',
    source if mean else 0.0,
    heads=gj.per_row(heads),
    layers=gj.per_row(LAYERS),
  )

  def ablate(row):
    def change(x):
      x = x.clone()
      for head in heads[row]:
        if head >= 0:
          part = slice(head * H, head * H + H)
          x[..., part] = torch.tensor(source[part])
      return x

    return change

  reference = hf_rows(family, lambda r: [('z', LAYERS[r], None, ablate(r))])
  ours = logits_of(model_of(family), [change])
  assert_close(ours, reference, family=family, effect=0.02)


@pytest.mark.parametrize(
  'family, side',
  [('gemma2', 'left')] + [(family, 'right') for family in FAMILIES],
)
def test_knock_out_attention(family, side):
  """Last tokens to earlier ones, in windows of layers, in some heads."""
  queries = [[10, 11], [8, -1], [3, 6]]
  # Row 2 cuts every key of its queries, their own included: that one stays.
  keys = [[0, 3, 9, 10, 8], [7, 6, 5], range(7)]
  heads = [[0, 1, 2, 3], [1, 2, -1, -1], [0, 1, 2, 3]]
  centers = [1, 3, 0]
  change = gj.knock_out_attention(
    queries=gj.per_row(queries),
    keys=gj.per_row(keys),
    heads=gj.per_row(heads),
    layers=gj.layer_window(gj.per_row(centers), 3, 5),
  )

  def cut(row, positions):
    q = torch.tensor(np.isin(positions, queries[row]) & (positions >= 0))
    k = torch.tensor(np.isin(positions, keys[row]) & (positions >= 0))
    edges = torch.zeros(1, 4, T, T, dtype=torch.bool)
    for head in heads[row]:
      if head >= 0:
        edges[0, head] = (q[:, None] & k[None]) & ~torch.eye(
          T, dtype=torch.bool
        )
    window = range(max(0, centers[row] - 1), min(5, centers[row] + 2))
    return dict.fromkeys(window, edges)

  reference = hf_rows(family, lambda r: [], side, cut)
  ours = logits_of(model_of(family), [change], side)
  assert_close(ours, reference, side, family, effect=0.01)


@pytest.mark.parametrize('family', FAMILIES)
def test_splice(family):
  """A module's output in the stream's place, at one layer and some tokens."""
  w = direction('resid_post', 4, (40,), family) / 6

  def module(w, x):
    return jnp.maximum(x.astype(jnp.float32) @ w, 0)

  change = gj.splice(
    jax.tree_util.Partial(module, jnp.asarray(w)),
    site='resid_post',
    layers=2,
    positions=range(1, 7),
  )
  reference = hf_rows(
    family,
    lambda r: [
      ('resid_post', 2, range(1, 7), lambda x: torch.relu(x @ torch.tensor(w)))
    ],
  )
  assert_close(logits_of(model_of(family), [change]), reference, family=family)


def test_a_query_with_every_key_cut_attends_to_itself():
  tokens, positions = batch()
  out = gj.run(
    model_of(),
    tokens,
    positions,
    interventions=[gj.knock_out_attention(queries=5)],
    capture=gj.capture('pattern', positions=5),
  )
  pattern = np.asarray(out['pattern'])[:, :, :, 0]
  own = (positions == 5)[None, :, None]
  np.testing.assert_array_equal(pattern, np.broadcast_to(own, pattern.shape))


def test_several_changes_apply_in_the_order_of_the_list():
  v, u = direction('resid_pre'), direction('resid_pre', 1)
  w = direction('mlp_out', 2)
  q = torch.tensor(u / np.linalg.norm(u))
  steer = gj.steer('resid_pre', v, layers=2, coefficient=3.0)
  ablate = gj.ablate_direction('resid_pre', u, layers=[2, 3])
  others = [
    gj.steer('mlp_out', w, layers=1),
    gj.patch('z', 0.0, heads=2, layers=4),
  ]

  def project(x):
    return x - (x @ q)[..., None] * q

  def zero(x):
    x = x.clone()
    x[..., 32:48] = 0
    return x

  add = lambda x: x + 3 * torch.tensor(v)
  elsewhere = [
    ('resid_pre', 3, None, project),
    ('mlp_out', 1, None, lambda x: x + torch.tensor(w)),
    ('z', 4, None, zero),
  ]
  results = []
  for changes, reference in (
    ([steer, ablate], lambda x: project(add(x))),
    ([ablate, steer], lambda x: add(project(x))),
  ):
    expected = hf_rows(
      'gemma2',
      lambda r, f=reference: [('resid_pre', 2, None, f), *elsewhere],
    )
    ours = logits_of(model_of(), [*others, *changes])
    assert_close(ours, expected)
    results.append(ours)
  assert np.abs(results[0] - results[1]).max() > 0.01, 'the order matters'


def test_the_formula_against_a_loop():
  """Edit with random everything, rank 3, in NumPy and float64."""
  rng = np.random.default_rng(5)
  W, k = 40, 3
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  by_layer, by_position = draw(3, 5), draw(3, T)
  edit = gj.Edit(
    site='resid_pre',
    layers=select(gj.per_row(by_layer), 'layer'),
    positions=select(gj.per_row(by_position), 'position'),
    coefficient=draw(3),
    read=draw(3, k, W),
    write=draw(3, k, W),
    bias=draw(3, k),
    threshold=draw(3, k),
    slope=draw(3, k),
    offset=draw(3, k),
    shift=draw(3, k),
  )
  tokens, positions = batch()
  out = gj.run(
    model_of(),
    tokens,
    positions,
    interventions=[edit],
    capture=gj.capture('resid_pre', layers=0),
  )
  numbers = ('coefficient', 'read', 'write', 'bias', 'threshold', 'slope')
  numbers = (*numbers, 'offset', 'shift')
  e = {n: np.asarray(getattr(edit, n), np.float64) for n in numbers}
  x = np.asarray(gj.embed(model_of(), tokens), np.float64)
  for row in range(3):
    for t in range(T):
      p = positions[row, t]
      if p < 0:
        continue
      old = x[row, t].copy()
      gate = e['coefficient'][row] * by_layer[row, 0] * by_position[row, p]
      for j in range(k):
        a = old @ e['read'][row, j] + e['bias'][row, j]
        size = e['shift'][row, j]
        if a > e['threshold'][row, j]:
          size += e['slope'][row, j] * a + e['offset'][row, j]
        x[row, t] += gate * size * e['write'][row, j]
  np.testing.assert_allclose(out['resid_pre', 0], x, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
  'what, both, single',
  [
    ('layers', [1, 3], [1, 3]),
    ('layers', range(1, 4), [1, 2, 3]),
    ('positions', [2, 5], [2, 5]),
    ('positions', gj.before(3), [0, 1, 2]),
  ],
)
def test_a_list_means_all_of_them_in_every_row(what, both, single):
  """As that many edits, each at one place."""
  v = direction('resid_post')
  where = {'layers': 2} | ({'positions': None} if what == 'layers' else {})
  steer = lambda at: gj.steer('resid_post', v, **where | {what: at})
  at_once = logits_of(model_of(), [steer(both)])
  one_by_one = logits_of(model_of(), [steer(at) for at in single])
  np.testing.assert_allclose(at_once, one_by_one, atol=1e-5)
  assert (
    np.abs(at_once - logits_of(model_of(), [])).max(axis=(1, 2)).min() > 0.1
  )


def test_heads_of_a_list_are_cut_in_every_row():
  both = logits_of(model_of(), [gj.patch('z', 0.0, heads=[0, 2], layers=1)])
  single = [gj.patch('z', 0.0, heads=head, layers=1) for head in (0, 2)]
  np.testing.assert_allclose(both, logits_of(model_of(), single), atol=1e-6)


def test_the_last_token_is_each_rows_own():
  v = direction('resid_post')
  steer = lambda at: gj.steer('resid_post', v, layers=2, positions=at)
  last = logits_of(model_of(), [steer('last')])
  named = logits_of(model_of(), [steer(gj.per_row([n - 1 for n in LENGTHS]))])
  np.testing.assert_array_equal(last, named)


@pytest.mark.parametrize('what, size', [('layers', 5), ('positions', T)])
def test_masks_weigh_an_edit(what, size):
  """A float mask scales it at each place: per row, or for all rows."""
  rng = np.random.default_rng(8)
  weights = np.zeros((3, size), np.float32)
  weights[:, [0, 2, 3]] = rng.uniform(0.2, 1, (3, 3))
  v = direction('resid_post')
  where = {'layers': 2} if what == 'positions' else {}
  steer = lambda at, c=1.0: gj.steer(
    'resid_post', v, coefficient=c, **where | {what: at}
  )
  masked = logits_of(model_of(), [steer(gj.per_row(weights))])
  singles = [steer(i, weights[:, i]) for i in (0, 2, 3)]
  np.testing.assert_allclose(masked, logits_of(model_of(), singles), atol=2e-5)
  shared = logits_of(model_of(), [steer(weights[0])])
  np.testing.assert_allclose(shared[0], masked[0], atol=1e-5)


def test_masks_over_heads_mix():
  weights = np.random.default_rng(9).uniform(0, 1, (3, 4)).astype(np.float32)
  tokens, positions = batch()
  look = {'capture': gj.capture('z', layers=2)}
  clean = np.asarray(gj.run(model_of(), tokens, positions, **look)['z', 2])
  change = gj.patch('z', 0.0, heads=gj.per_row(weights), layers=2)
  out = gj.run(model_of(), tokens, positions, interventions=[change], **look)
  kept = np.repeat(1 - weights, 16, axis=1)[:, None]
  real = positions >= 0
  np.testing.assert_allclose(out['z', 2][real], (clean * kept)[real], atol=1e-5)


def random_interventions(seed, rows=1):
  """Edits, a patch and a knockout at random places, of one structure."""
  rng = np.random.default_rng(seed)
  layer = lambda: gj.per_row(rng.integers(0, 5, rows))
  at = lambda: gj.per_row(rng.integers(0, 7, rows))
  return [
    gj.steer(
      'resid_post',
      rng.standard_normal((rows, 40)),
      layers=layer(),
      coefficient=rng.standard_normal(rows) * 3,
      positions=at(),
    ),
    gj.ablate_direction(
      'mlp_out', rng.standard_normal((rows, 40)), layers=layer(), positions=at()
    ),
    gj.patch(
      'z', 0.0, heads=gj.per_row(rng.integers(0, 4, rows)), layers=layer()
    ),
    gj.knock_out_attention(
      queries=[4, 5, 6],
      keys=at(),
      layers=layer(),
      heads=gj.per_row(rng.integers(0, 4, rows)),
    ),
  ]


@pytest.mark.parametrize('stacked', [True, False])
def test_rows_equal_vmap_equal_a_loop(stacked):
  model = model_of() if stacked else gj.unstack_layers(model_of())
  tokens, positions = batch()
  edits = [random_interventions(seed) for seed in range(3)]

  def logits(tokens, positions, interventions):
    return gj.forward(
      model, tokens, positions, interventions=interventions, logits_at='all'
    ).logits

  rows = jax.jit(logits)(tokens, positions, gj.stack_rows(edits))
  stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *edits)
  mapped = jax.jit(jax.vmap(logits))(
    tokens[:, None], positions[:, None], stack
  )[:, 0]
  loop = [
    jax.jit(logits)(tokens[[i]], positions[[i]], edits[i])[0] for i in range(3)
  ]
  np.testing.assert_allclose(rows, np.stack(loop), atol=1e-5)
  np.testing.assert_allclose(mapped, np.stack(loop), atol=1e-5)


def test_stack_rows_needs_one_structure():
  steer = gj.steer('resid_post', direction('resid_post'), layers=1)
  other = gj.steer('resid_mid', direction('resid_post'), layers=1)
  for rows in ([[steer], [other]], [[steer], [steer, steer]]):
    with pytest.raises(ValueError, match='the same sites'):
      gj.stack_rows(rows)


def test_one_compilation_for_every_layer_head_position_and_direction():
  tokens, positions = batch()
  function, traces = tiny.count_traces(
    lambda interventions, layers, at: gj.forward(
      model_of(),
      tokens,
      positions,
      interventions=interventions,
      capture=gj.Capture(sites=('z',), layers=layers, positions=at),
      logits_at=at,
    )
  )
  results = []
  for seed in range(8):
    out = function(
      random_interventions(seed, rows=3),
      jnp.asarray([seed % 5]),
      jnp.asarray([[seed % 7]]),
    )
    results.append(np.asarray(out.logits))
  assert len(traces) == 1
  assert len({r.tobytes() for r in results}) == 8, 'all differ'


def test_ways_to_say_where_share_programs():
  """One index, a range, 'last' and all are one program; so are rows' own."""
  tokens, positions = batch()
  v = direction('resid_post')
  function, traces = tiny.count_traces(
    lambda edits: (
      gj.forward(
        model_of(), tokens, positions, interventions=edits, logits_at='last'
      ).logits
    )
  )
  steer = lambda layers, positions: [
    gj.steer('resid_post', v, layers=layers, positions=positions)
  ]
  groups = (
    # For all rows.
    [(2, None), (range(1, 4), 3), ([2, 3], 'last'), (4, gj.before(2))]
    + [(np.int64(1), gj.since(4)), (gj.layer_window(3, 3, 5), range(2, 6))],
    # One or a stretch for each.
    [
      (gj.per_row([0, 1, 2]), gj.per_row([3, 4, 5])),
      (
        gj.per_row([range(2), range(1, 4), range(3, 5)]),
        gj.before(np.array(LENGTHS) - 1),
      ),
      (gj.layer_window(gj.per_row([0, 2, 4]), 3, 5), gj.since([1, 2, 3])),
    ],
    # Scattered.
    [([0, 2], [1, 5]), ([0, 1, 4], [6, 2, 0, 3])],
    # Masks.
    [(np.eye(5)[1], np.eye(T)[4]), (np.ones(5, bool), np.linspace(0, 1, T))],
  )
  for number, group in enumerate(groups, 1):
    results = {np.asarray(function(steer(*at))).tobytes() for at in group}
    assert len(traces) == number, group
    assert len(results) == len(group)


def test_run_compiles_once_for_every_captured_layer(monkeypatch):
  """Also where it stops after that layer, for positions of each kind."""
  forward, traces = running.model_lib.forward, []

  def counted(*args, **kwargs):
    traces.append(1)
    return forward(*args, **kwargs)

  monkeypatch.setattr(running.model_lib, 'forward', counted)
  tokens, positions = batch()
  steer = gj.steer(
    'resid_pre', direction('resid_pre'), layers=0, positions='last'
  )
  for at in ((3, 0, 5), ('last', gj.per_row([4, 5, 6]), 'last')):
    traces.clear()
    for layer, position in zip((0, 4, 2), at, strict=True):
      look = gj.capture('mlp_out', 'z', layers=layer, positions=position)
      gj.run(model_of(), tokens, positions, interventions=[steer], capture=look)
    assert len(traces) == 1


def all_off(family):
  """Every type of change at every site, with all gates 0."""
  off = []
  for site in gj.VECTOR_SITES:
    v = direction(site, shape=(3,), family=family)
    nowhere = {'layers': gj.per_row(np.zeros((3, 5)))}
    off += [
      gj.steer(site, v, layers=1, coefficient=0.0),
      gj.ablate_direction(site, v, **nowhere),
      gj.patch(site, v[0], **nowhere),
    ]
  cut = gj.knock_out_attention(queries=gj.per_row(np.zeros((3, T))))
  return [*off, cut]


@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  'family, site',
  [('gemma2', site) for site in (*gj.VECTOR_SITES, 'attn_logits', 'all')]
  + [('llama', 'all'), ('gpt2', 'all')],
)
def test_zero_gates_change_no_bit(dtype, family, site):
  model = tiny.ours(dtype, family=family)
  off = [e for e in all_off(family) if site in ('all', e.site)]
  ask = {'capture': gj.capture('resid_post'), 'logits_at': 'all'}
  tokens, positions = batch()
  clean = gj.run(model, tokens, positions, **ask)
  edited = gj.run(model, tokens, positions, interventions=off, **ask)
  for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(edited), strict=True):
    np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


@pytest.mark.parametrize('layer', [3])
@pytest.mark.parametrize(
  'site',
  [
    pytest.param(site, marks=() if fast else pytest.mark.slow)
    for site in gj.VECTOR_SITES
    for fast in [site in ('z', 'mlp_act', 'resid_post')]
  ],
)
def test_padding_is_never_changed(site, layer):
  """Position -1 must not wrap to the last gate, in edits and patches.

  Looked at where the change is made: what pads compute afterwards is nobody's
  business, and no token sees it.
  """
  model = model_of()
  tokens, positions = batch('left')
  v = direction(site)
  last = np.zeros(T, np.float32)
  last[-1] = 1
  source = np.full((1, T, len(v)), 7, np.float32)
  look = gj.capture(site, layers=layer)
  clean = gj.run(model, tokens, positions, capture=look).activations[site]

  @jax.jit
  def changed(change):
    out = gj.forward(
      model, tokens, positions, interventions=[change], capture=look
    )
    return out.activations[site]

  slots = {'source_positions': np.arange(T)}
  for change in (
    gj.steer(site, v, layers=layer, positions=last),
    gj.steer(site, v, layers=layer, positions='last'),
    gj.steer(site, v, layers=layer),
    gj.patch(site, source, layers=layer, positions=last, **slots),
    gj.patch(site, source, layers=layer, **slots),
    gj.patch(site, v, layers=layer),
  ):
    seen = np.asarray(changed(change))
    pads = positions < 0
    np.testing.assert_array_equal(seen[:, pads], np.asarray(clean)[:, pads])
    assert not np.array_equal(seen, clean)


def test_gradients_against_finite_differences():
  model = model_of()
  tokens, positions = batch()
  edit, *others = random_interventions(3, rows=3)

  def loss(weights, shift):
    layers = edit.layers
    if weights is not None:
      layers = select(gj.per_row(weights), 'layer')
    change = dataclasses.replace(edit, layers=layers, shift=shift)
    out = gj.forward(
      model,
      tokens,
      positions,
      interventions=[change, *others],
      logits_at='all',
      remat=True,
    )
    real = (positions >= 0)[:, :, None]
    return jnp.where(real, out.logits[:, :, 5:6], 0).sum()

  # At gates 0: the first-order effect of the direction at every layer.
  weights = jnp.zeros((3, 5))
  shift = jnp.ones((3, 1))
  by_layer = jax.jit(jax.grad(loss))(weights, shift)
  value = jax.jit(loss)
  for row, layer in ((0, 0), (0, 4), (1, 2), (2, 3)):
    h = 1e-2
    step = jnp.zeros((3, 5)).at[row, layer].set(h)
    slope = (value(step, shift) - value(-step, shift)) / (2 * h)
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(by_layer[row, layer], slope, rtol=2e-2)
  by_shift = jax.jit(jax.grad(loss, argnums=1))(None, shift)
  step = jnp.zeros((3, 1)).at[1, 0].set(1e-2)
  slope = (value(None, shift + step) - value(None, shift - step)) / 2e-2
  np.testing.assert_allclose(by_shift[1, 0], slope, rtol=2e-2)


def test_bfloat16_edits_follow_float32():
  """An edit moves bfloat16 logits as it moves float32 ones."""
  edit = gj.steer(
    'resid_post', direction('resid_post'), layers=2, coefficient=4.0
  )
  moved = {}
  for dtype in (np.float32, jnp.bfloat16):
    model = tiny.ours(dtype)
    changed = logits_of(model, [edit])
    moved[dtype] = (changed - logits_of(model, []))[batch()[1] >= 0]
  error = np.linalg.norm(moved[jnp.bfloat16] - moved[np.float32])
  assert error / np.linalg.norm(moved[np.float32]) < 0.05


def test_orthonormal_basis_and_simultaneous_ablation():
  """Two correlated directions: x - (x Q) Q^T, not one after the other."""
  u = direction('resid_pre', 1)
  v = u + 0.5 * direction('resid_pre', 2)
  basis = gj.orthonormal_basis(np.stack([u, v]))
  assert basis.shape == (1, 2, 40), 'one subspace, for all rows'
  basis = np.asarray(basis[0])
  np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-6)
  rank = np.linalg.matrix_rank(np.stack([u, v, *basis]), tol=1e-3)
  assert rank == 2


def test_captured_layers_equal_all_layers():
  """A layer that is not wanted, or -1, must not overwrite the last slot."""
  tokens, positions = batch()
  every = gj.run(model_of(), tokens, positions, capture=gj.capture(*gj.SITES))
  for layers in ([3, 1], [0], [4, -1, 2]):
    some = gj.run(
      model_of(),
      tokens,
      positions,
      capture=gj.Capture(sites=gj.SITES, layers=np.array(layers)),
    )
    for site in gj.SITES:
      for slot, layer in enumerate(layers):
        want = np.asarray(every[site][layer]) if layer >= 0 else 0
        got = np.asarray(some[site][slot])
        np.testing.assert_allclose(got, want + 0 * got, rtol=1e-5, atol=1e-5)


def donor(**captured):
  """A run of other prompts of the same lengths."""
  tokens, positions = batch()
  tokens = np.where(positions >= 0, 96 - tokens, 0)
  ask = gj.capture('resid_mid', **captured)
  return gj.run(model_of(), tokens, positions, capture=ask)


def test_a_donor_goes_back_to_where_it_was_captured():
  """Its layers and positions, where the patch does not say which."""
  tokens, positions = batch()
  look = {'capture': gj.capture('resid_mid')}
  whole = donor()
  some = donor(layers=[1, 3], positions='last')
  out = gj.run(
    model_of(),
    tokens,
    positions,
    interventions=[gj.patch('resid_mid', some)],
    **look,
  )
  clean = gj.run(model_of(), tokens, positions, **look)
  last = positions == np.array(LENGTHS)[:, None] - 1
  others = (positions >= 0) & ~last
  for slot, layer in enumerate((1, 3)):
    got = out['resid_mid', layer]
    np.testing.assert_array_equal(got[last], some['resid_mid'][slot][:, 0])
    np.testing.assert_allclose(
      got[last], whole['resid_mid', layer][last], atol=1e-5
    )
  for layer, place in ((0, last), (0, others), (1, others)):
    np.testing.assert_allclose(
      out['resid_mid', layer][place],
      clean['resid_mid', layer][place],
      atol=1e-5,
    )


def test_a_donor_inside_jit():
  """Two runs in one program, where neither layers nor values are known."""
  tokens, positions = batch()

  @jax.jit
  def patched(donated, tokens):
    look = gj.capture('resid_mid')
    source = gj.forward(model_of(), donated, positions, capture=look)
    change = gj.patch('resid_mid', source, layers=2, positions='last')
    return gj.forward(
      model_of(), tokens, positions, interventions=[change], logits_at='all'
    ).logits

  donated = np.where(positions >= 0, 96 - tokens, 0)
  change = gj.patch('resid_mid', donor(), layers=2, positions='last')
  np.testing.assert_allclose(
    patched(donated, tokens), logits_of(model_of(), [change]), atol=1e-5
  )


def test_one_layers_activation_at_another_layer_and_position():
  """As an array, one slot goes anywhere."""
  some = donor(layers=1, positions='last')
  change = gj.patch('resid_mid', some['resid_mid', 1], layers=4, positions=2)
  tokens, positions = batch()
  out = gj.run(
    model_of(),
    tokens,
    positions,
    interventions=[change],
    capture=gj.capture('resid_mid', layers=4, positions=2),
  )
  np.testing.assert_array_equal(out['resid_mid', 4], some['resid_mid', 1])


def test_a_position_without_a_source_is_not_patched():
  """Neither the last slot nor zeros stand in for what the donor lacks."""
  tokens, positions = batch('left')
  clean = gj.run(
    model_of(),
    tokens,
    positions,
    capture=gj.capture('resid_mid', positions=[3, 5]),
  )
  source = np.asarray(clean['resid_mid']) + 1
  change = gj.patch(
    'resid_mid',
    source,
    source_positions=[[3, 5], [5, -1], [-1, -1]],
    layers=2,
  )
  ask = {'capture': gj.capture('resid_mid', layers=2)}
  before = gj.run(model_of(), tokens, positions, **ask)
  after = gj.run(model_of(), tokens, positions, interventions=[change], **ask)
  moved = np.abs(after['resid_mid', 2] - before['resid_mid', 2]).max(-1) > 1e-3
  at = np.isin(positions, [3, 5])
  at[1] = positions[1] == 5
  at[2] = False
  np.testing.assert_array_equal(moved, at)
  with pytest.raises(ValueError, match='2 slots; say which positions'):
    gj.patch('resid_mid', source, layers=2)
  with pytest.raises(ValueError, match=r'\(1, 3\), expected \(2,\)'):
    gj.patch('resid_mid', source, source_positions=[1, 2, 3])


def test_a_prompts_own_activations_do_not_reach_generated_tokens():
  tokens, positions = batch('left')
  source = gj.run(
    model_of(), tokens, positions, capture=gj.capture('resid_post')
  )
  ask = {'max_new_tokens': 6, 'stop_ids': []}
  clean = gj.generate(model_of(), tokens, positions, **ask)
  patched = gj.generate(
    model_of(),
    tokens,
    positions,
    interventions=[gj.patch('resid_post', source)],
    **ask,
  )
  np.testing.assert_array_equal(clean.tokens, patched.tokens)


def test_last_is_the_prompts_last_token_while_generating():
  """Not each new one: those are chosen with `since`."""
  tokens, positions = batch('left')
  v = direction('resid_post')
  ask = {'max_new_tokens': 8, 'stop_ids': []}

  def generated(at):
    edit = gj.steer('resid_post', v, layers=3, coefficient=3.0, positions=at)
    return gj.generate(
      model_of(), tokens, positions, interventions=[edit], **ask
    )

  last, named = generated('last'), generated(gj.per_row([11, 8, 6]))
  np.testing.assert_array_equal(last.tokens, named.tokens)
  np.testing.assert_array_equal(last.logprobs, named.logprobs)
  every = generated(gj.since([11, 8, 6]))
  assert not np.array_equal(every.tokens, last.tokens)
  clean = gj.generate(model_of(), tokens, positions, **ask)
  assert not np.array_equal(clean.logprobs[:, 0], last.logprobs[:, 0])


ONES = np.ones(40)
latents = lambda **place: types.SimpleNamespace(
  encoder=ONES[None],
  decoder=ONES[None],
  bias=np.zeros(1),
  threshold=np.zeros(1),
  **place,
)


@pytest.mark.parametrize(
  'wrong, words',
  [
    (lambda: gj.steer('resid_post', ONES), 'say which layers.*layers=12'),
    (lambda: gj.steer('resid_post', ONES, layers=-1), 'layer -1.*Count from 0'),
    (lambda: gj.steer('resid_post', ONES, layers=[0, -2]), 'layer -2'),
    (lambda: gj.steer('resid_post', ONES, layers=[2, 2]), 'repeated'),
    (
      lambda: gj.steer('z', ONES, layers=np.array([0, 0, 1])),
      'repeated.*bool or float',
    ),
    (lambda: gj.steer('z', ONES, layers='last'), 'no word is understood'),
    (
      lambda: gj.steer('z', ONES, layers=0, positions='first'),
      "word is 'last'",
    ),
    (
      lambda: gj.steer('z', ONES, layers=0, positions=-1),
      "position -1.*token is 'last'",
    ),
    (lambda: gj.steer('z', ONES, layers=[[0, 2]]), r'gj\.per_row'),
    (
      lambda: gj.steer('z', ONES, layers=gj.per_row([0, -1])),
      'layer -1 .row 1',
    ),
    (lambda: gj.steer('z', ONES, layers=gj.per_row(3)), r'\[R\] or \[R, m\]'),
    (
      lambda: gj.steer('z', ONES, layers=gj.per_row(np.ones(5))),
      r'\[R, size\]',
    ),
    (lambda: gj.steer('z', ONES, layers=np.ones((3, 5))), r'per_row'),
    (lambda: gj.steer('z', ONES, layers=1.0), 'must be integers'),
    (lambda: gj.steer('residual', ONES, layers=0), "'residual'.*resid_post"),
    (lambda: gj.steer('pattern', ONES, layers=0), 'cannot be edited'),
    (
      lambda: gj.steer('blocks.3.hook_resid_post', ONES, layers=3),
      'names its layer; leave out',
    ),
    (lambda: gj.patch('resid_post.3', 0.0, layers=3), 'names its layer'),
    (
      lambda: gj.steer('z', ONES, layers=0, coefficient=[[1.0, 2.0]]),
      r'\(1, 2\), expected a scalar or \[R\]',
    ),
    (lambda: gj.steer('z', np.eye(3)[None], layers=0), 'one direction per row'),
    (
      lambda: gj.ablate_direction('resid_pre', np.eye(40)[None, :2] + 0.1),
      'orthonormal_basis',
    ),
    (lambda: gj.ablate_direction('resid_pre', np.zeros(40)), 'norm 0'),
    (
      lambda: gj.ablate_direction(
        'resid_pre', np.eye(40)[None, :2], value=[1.0, 2.0]
      ),
      'one per row or one per latent',
    ),
    (lambda: gj.orthonormal_basis(np.ones((2, 40))), 'dependent'),
    (lambda: gj.patch('mlp_act', np.ones((2, 3))), r'\(2, 3\), expected \[W\]'),
    (lambda: gj.clamp_latents(latents(), 0.0), 'does not say what it reads'),
    (
      lambda: gj.clamp_latents(latents(site='resid_post', layer=None), 0.0),
      'does not say what it reads',
    ),
    (lambda: gj.splice(jax.tree_util.Partial(jnp.sin)), 'does not say'),
    (lambda: gj.knock_out_attention(layers=3), 'queries, keys or both'),
    (lambda: gj.layer_window(5, 3, 5), 'center 5 is out of range'),
    (lambda: gj.layer_window(2, 0, 5), 'at least 1'),
    (lambda: gj.capture('z', positions=-1), "positions='last'"),
    (lambda: gj.capture('z', positions=[0, -2]), "positions='last'"),
    (lambda: gj.capture('z', positions=[[0], [1]]), 'per_row'),
    (lambda: gj.capture('z', layers=-1), 'count from 0'),
    (lambda: gj.capture('z', layers=gj.per_row([1, 2])), 'same layers'),
    (lambda: gj.capture('z', layers=[1, 1]), 'repeated'),
    (lambda: gj.capture('blocks.3.attn.hook_z', layers=3), 'Give bare sites'),
  ],
)
def test_constructors_refuse(wrong, words):
  with pytest.raises((ValueError, KeyError), match=words):
    wrong()


STEER = gj.steer('resid_post', ONES, layers=0)


@pytest.mark.parametrize(
  'changes, words',
  [
    (lambda: STEER, r'a list of changes, got Edit.*\[gj.steer'),
    (lambda: {'resid_post': STEER}, 'a list of changes, got dict'),
    (lambda: [(STEER,)], r'interventions\[0\] is tuple, expected what'),
    (
      lambda: [STEER, gj.steer('resid_post', np.ones(41), layers=0)],
      r'interventions\[1\], Edit at resid_post: .* axis 2 must be 40',
    ),
    (lambda: [gj.steer('z', ONES, layers=0)], 'axis 2 must be 64'),
    (
      # Of Gemma 2 2B.
      lambda: [gj.steer('resid_post', np.ones(2304), layers=12)],
      'axis 2 must be 40',
    ),
    (
      lambda: [gj.steer('resid_post', ONES, layers=5)],
      r'layer 5 \(row 0\) is out of range.*layers 0 to 4',
    ),
    (
      lambda: [gj.steer('resid_post', ONES, layers=gj.per_row([0, 7, 1]))],
      r'layer 7 \(row 1\) is out of range',
    ),
    (
      lambda: [gj.steer('resid_post', ONES, layers=range(3, 6))],
      'layer 5',
    ),
    (
      lambda: [gj.steer('resid_post', ONES, layers=np.ones(4))],
      'layers is a mask over 4 of them; this model has 5',
    ),
    (lambda: [gj.patch('z', 0.0, heads=4)], 'head 4 .*heads 0 to 3'),
    (lambda: [gj.patch('z', 0.0, heads=np.ones(3))], 'mask over 3'),
    (
      lambda: [gj.patch('mlp_out', 0.0, heads=1)],
      'mlp_out has heads; only z',
    ),
    (
      lambda: [gj.steer('resid_post', ONES, layers=0, coefficient=[1.0, 2.0])],
      'coefficient has 2 rows; the batch has 3',
    ),
    (
      lambda: [gj.steer('resid_post', ONES, layers=gj.per_row([0, 1]))],
      'layers has 2 rows; the batch has 3',
    ),
    (
      lambda: [
        gj.steer('resid_post', ONES, layers=0, positions=gj.before([1, 2]))
      ],
      'positions has 2 rows; the batch has 3',
    ),
    (
      lambda: [gj.steer('resid_post', ONES, layers=0, positions=10)],
      r'positions \[10\] of row 1 .*0 to 8: it would do nothing',
    ),
    (
      lambda: [gj.steer('resid_post', ONES, layers=0, positions=np.ones(8))],
      'mask over positions 0 to 7; rows go up to 11',
    ),
    (
      lambda: [gj.knock_out_attention(queries='last', keys=9)],
      r'positions \[9\] of row 1 \(keys\)',
    ),
    (lambda: [gj.patch('mlp_act', np.ones((2, 1, 56)))], 'source has 2 rows'),
    (lambda: [gj.patch('mlp_act', np.ones(40))], 'axis 3 must be 56 or 1'),
    (
      lambda: [gj.patch('resid_mid', donor(layers=[1, 3]), layers=2)],
      r'captured at layers \[1, 3\]; layer 2 is not',
    ),
    (
      lambda: [gj.patch('resid_mid', donor(layers=[1, 3]), layers=[0, 1])],
      'layer 0 is not',
    ),
    (
      lambda: [gj.patch('resid_mid', donor(positions=[1, 2]), positions=3)],
      r'no activation of position 3.*row 0.*source=donor',
    ),
    (lambda: [gj.patch('z', donor())], 'resid_mid, not z. Capture it'),
    (
      lambda: [
        gj.splice(
          jax.tree_util.Partial(lambda x: x[..., :3]),
          site='resid_post',
          layers=1,
        )
      ],
      r'gives \(1, 1, 3\), expected \(1, 1, 40\)',
    ),
    (
      lambda: [dataclasses.replace(STEER, site='attn_logits')],
      'Edit at attn_logits: it goes to resid_pre',
    ),
    (
      lambda: [
        dataclasses.replace(
          gj.knock_out_attention(queries=1), site='resid_post'
        )
      ],
      'Knockout at resid_post: it goes to attn_logits',
    ),
  ],
)
def test_run_refuses_what_does_not_fit(changes, words):
  with pytest.raises((ValueError, KeyError), match=words):
    logits_of(model_of(), changes())


def test_changes_above_the_last_captured_layer_are_refused():
  tokens, positions = batch()
  late = gj.steer('resid_post', ONES, layers=3)
  look = gj.capture('resid_post', layers=[0, 2])
  with pytest.raises(ValueError, match=r'layers \[3\]; only layers 0 to 2'):
    gj.run(model_of(), tokens, positions, interventions=[late], capture=look)


@pytest.mark.parametrize('positions', ['last', None])
def test_a_donors_last_token_is_not_that_of_a_prompt_of_another_length(
  positions,
):
  """Its position is not there, or is not the last: nothing is guessed."""
  tokens, _ = batch()
  longer = gj.run(
    model_of(),
    tokens,
    capture=gj.capture('resid_mid', layers=2, positions='last'),
  )
  change = gj.patch('resid_mid', longer, layers=2, positions=positions)
  with pytest.raises(ValueError, match='position.*row 1'):
    logits_of(model_of(), [change])
  # As an array it has no position, and goes where it is told.
  logits_of(
    model_of(),
    [gj.patch('resid_mid', longer['resid_mid', 2], layers=2, positions='last')],
  )


def test_a_change_of_ones_own():
  """A subclass of Change is a site's function with data."""

  @jax.tree_util.register_dataclass
  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Halve(gj.Change):
    site: str = iv.static_field()
    layers: gj.Selection

    def apply(self, x, layer, positions, config):
      gate = self.layers.gate(jnp.full((1, 1), layer, jnp.int32))
      return x * (1 - gate[..., None] / 2)

  change = Halve(site='mlp_out', layers=select([1, 3], 'layer'))
  reference = hf_rows(
    'gemma2',
    lambda r: [('mlp_out', layer, None, lambda x: x / 2) for layer in (1, 3)],
  )
  assert_close(logits_of(model_of(), [change]), reference, effect=0.01)


def test_kinds_with_equal_fields_are_two_programs():
  """JAX alone would take the structures of both classes for one."""

  @jax.tree_util.register_dataclass
  @dataclasses.dataclass(frozen=True, kw_only=True)
  class CutsNothing(gj.Knockout):
    def cuts(self, layer, query_positions, key_positions, config):
      return jnp.zeros((1, 1, 1, 1), bool)

  knockout = gj.knock_out_attention(queries='last', keys=[0])
  nothing = CutsNothing(**vars(knockout))
  structures = [jax.tree.structure(each) for each in (knockout, nothing)]
  assert structures[0] != structures[1]
  again = jax.tree.unflatten(structures[1], jax.tree.leaves(nothing))
  assert jax.tree.structure(again) == structures[1]
  clean = logits_of(model_of(), [])
  for _ in range(3):  # in turns, so that either may find the other's program
    cut = logits_of(model_of(), [knockout])
    np.testing.assert_array_equal(logits_of(model_of(), [nothing]), clean)
    assert np.abs(cut - clean).max() > 1e-3
