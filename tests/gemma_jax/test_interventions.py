"""Every instrument against PyTorch hooks on the HF model, row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gemma_jax as gj
from tests import tiny
from tests.gemma_jax.hf_hooks import hooked

T = 12
LAYERS = [0, 3, 4]
COEFFICIENTS = [2.0, -3.0, 0.5]


def batch(side='left'):
  """Three prompts of 12, 9 and 7 tokens."""
  rng = np.random.default_rng(1)
  tokens = np.zeros((3, T), np.int32)
  positions = np.full((3, T), -1, np.int32)
  for row, n in enumerate((12, 9, 7)):
    at = slice(T - n, T) if side == 'left' else slice(0, n)
    tokens[row, at] = rng.integers(3, 97, n)
    positions[row, at] = np.arange(n)
  return tokens, positions


LENGTHS = [12, 9, 7]


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


def hf_rows(changes_of_row, side='left', cut_of_row=None):
  """HF's logits [3, T, V], one row at a time with that row's hooks."""
  hf, _ = tiny.pair()
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


def assert_close(ours, reference, side='left', tolerance=3e-5, effect=0.05):
  """Equal at real tokens, and different from an unedited run."""
  real = batch(side)[1] >= 0
  np.testing.assert_allclose(ours[real], reference[real], atol=tolerance)
  clean = logits_of(tiny.pair()[1], {}, side)
  for row in range(3):
    moved = np.abs(ours[row] - clean[row])[real[row]].max()
    assert moved > effect, f'the change does nothing in row {row}: {moved}'


def direction(site, seed=0, shape=()):
  W = gj.site_width(tiny.pair()[1].config, site)
  rng = np.random.default_rng(seed)
  return rng.standard_normal((*shape, W)).astype(np.float32)


@pytest.mark.parametrize('side', ['left', 'right'])
@pytest.mark.parametrize('site', gj.VECTOR_SITES)
def test_steer_at_every_site(site, side):
  model = tiny.pair()[1]
  v = direction(site, shape=(3,))
  at = [[3, 5], [8, -1], [0, 6]]
  edit = gj.steer(
    model.config,
    site,
    v,
    layers=LAYERS,
    coefficient=COEFFICIENTS,
    positions=at,
    num_positions=LENGTHS,
  )
  reference = hf_rows(
    lambda r: [
      (
        site,
        LAYERS[r],
        at[r],
        lambda x: x + COEFFICIENTS[r] * torch.tensor(v[r]),
      )
    ],
    side,
  )
  assert_close(logits_of(model, {site: (edit,)}, side), reference, side)


@pytest.mark.parametrize('site', gj.VECTOR_SITES)
@pytest.mark.parametrize('value', [0.0, 1.5])
def test_ablate_direction(site, value):
  model = tiny.pair()[1]
  basis = gj.orthonormal_basis(direction(site, shape=(3, 2)))
  edit = gj.ablate_direction(
    model.config, site, basis, layers=[[0, 1], [2, 3], [4, 2]], value=value
  )

  def change(row):
    q = torch.tensor(np.asarray(basis[row]))
    return lambda x: x - x @ q.T @ q + value * q.sum(0)

  layers = [[0, 1], [2, 3], [4, 2]]
  reference = hf_rows(
    lambda r: [(site, layer, None, change(r)) for layer in layers[r]]
  )
  assert_close(logits_of(model, {site: (edit,)}), reference)


@pytest.mark.parametrize('operation', ['clamp', 'clamp if active', 'scale'])
@pytest.mark.parametrize('site', ['resid_post', 'mlp_out', 'z'])
def test_latents_keep_the_error_term(site, operation):
  """Against decode(f') + (x - decode(f)) with the whole SAE."""
  model = tiny.pair()[1]
  W, F = gj.site_width(model.config, site), 64
  rng = np.random.default_rng(2)
  w_enc = rng.standard_normal((W, F)).astype(np.float32)
  w_dec = rng.standard_normal((F, W)).astype(np.float32)
  b_enc = rng.standard_normal(F).astype(np.float32)
  theta = rng.uniform(0.1, 1.0, F).astype(np.float32)
  ids = np.array([[3, 9], [11, 60], [0, 1]])
  amount = np.array([4.0, -1.0, 3.0], np.float32)
  sae = {
    'encoder': w_enc.T[ids],
    'decoder': w_dec[ids],
    'bias': b_enc[ids],
    'threshold': theta[ids],
    'layers': LAYERS,
  }
  if operation == 'scale':
    edit = gj.scale_latent(model.config, site, factor=amount[:, None], **sae)
  else:
    edit = gj.clamp_latent(
      model.config,
      site,
      value=amount[:, None],
      only_active=operation == 'clamp if active',
      **sae,
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

  reference = hf_rows(lambda r: [(site, LAYERS[r], None, change(r))])
  assert min(active) > 0 and min(inactive) > 0, 'both cases must occur'
  ours = logits_of(model, {site: (edit,)})
  assert_close(ours, reference, tolerance=2e-4)


@pytest.mark.parametrize('site', gj.VECTOR_SITES)
def test_patch_from_another_run(site):
  """Row by row, a stretch of another prompt's activations, by position."""
  hf, model = tiny.pair()
  donor, donor_positions = batch('right')
  donor = np.where(donor_positions >= 0, 96 - donor, 0)
  source = gj.run(model, donor, donor_positions, capture=gj.capture(site))
  at = [[4, 5], [8, -1], [0, 6]]
  change = gj.patch(
    model.config,
    site,
    source.activations[site],
    source_positions=donor_positions,
    layers=LAYERS,
    positions=at,
    num_positions=LENGTHS,
  )
  seen = np.asarray(source.activations[site])

  def replace(row):
    # The donor is padded on the right, HF's row on the left.
    by_place = np.zeros((1, T, seen.shape[-1]), np.float32)
    n = LENGTHS[row]
    by_place[0, T - n :] = seen[LAYERS[row], row, :n]
    return lambda x: torch.tensor(by_place)

  reference = hf_rows(lambda r: [(site, LAYERS[r], at[r], replace(r))])
  assert_close(logits_of(model, {site: (change,)}), reference)


@pytest.mark.parametrize('side', ['left', 'right'])
def test_patching_everything_gives_the_other_run(side):
  model = tiny.pair()[1]
  tokens, positions = batch(side)
  clean = gj.run(
    model,
    tokens,
    positions,
    logits_at='all',
    capture=gj.capture('resid_post'),
  )
  source = clean.activations['resid_post']
  for layer in range(5):
    change = gj.patch(
      model.config,
      'resid_post',
      source,
      source_positions=positions,
      layers=layer,
    )
    out = gj.run(
      model,
      np.where(positions >= 0, 96 - tokens, 0),
      positions,
      interventions={'resid_post': (change,)},
      logits_at='all',
    )
    real = positions >= 0
    np.testing.assert_allclose(out.logits[real], clean.logits[real], atol=2e-5)


@pytest.mark.parametrize('mean', [False, True])
def test_ablate_heads(mean):
  model = tiny.pair()[1]
  config = model.config
  heads = [[0, 1], [2, -1], [3, 1]]
  source = direction('z', 3) if mean else np.zeros(64, np.float32)
  change = gj.ablate_heads(
    config, heads, layers=LAYERS, source=source if mean else None
  )

  def ablate(row):
    def change(x):
      x = x.clone()
      for head in heads[row]:
        if head >= 0:
          part = slice(head * 16, head * 16 + 16)
          x[..., part] = torch.tensor(source[part])
      return x

    return change

  reference = hf_rows(lambda r: [('z', LAYERS[r], None, ablate(r))])
  assert_close(logits_of(model, {'z': (change,)}), reference)


@pytest.mark.parametrize('side', ['left', 'right'])
def test_knock_out_attention(side):
  """Last tokens to earlier ones, in windows of layers, in some heads."""
  model = tiny.pair()[1]
  queries = [[10, 11], [8, -1], [3, 6]]
  # Row 2 cuts every key of its queries, their own included: that one stays.
  keys = [[0, 3, 9, 10, 8, -1, -1], [7, 6, 5, -1, -1, -1, -1], [*range(7)]]
  heads = [[0, 1, 2, 3], [1, 2, -1, -1], [0, 1, 2, 3]]
  centers = [1, 3, 0]
  change = gj.knock_out_attention(
    model.config,
    queries=queries,
    keys=keys,
    heads=heads,
    layers=gj.layer_window(model.config, centers, 3),
    num_positions=LENGTHS,
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

  reference = hf_rows(lambda r: [], side, cut)
  assert_close(
    logits_of(model, {'attn_logits': (change,)}, side), reference, side
  )


def test_a_query_with_every_key_cut_attends_to_itself():
  model = tiny.pair()[1]
  tokens, positions = batch()
  change = gj.knock_out_attention(
    model.config, queries=[[5]], keys=None, num_positions=T
  )
  out = gj.run(
    model,
    tokens,
    positions,
    interventions={'attn_logits': (change,)},
    capture=gj.capture('pattern', positions=5),
  )
  pattern = np.asarray(out.activations['pattern'])[:, :, :, 0]
  own = (positions == 5)[None, :, None]
  np.testing.assert_array_equal(pattern, np.broadcast_to(own, pattern.shape))


def test_several_changes_apply_in_order():
  model = tiny.pair()[1]
  config = model.config
  v, u = direction('resid_pre'), direction('resid_pre', 1)
  w = direction('mlp_out', 2)
  q = torch.tensor(u / np.linalg.norm(u))
  interventions = {
    'resid_pre': (
      gj.steer(config, 'resid_pre', v, layers=2, coefficient=3.0),
      gj.ablate_direction(config, 'resid_pre', u, layers=[[2, 3]]),
    ),
    'mlp_out': (gj.steer(config, 'mlp_out', w, layers=1),),
    'z': (gj.ablate_heads(config, 2, layers=4),),
  }

  def project(x):
    return x - (x @ q)[..., None] * q

  def zero(x):
    x = x.clone()
    x[..., 32:48] = 0
    return x

  reference = hf_rows(
    lambda r: [
      ('resid_pre', 2, None, lambda x: project(x + 3 * torch.tensor(v))),
      ('resid_pre', 3, None, project),
      ('mlp_out', 1, None, lambda x: x + torch.tensor(w)),
      ('z', 4, None, zero),
    ]
  )
  assert_close(logits_of(model, interventions), reference)


def test_the_formula_against_a_loop():
  """Edit with random everything, rank 3, in NumPy and float64."""
  model = tiny.pair()[1]
  rng = np.random.default_rng(5)
  W, k, S = 40, 3, T
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  edit = gj.Edit(
    layers=draw(3, 5),
    tokens=draw(3, S),
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
    model,
    tokens,
    positions,
    interventions={'resid_pre': (edit,)},
    capture=gj.capture('resid_pre', layers=0),
  )
  e = {n: np.asarray(getattr(edit, n), np.float64) for n in vars(edit)}
  x = np.asarray(gj.embed(model, tokens), np.float64)
  for row in range(3):
    for t in range(T):
      p = positions[row, t]
      if p < 0:
        continue
      old = x[row, t].copy()
      for j in range(k):
        a = old @ e['read'][row, j] + e['bias'][row, j]
        size = e['shift'][row, j]
        if a > e['threshold'][row, j]:
          size += e['slope'][row, j] * a + e['offset'][row, j]
        gate = e['layers'][row, 0] * e['tokens'][row, p]
        x[row, t] += gate * size * e['write'][row, j]
  np.testing.assert_allclose(
    out.activations['resid_pre'][0], x, rtol=2e-5, atol=2e-5
  )


def random_interventions(config, seed, rows=1):
  """Edits, a patch and a knockout at random places, of one structure."""
  rng = np.random.default_rng(seed)
  layer = lambda: rng.integers(0, 5, rows)
  at = lambda: rng.integers(0, 7, rows)
  where = lambda: {'positions': at(), 'num_positions': T}
  return {
    'resid_post': (
      gj.steer(
        config,
        'resid_post',
        rng.standard_normal((rows, 40)),
        layers=layer(),
        coefficient=rng.standard_normal(rows) * 3,
        **where(),
      ),
    ),
    'mlp_out': (
      gj.ablate_direction(
        config,
        'mlp_out',
        rng.standard_normal((rows, 40)),
        layers=layer(),
        **where(),
      ),
    ),
    'z': (gj.ablate_heads(config, rng.integers(0, 4, rows), layers=layer()),),
    'attn_logits': (
      gj.knock_out_attention(
        config,
        queries=[[4, 5, 6]],
        keys=at()[:, None],
        layers=layer(),
        heads=rng.integers(0, 4, rows),
        num_positions=T,
      ),
    ),
  }


@pytest.mark.parametrize('stacked', [True, False])
def test_rows_equal_vmap_equal_a_loop(stacked):
  model = tiny.pair()[1]
  model = model if stacked else gj.unstack_layers(model)
  tokens, positions = batch()
  edits = [random_interventions(model.config, seed) for seed in range(3)]

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


def test_one_compilation_for_every_layer_head_position_and_direction():
  model = tiny.pair()[1]
  tokens, positions = batch()
  function, traces = tiny.count_traces(
    lambda interventions, layers, at: gj.forward(
      model,
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
      random_interventions(model.config, seed, rows=3),
      jnp.asarray([seed % 5]),
      jnp.asarray([[seed % 7]]),
    )
    results.append(np.asarray(out.logits))
  assert len(traces) == 1
  assert len({r.tobytes() for r in results}) == 8, 'all differ'


def all_off(config):
  """Every type of change at every site, with all gates 0."""
  off = {}
  for site in gj.VECTOR_SITES:
    v = direction(site, shape=(3,))
    off[site] = (
      gj.steer(config, site, v, layers=1, coefficient=0.0),
      gj.ablate_direction(config, site, v, layers=np.zeros((3, 5))),
      gj.patch(config, site, v[0], layers=np.zeros((3, 5))),
    )
  nothing = gj.knock_out_attention(
    config, queries=np.zeros((3, T)), keys=None, num_positions=T
  )
  return off | {'attn_logits': (nothing,)}


@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16])
@pytest.mark.parametrize('site', [*gj.VECTOR_SITES, 'attn_logits', 'all'])
def test_zero_gates_change_no_bit(dtype, site):
  model = tiny.ours(dtype)
  tokens, positions = batch()
  off = all_off(model.config)
  off = off if site == 'all' else {site: off[site]}
  ask = {'capture': gj.capture('resid_post'), 'logits_at': 'all'}
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
  model = tiny.pair()[1]
  config = model.config
  tokens, positions = batch('left')
  v = direction(site)
  last = np.zeros((1, T), np.float32)
  last[0, -1] = 1
  at_last = {'positions': last, 'num_positions': T}
  source = np.full((1, 1, T, len(v)), 7, np.float32)
  look = gj.capture(site, layers=layer)
  clean = gj.run(model, tokens, positions, capture=look).activations[site]

  @jax.jit
  def changed(change):
    out = gj.forward(
      model,
      tokens,
      positions,
      interventions={site: (change,)},
      capture=look,
    )
    return out.activations[site]

  for change in (
    gj.steer(config, site, v, layers=layer, **at_last),
    gj.steer(config, site, v, layers=layer),
    gj.patch(
      config,
      site,
      source,
      source_positions=np.arange(T),
      layers=layer,
      **at_last,
    ),
    gj.patch(config, site, v, layers=layer),
  ):
    seen = np.asarray(changed(change))
    pads = positions < 0
    np.testing.assert_array_equal(seen[:, pads], np.asarray(clean)[:, pads])
    assert not np.array_equal(seen, clean)


def test_gradients_against_finite_differences():
  model = tiny.pair()[1]
  tokens, positions = batch()
  base = random_interventions(model.config, 3, rows=3)

  def loss(layers, shift):
    edit = base['resid_post'][0]
    edit = gj.Edit(**{**vars(edit), 'layers': layers, 'shift': shift})
    out = gj.forward(
      model,
      tokens,
      positions,
      interventions={**base, 'resid_post': (edit,)},
      logits_at='all',
      remat=True,
    )
    real = (positions >= 0)[:, :, None]
    return jnp.where(real, out.logits[:, :, 5:6], 0).sum()

  # At gates 0: the first-order effect of the direction at every layer.
  layers = jnp.zeros((3, 5))
  shift = jnp.ones((3, 1))
  by_layer = jax.jit(jax.grad(loss))(layers, shift)
  value = jax.jit(loss)
  for row, layer in ((0, 0), (0, 4), (1, 2), (2, 3)):
    h = 1e-2
    step = jnp.zeros((3, 5)).at[row, layer].set(h)
    slope = (value(step, shift) - value(-step, shift)) / (2 * h)
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(by_layer[row, layer], slope, rtol=2e-2)
  gates = base['resid_post'][0].layers
  by_shift = jax.jit(jax.grad(loss, argnums=1))(gates, shift)
  step = jnp.zeros((3, 1)).at[1, 0].set(1e-2)
  slope = (value(gates, shift + step) - value(gates, shift - step)) / 2e-2
  np.testing.assert_allclose(by_shift[1, 0], slope, rtol=2e-2)


def test_bfloat16_edits_follow_float32():
  """An edit moves bfloat16 logits as it moves float32 ones."""
  v = direction('resid_post')
  moved = {}
  for dtype in (np.float32, jnp.bfloat16):
    model = tiny.ours(dtype)
    edit = gj.steer(model.config, 'resid_post', v, layers=2, coefficient=4.0)
    changed = logits_of(model, {'resid_post': (edit,)})
    moved[dtype] = (changed - logits_of(model, {}))[batch()[1] >= 0]
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
  model = tiny.pair()[1]
  tokens, positions = batch()
  every = gj.run(model, tokens, positions, capture=gj.capture(*gj.SITES))
  for layers in ([3, 1], [0], [4, -1, 2]):
    some = gj.run(
      model,
      tokens,
      positions,
      capture=gj.Capture(sites=gj.SITES, layers=np.array(layers)),
    )
    for site in gj.SITES:
      for slot, layer in enumerate(layers):
        want = np.asarray(every.activations[site][layer]) if layer >= 0 else 0
        np.testing.assert_array_equal(
          np.asarray(some.activations[site][slot]),
          want + 0 * np.asarray(some.activations[site][slot]),
        )


@pytest.mark.parametrize(
  'wrong, words',
  [
    (lambda c: gj.steer(c, 'resid_post', np.ones(40), layers=5), 'layer 5'),
    (lambda c: gj.steer(c, 'resid_post', np.ones(40), layers=-1), 'layer -1'),
    (
      lambda c: gj.steer(c, 'resid_post', np.ones(41), layers=0),
      r'\(41,\).*W=40',
    ),
    (
      lambda c: gj.steer(
        c, 'z', np.ones(64), layers=0, positions=[2, 9], num_positions=[8, 9]
      ),
      r'position 9 \(row 1\).*0 to 8',
    ),
    (
      lambda c: gj.steer(c, 'z', np.ones(64), layers=0, positions=3),
      'num_positions',
    ),
    (
      lambda c: gj.ablate_direction(c, 'resid_pre', np.eye(40)[None, :2] + 0.1),
      'orthonormal_basis',
    ),
    (lambda c: gj.ablate_direction(c, 'resid_pre', np.zeros(40)), 'norm 0'),
    (lambda c: gj.ablate_heads(c, 4, layers=0), 'head 4'),
    (lambda c: gj.patch(c, 'mlp_act', np.ones((2, 1, 3, 56))), '5 or 1'),
    (lambda c: gj.orthonormal_basis(np.ones((2, 40))), 'dependent'),
    (
      lambda c: gj.steer(
        c, 'z', np.ones(64), layers=[[0, 2]], coefficient=[[1.0, 2.0]]
      ),
      r'\(1, 2\), expected a scalar or \[R\]',
    ),
    (
      lambda c: gj.ablate_direction(
        c, 'resid_pre', np.eye(40)[None, :2], value=[1.0, 2.0]
      ),
      'one per row or one per latent',
    ),
    (
      lambda c: gj.steer(c, 'z', np.ones(64), layers=np.array([[0, 0, 1]])),
      'repeated',
    ),
    (
      lambda c: gj.steer(
        c, 'z', np.ones(64), layers=0, positions=9, num_positions=[12, 9]
      ),
      r'position 9 \(row 1\)',
    ),
    (lambda c: gj.capture('z', positions=-1), 'last_position'),
    (lambda c: gj.capture('z', layers=-1), 'count from 0'),
    (
      lambda c: gj.clamp_latent(
        c,
        'resid_post',
        encoder=np.ones((1, 2, 40)),
        decoder=np.ones(40),
        bias=0,
        threshold=0,
        value=0,
        layers=0,
      ),
      'same latents',
    ),
    (lambda c: gj.steer(c, 'residual', np.ones(40), layers=0), 'residual'),
    (
      lambda c: gj.steer(c, 'z', np.ones(64), layers=np.ones((1, 4))),
      r'\[R, 5\]',
    ),
  ],
)
def test_constructors_refuse(wrong, words):
  with pytest.raises((ValueError, KeyError), match=words):
    wrong(tiny.pair()[1].config)


def test_a_position_without_a_source_is_not_patched():
  """Neither the last slot nor zeros stand in for what the donor lacks."""
  model = tiny.pair()[1]
  tokens, positions = batch('left')
  clean = gj.run(
    model, tokens, positions, capture=gj.capture('resid_mid', positions=[3, 5])
  )
  source = np.asarray(clean.activations['resid_mid']) + 1
  change = gj.patch(
    model.config,
    'resid_mid',
    source,
    source_positions=[[3, 5], [5, -1], [-1, -1]],
    layers=2,
  )
  look = gj.capture('resid_mid', layers=2)
  before = gj.run(model, tokens, positions, capture=look)
  after = gj.run(
    model,
    tokens,
    positions,
    capture=look,
    interventions={'resid_mid': (change,)},
  )
  moved = (
    np.abs(
      np.asarray(after.activations['resid_mid'])
      - np.asarray(before.activations['resid_mid'])
    )[0].max(-1)
    > 1e-3
  )
  at = np.isin(positions, [3, 5])
  at[1] = positions[1] == 5
  at[2] = False
  np.testing.assert_array_equal(moved, at)
  with pytest.raises(ValueError, match='2 slots; say which positions'):
    gj.patch(model.config, 'resid_mid', source, layers=2)
  with pytest.raises(ValueError, match=r'\(1, 3\), expected \(2,\)'):
    gj.patch(model.config, 'resid_mid', source, source_positions=[1, 2, 3])


def test_a_prompts_own_activations_do_not_reach_generated_tokens():
  model = tiny.pair()[1]
  tokens, positions = batch('left')
  source = gj.run(model, tokens, positions, capture=gj.capture('resid_post'))
  change = gj.patch(
    model.config,
    'resid_post',
    source.activations['resid_post'],
    source_positions=positions,
  )
  ask = {'max_new_tokens': 6, 'stop_ids': []}
  clean = gj.generate(model, tokens, positions, **ask)
  patched = gj.generate(
    model, tokens, positions, interventions={'resid_post': (change,)}, **ask
  )
  np.testing.assert_array_equal(clean.tokens, patched.tokens)


def test_run_refuses_what_does_not_fit():
  model = tiny.pair()[1]
  config = model.config
  other = gj.ModelConfig.gemma2_2b()
  steer = lambda c, **k: gj.steer(
    c, 'resid_post', np.ones(c.d_model), layers=0, **k
  )
  rows = steer(config, coefficient=[1.0, 2.0])
  cases = [
    ({'resid_post': (steer(other),)}, 'axis 1 must be 5'),
    ({'resid_post': (rows,)}, '2 rows; the batch has 3'),
    ({'attn_logits': (steer(config),)}, 'does not take a Edit'),
    ({'pattern': (steer(config),)}, "'pattern'"),
    (
      {'resid_post': (steer(config, positions=10, num_positions=T),)},
      'of row 1 .*0 to 8: it would do nothing',
    ),
  ]
  short = steer(config, positions=np.ones((1, 8)), num_positions=8)
  cases += [
    ({'resid_post': steer(config)}, 'give a tuple'),
    ({'resid_post': (short,)}, 'num_positions=12 or more'),
  ]
  for interventions, words in cases:
    with pytest.raises((ValueError, KeyError), match=words):
      logits_of(model, interventions)
  tokens, positions = batch()
  late = gj.steer(config, 'resid_post', np.ones(40), layers=3)
  with pytest.raises(ValueError, match='only layers 0 to 2 are run'):
    gj.run(
      model,
      tokens,
      positions,
      interventions={'resid_post': (late,)},
      num_layers=3,
    )
