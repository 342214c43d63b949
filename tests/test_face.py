"""The six things that a researcher does first, each in at most six lines.

The body of every `task_*` function is what they would type; the tests count its
lines and check what it did.
"""

import inspect
import pathlib

import jax
import numpy as np
import pytest

import gemma_jax as gj
from sae import load_sae

BUNDLE = pathlib.Path('experiments/miniworld/bundle')
FOLDER = pathlib.Path(__file__).parents[1] / BUNDLE / 'base'
SAE = FOLDER.parent / 'saes'
PROMPTS = [
  'The player Babat Losol was born in the city of',
  'The player Babat Sunot was born in the city of',
]


def task_load():
  lm = gj.load_model(FOLDER)
  return lm, lm.generate(PROMPTS, max_new_tokens=1).texts


def task_cache(lm):
  out = lm.run(PROMPTS, capture=gj.capture('resid_post', layers=[2, 4]))
  return out, out['resid_post', 4]


def task_steer_while_generating(lm, direction):
  steer = gj.steer('resid_post', direction, layers=3, coefficient=8.0)
  return lm.generate(PROMPTS, interventions=[steer], max_new_tokens=4)


def task_patch_a_head(lm):
  donor = lm.run(PROMPTS[::-1], capture=gj.capture('z'))
  patch = gj.patch('z', source=donor, layers=5, heads=3, positions='last')
  return lm.run(PROMPTS, interventions=[patch], logits_at='last').logits


def task_cut_attention(lm):
  name = lm.tokenizer.find_span(PROMPTS[0], 'Babat Losol')
  cut = gj.knock_out_attention(queries='last', keys=name, layers=range(2, 6))
  return lm.run(PROMPTS, interventions=[cut], logits_at='last').logits


def task_clamp_a_latent(lm):
  sae = load_sae(SAE, 'layer_3/width_768/average_l0_24')
  clamp = gj.clamp_latents(sae.select([3, 7]), value=0.0)
  return lm.run(
    PROMPTS, interventions=[clamp, gj.splice(sae)], logits_at='last'
  )


@pytest.fixture(scope='module')
def lm():
  return task_load()[0]


@pytest.fixture(scope='module')
def clean(lm):
  return np.asarray(lm.run(PROMPTS, logits_at='last').logits)


@pytest.mark.parametrize(
  'task', [v for k, v in globals().items() if k.startswith('task_')]
)
def test_a_task_takes_at_most_six_lines(task):
  body = inspect.getsource(task).strip().split('\n')[1:]
  assert len(body) <= 6


def test_load():
  lm, texts = task_load()
  assert lm.config == gj.read_config(FOLDER)
  assert len(texts) == 2 and all(texts)
  # What the low-level functions do with the same text.
  model, tokenizer = gj.load_checkpoint(FOLDER), lm.tokenizer
  ids = gj.generate(
    model, *tokenizer.encode_batch(PROMPTS), max_new_tokens=1
  ).tokens
  assert texts == [tokenizer.decode(row) for row in np.asarray(ids)]


def test_cache(lm):
  out, x = task_cache(lm)
  tokens, positions = lm.tokenize(PROMPTS)
  plain = gj.forward(
    lm.model, tokens, positions, capture=gj.Capture(sites=('resid_post',))
  )
  assert x.shape == (*tokens.shape, lm.config.d_model)
  real = positions >= 0
  want = np.asarray(plain['resid_post'])
  np.testing.assert_allclose(x[real], want[4][real], atol=1e-4)
  np.testing.assert_allclose(
    out['resid_post'][0][real], want[2][real], atol=1e-4
  )
  with pytest.raises(KeyError, match=r'captured at layers \[2, 4\], not 3'):
    out['resid_post', 3]
  with pytest.raises(KeyError, match="'z' was not captured"):
    out['z', 3]


def test_steer_while_generating(lm):
  rng = np.random.default_rng(0)
  direction = rng.standard_normal(lm.config.d_model)
  steered = task_steer_while_generating(lm, direction)
  nothing = task_steer_while_generating(lm, 0 * direction)
  plain = lm.generate(PROMPTS, max_new_tokens=4)
  assert nothing.texts == plain.texts
  assert steered.texts != plain.texts


def test_patch_a_head(lm, clean):
  """A head's z replaced by hand, as an array, gives the same."""
  logits = np.asarray(task_patch_a_head(lm))
  donor = lm.run(PROMPTS[::-1], capture=gj.capture('z', positions='last'))
  lengths = [len(lm.tokenizer.encode(prompt)) for prompt in PROMPTS]
  by_hand = gj.patch(
    'z',
    donor['z', 5],
    layers=5,
    heads=[3],
    positions=gj.per_row([n - 1 for n in lengths]),
  )
  again = lm.run(PROMPTS, interventions=[by_hand], logits_at='last').logits
  np.testing.assert_array_equal(logits, again)
  assert np.abs(logits - clean).max() > 1e-4


def test_cut_attention(lm, clean):
  """A span is a stretch of tokens, not two of them."""
  logits = np.asarray(task_cut_attention(lm))
  start, stop = lm.tokenizer.find_span(PROMPTS[0], 'Babat Losol')
  assert stop - start > 1
  cut = gj.knock_out_attention(
    queries='last', keys=list(range(start, stop)), layers=[2, 3, 4, 5]
  )
  again = lm.run(PROMPTS, interventions=[cut], logits_at='last').logits
  np.testing.assert_array_equal(logits, again)
  assert np.abs(logits - clean).max() > 1e-2


def test_clamp_a_latent(lm, clean):
  """Clamped and spliced: the reconstruction without the two latents."""
  logits = np.asarray(task_clamp_a_latent(lm).logits)
  sae = load_sae(SAE, 'layer_3/width_768/average_l0_24')
  x = np.asarray(
    lm.run(PROMPTS, capture=gj.capture('resid_post', layers=3))['resid_post', 3]
  )
  f = np.asarray(sae.encode(x))
  clamped = f.copy()
  clamped[..., [3, 7]] = 0
  made = np.asarray(sae(x + np.asarray(sae.decode(clamped) - sae.decode(f))))
  _, positions = lm.tokenize(PROMPTS)
  put = gj.patch(
    'resid_post', made, layers=3, source_positions=gj.per_row(positions)
  )
  again = lm.run(PROMPTS, interventions=[put], logits_at='last').logits
  np.testing.assert_allclose(logits, again, atol=1e-3)
  assert np.abs(logits - clean).max() > 1e-3


def test_prompts_of_a_model_without_a_tokenizer_are_tokens(lm):
  bare = gj.LanguageModel(name='bare', model=lm.model, tokenizer=None)
  with pytest.raises(ValueError, match='bare has no tokenizer.json'):
    bare.run(PROMPTS)
  tokens = np.array([[2, 5, 6, 7]])
  out = bare.run(tokens, logits_at='last')
  want = gj.run(lm.model, tokens, logits_at='last')
  np.testing.assert_array_equal(out.logits, want.logits)
  assert bare.generate(tokens, max_new_tokens=2).texts == []


def test_a_tokenizer_of_another_model_is_refused(lm, tmp_path):
  small = gj.FAMILIES['gemma2'].config(
    num_layers=1,
    d_model=8,
    d_ff=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    vocab_size=100,
    query_pre_attn_scalar=4,
  )
  gj.save_checkpoint(gj.init_model(small, jax.random.key(0)), tmp_path / 'm')
  text = (FOLDER / 'tokenizer.json').read_text()
  (tmp_path / 'm' / 'tokenizer.json').write_text(text)
  with pytest.raises(ValueError, match='100'):
    gj.load_model(tmp_path / 'm')
