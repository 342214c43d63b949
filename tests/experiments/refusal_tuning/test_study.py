"""The whole study on the bundled world: a small probe, one arm, and inside."""

import json

import numpy as np
import pytest
import torch
import transformers

from experiments import inputs
from experiments import knowledge_probing as probing
from experiments.knowledge_probing.reporting import report, write_rows
from experiments.knowledge_probing.study import probe
from experiments.refusal_tuning import steps
from experiments.refusal_tuning.opening import open_study
from experiments.refusal_tuning.page import summary, write_page
from experiments.refusal_tuning.settings import Settings
from experiments.refusal_tuning.study import run_study
from experiments.runs import outputs


@pytest.fixture(scope='module')
def probed(tmp_path_factory):
  """The folder of a small probe."""
  folder = tmp_path_factory.mktemp('probe')
  study = probing.open_study(
    probing.Settings(
      out=str(folder),
      limit=6,
      samples=4,
      max_new_tokens=8,
      dtype='float32',
      held_out_relation='city_country',
      consistent_min=0.5,
    )
  )
  found = probe(study)
  write_rows(study, found)
  outputs.write_results(folder, report(study, found))
  return folder


def settings(folder, probed, **changes):
  given = {
    'out': str(folder),
    'probe': str(probed),
    'arms': ('prompted', 'correctness'),
    'epochs': 20,
    'closely': 12,
    'layers': (2,),
    'text_tokens': 512,
    'max_new_tokens': 10,
  }
  return Settings(**given | changes)


@pytest.fixture(scope='module')
def run(probed, tmp_path_factory):
  """A finished study, and its results."""
  folder = tmp_path_factory.mktemp('tuned')
  study = open_study(settings(folder, probed))
  outputs.write_results(folder, run_study(study))
  return study, outputs.read_json(folder / 'results.json')


def arm(results, name):
  return next(each for each in results['arms'] if each['arm'] == name)


def test_it_declines_the_unknown_and_keeps_the_known(run):
  """By the truth of the world: entities that no row is about."""
  _, results = run
  found = arm(results, 'correctness')['test']['by_truth']
  assert found['prudence']['after']['value'] > 0.7
  assert found['over_conservativeness']['after']['value'] < 0.25
  before = arm(results, 'untuned')['test']['by_truth']
  assert before['prudence']['after']['value'] < 0.5


def test_rows_are_of_no_question_that_is_asked_again(run, probed):
  study, results = run
  asked = {q.entity for q in study.questions(steps.ASKED)}
  trained = {q.entity for q in study.questions(['train'])}
  held = {q.entity for q in study.questions(['held_out_relation'])}
  assert not trained & (asked - held)
  assert results['questions']['held_out_relation'] > 0
  assert arm(results, 'correctness')['training']['refusals'] > 10


def test_the_tuned_model_is_read_by_transformers(run):
  """Its greedy answers are those that the study has."""
  study, _ = run
  folder = study.folder / 'arms' / 'correctness' / 'model'
  hf = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, attn_implementation='eager'
  ).eval()
  tokenizer = study.probe.format.tokenizer
  path = study.folder / 'answers' / 'correctness' / 'answers.json'
  said = {row['id']: row['text'] for row in map(json.loads, path.open('rb'))}
  for q in study.questions(['test'])[::24]:
    ids = torch.tensor([tokenizer.encode(q.question)])
    with torch.no_grad():
      made = hf.generate(
        ids, max_new_tokens=10, do_sample=False, eos_token_id=[1, 5]
      )[0, ids.shape[1] :].tolist()
    text = tokenizer.decode(made, skip_special=True).strip()
    assert text == said[q.id]


def test_a_second_run_computes_nothing(run, probed, monkeypatch):
  study, results = run

  def refuse(*args, **kwargs):
    raise AssertionError('computed again')

  for name in ('look_inside', 'ask_again'):
    monkeypatch.setattr(steps, name, refuse)
  monkeypatch.setattr(steps.side_effects, 'perplexity', refuse)
  again = run_study(open_study(study.settings))
  again = json.loads(json.dumps(again | {'seconds': results['seconds']}))
  assert again['arms'] == results['arms']
  assert again['inside'] == results['inside']


def test_inside_has_every_part_and_a_verdict(run):
  _, results = run
  inside = results['inside']
  names = [each['kind'] for each in inside['weights']['components']]
  assert {'all', 'layers', 'attention', 'mlp', 'head'} <= set(names)
  whole = inside['weights']['components'][0]['into']['unknown']['share']
  assert whole['value'] == pytest.approx(1, abs=1e-3)
  assert inside['steering']['target'].startswith('resid_post.2/')
  assert len(inside['steering']['random']) >= 10
  assert {rule['name'] for rule in inside['verdict']['rules']} >= {
    'detected',
    'kept',
    'causes',
  }
  assert inside['detector_layer'] == 2


def test_side_effects_are_those_of_both_models(run):
  """Perplexity before is that of HF on the same rows."""
  study, results = run
  hf = transformers.AutoModelForCausalLM.from_pretrained(
    inputs.BASE, dtype=torch.float32, attn_implementation='eager'
  ).eval()
  rows = torch.tensor(study.text.astype(np.int64))
  with torch.no_grad():
    logits = hf(rows).logits[:, :-1]
  loss = torch.nn.functional.cross_entropy(
    logits.reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1)
  )
  found = arm(results, 'correctness')['side_effects']['perplexity']
  assert found['before']['value'] == pytest.approx(float(loss.exp()), rel=1e-3)


def test_page_says_it_all(run):
  study, results = run
  write_page(study.folder)
  page = (study.folder / 'report.html').read_text('utf-8')
  for title in ('repurposed, or made anew', 'What it cost', 'published'):
    assert title in page
  assert any('Untuned' in line for line in summary(results))


def test_a_foreign_probe_is_named(probed, tmp_path):
  with pytest.raises(FileNotFoundError, match='finished probe'):
    open_study(settings(tmp_path, tmp_path))
  other = tmp_path / 'other'
  other.mkdir()
  for file in probed.rglob('*.json*'):
    target = other / file.relative_to(probed)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.read_bytes())
  results = outputs.read_json(other / 'results.json')
  results['model']['fingerprint'] = 'f' * 64
  outputs.write_results(other, results)
  with pytest.raises(ValueError, match='Probe again'):
    open_study(settings(tmp_path, other))
  with pytest.raises(ValueError, match='--layers has 99'):
    open_study(settings(tmp_path, probed, layers=(99,)))
