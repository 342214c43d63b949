"""SAEs of another model are refused where they are read."""

import numpy as np
import pytest

from experiments import inputs
from experiments.entities import activation_prompt, read_entities
from experiments.entity_recognition import pipeline, plan
from experiments.entity_recognition.settings import Settings
from experiments.harvest import __main__ as harvest
from experiments.inputs import sae_fit
from experiments.inputs.sae_fit import check_fit
import gemma_jax as gj
from sae import Origin, save_gemma_scope
from sae.jumprelu import JumpReLUSAE
from sae.metrics.evaluation import evaluate
from tests.experiments import worlds

LAYERS = range(8)
LIMIT, PART = sae_fit.MOST_FVU, sae_fit.MOST_OF_PERMUTED


@pytest.fixture(autouse=True)
def limit(planted_saes_fit, monkeypatch):
  """The real one."""
  monkeypatch.setattr(sae_fit, 'MOST_FVU', LIMIT)
  monkeypatch.setattr(sae_fit, 'MOST_OF_PERMUTED', PART)


@pytest.fixture(scope='module')
def base():
  return gj.load_model(inputs.BASE)


@pytest.fixture(scope='module')
def saes():
  reader = gj.CheckpointReader(inputs.BASE)
  layers = list(LAYERS)
  named = inputs.choose_saes(str(inputs.SAES), reader.config, layers=layers)
  return [each.load(reader) for each in named]


@pytest.fixture(scope='module')
def texts():
  entities = read_entities(inputs.ENTITIES)
  return [activation_prompt(e).text for of in entities.values() for e in of]


def at_layer(sae: JumpReLUSAE, layer: int) -> JumpReLUSAE:
  """The same, said to read another layer."""
  return JumpReLUSAE(sae.weights(), Origin(site='resid_post', layer=layer))


def of_another_model(sae: JumpReLUSAE) -> JumpReLUSAE:
  """The same with its D directions in another order."""
  order = np.random.default_rng(0).permutation(sae.d_in)
  w = sae.weights()
  moved = w._replace(
    W_enc=w.W_enc[order], W_dec=w.W_dec[:, order], b_dec=w.b_dec[order]
  )
  return JumpReLUSAE(moved, sae.origin)


def test_bundled_saes_fit_their_model_and_its_chat_model(base, saes, texts):
  """Far from the limit: by a factor of four."""
  for model in (base, gj.load_model(inputs.CHAT)):
    found = check_fit(model.model, base.tokenizer, saes, texts, 'the model')
    assert len(found) == len(LAYERS)
    assert 0 < min(found) and max(found) < LIMIT / 4


def test_the_number_is_that_of_evaluate_sae(base, saes, texts):
  (fvu,) = check_fit(base.model, base.tokenizer, saes[3:4], texts[:16], 'it')
  batch = gj.pad_rows([base.tokenizer.encode(t) for t in texts[:16]], 0)
  x = base.run(batch, capture=gj.capture('resid_post', layers=3))
  known = np.asarray(batch.positions) > 0
  want = evaluate(saes[3], [(x['resid_post', 3], known)]).fvu
  assert fvu == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize('layer', LAYERS)
def test_saes_of_another_model_are_refused(layer, base, saes, texts):
  wrong = of_another_model(saes[layer])
  with pytest.raises(ValueError, match=r'does not fit the base.*FVU') as error:
    check_fit(base.model, base.tokenizer, [wrong], texts, 'the base')
  assert f'resid_post of layer {layer}' in str(error.value)


def test_saes_of_distant_layers_are_refused(base, saes, texts):
  for wrong in (at_layer(saes[0], 6), at_layer(saes[6], 0)):
    with pytest.raises(ValueError, match='another model, layer or site'):
      check_fit(base.model, base.tokenizer, [saes[2], wrong], texts, 'it')


def test_an_sae_without_finite_numbers_is_no_fit(base, saes, texts):
  w = saes[1].weights()
  wrong = JumpReLUSAE(w._replace(b_dec=w.b_dec * np.nan), saes[1].origin)
  with pytest.raises(ValueError, match='leaves nan'):
    check_fit(base.model, base.tokenizer, [wrong], texts, 'it')


def test_next_to_no_text_says_nothing(base, saes):
  assert check_fit(base.model, base.tokenizer, saes, [''], 'it') == []
  assert check_fit(base.model, base.tokenizer, [], ['x'], 'it') == []


@pytest.fixture(scope='module')
def wrong_folder(saes, tmp_path_factory):
  folder = tmp_path_factory.mktemp('wrong') / 'saes'
  save_gemma_scope(of_another_model(saes[2]), folder, l0=15, normalise=True)
  return folder


def test_harvest_refuses_them(wrong_folder, tmp_path, capsys):
  arguments = f'--out={tmp_path}/out', f'--sae={wrong_folder}', '--limit=20'
  assert worlds.run(harvest, *arguments) == 1
  assert 'does not fit miniworld' in capsys.readouterr().err


def test_the_main_job_refuses_them_before_any_answer(wrong_folder, tmp_path):
  settings = Settings(out=str(tmp_path), sae=str(wrong_folder))
  stages = pipeline.RecognitionStages(plan.prepare(settings), settings)
  with pytest.raises(ValueError, match='layer 2 it leaves'):
    stages.label()
