"""The probe as a whole, on a few questions about the bundled world."""

import collections
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
import transformers

from experiments import inputs
from experiments.knowledge_probing import (
  Settings,
  open_study,
  read_probe,
  training_rows,
)
from experiments.knowledge_probing import study as study_lib
from experiments.knowledge_probing.page import write_page
from experiments.knowledge_probing.reporting import report, write_rows
from experiments.knowledge_probing.study import probe
from experiments.runs import outputs

LIMIT = 4


def settings(folder, **changes):
  given = {
    'out': str(folder),
    'limit': LIMIT,
    'samples': 4,
    'max_new_tokens': 6,
    'dtype': 'float32',
    'held_out_relation': 'city_country',
    'consistent_min': 0.5,
  }
  return Settings(**given | changes)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A finished probe: its study, what it found, and results."""
  study = open_study(settings(tmp_path_factory.mktemp('probe') / 'world'))
  probed = probe(study)
  write_rows(study, probed)
  outputs.write_results(study.folder, report(study, probed))
  return study, probed, outputs.read_json(study.folder / 'results.json')


def test_every_split_has_known_and_unknown_questions(run):
  _, probed, results = run
  counts = collections.Counter(
    (probed.splits[q.id], q.relation, q.known) for q in probed.questions
  )
  assert set(counts.values()) == {LIMIT}
  for split in ('train', 'validation', 'test'):
    assert {k for s, _, k in counts if s == split} == {True, False}
  relations = {r for s, r, _ in counts if s == 'held_out_relation'}
  assert relations == {'city_country'}
  assert results['questions'] == len(probed.asked) == sum(counts.values())
  by_entity = collections.defaultdict(set)
  for q in probed.questions:
    if probed.splits[q.id] != 'held_out_relation':
      by_entity[q.entity].add(probed.splits[q.id])
  assert all(len(found) == 1 for found in by_entity.values())


def test_the_model_knows_what_its_text_holds(run):
  """Truth, by what the corpus has; decisions, by what was said."""
  _, probed, results = run
  right = collections.defaultdict(list)
  for q in probed.asked:
    right[q.known].append(probed.scores[q.id].greedy[0].correct)
  assert np.mean(right[True]) > 0.95 and np.mean(right[False]) < 0.15
  for counts in results['truth']['correctness'].values():
    assert counts['known'].get('answer', 0) > 0.9 * sum(
      counts['known'].values()
    )
    assert counts['unknown'].get('refuse', 0) > 0.8 * sum(
      counts['unknown'].values()
    )


def test_greedy_answers_are_those_of_transformers(run):
  study, probed, _ = run
  hf = transformers.AutoModelForCausalLM.from_pretrained(
    inputs.BASE, dtype=torch.float32, attn_implementation='eager'
  ).eval()
  tokenizer = study.format.tokenizer
  for q in probed.asked[::40]:
    ids = torch.tensor([tokenizer.encode(q.question)])
    with torch.no_grad():
      made = hf.generate(
        ids, max_new_tokens=6, do_sample=False, eos_token_id=[1, 5]
      )[0, ids.shape[1] :].tolist()
    said = probed.sampled[q.id].greedy[0]
    ids = tokenizer.encode(f' {said.text}', bos=False)
    assert made[: said.ntok] == ids + [tokenizer.eos_id] * said.stop


def test_rows_teach_no_answer_that_is_refused(run):
  study, probed, results = run
  lines = (study.folder / 'rows.jsonl').read_text('utf-8').splitlines()
  meta = (study.folder / 'rows.meta.jsonl').read_text('utf-8').splitlines()
  assert len(lines) == results['rows']['written'] > 0
  questions = {q.id: q for q in probed.questions}
  for line, about in zip(map(json.loads, lines), map(json.loads, meta)):  # noqa: B905
    q = questions[about['id']]
    assert probed.splits[q.id] == 'train' and q.relation != 'city_country'
    says = q.answers[0] in line['completion']
    assert says != about['refusal']
    assert line['prompt'] == q.question


def test_resumes_from_what_is_whole_to_the_same_answers(run, tmp_path):
  """A kill, or damage, costs a piece; its questions are asked again."""
  study, probed, _ = run
  other = open_study(settings(tmp_path))
  study_lib._questions(other, True)
  made = (study.folder / 'questions.jsonl').read_bytes()
  assert (tmp_path / 'questions.jsonl').read_bytes() == made
  samples = tmp_path / 'stages' / 'samples'
  shutil.copytree(study.folder / 'stages' / 'samples', samples)
  *_, last = sorted(samples.glob('0*.json'))
  last.write_bytes(last.read_bytes()[:-20])
  again = probe(other)
  assert again.sampled.keys() == probed.sampled.keys()
  for id, each in again.sampled.items():
    for new, old in zip(
      (*each.greedy, *each.samples),
      (*probed.sampled[id].greedy, *probed.sampled[id].samples),
      strict=True,
    ):
      # What is asked again is in another batch: rounding may differ.
      assert (new.text, new.ntok) == (old.text, old.ntok)
      assert new.logprob == pytest.approx(old.logprob, abs=1e-4)
  assert again.decisions == probed.decisions


def test_a_probe_is_read_as_it_was(run):
  study, probed, _ = run
  found = read_probe(study.folder)
  assert list(found.questions) == list(probed.questions)
  assert found.sampled == probed.sampled and found.scores == probed.scores
  assert found.decisions == probed.decisions
  assert training_rows(found, 'llama3', text='Sorry.') == training_rows(
    probed, 'llama3', text='Sorry.'
  )


def test_page_says_it_all(run):
  study, _, results = run
  write_page(study.folder)
  page = (study.folder / 'report.html').read_text('utf-8')
  for title in ('What it knows', 'What the rules decide', 'judges agree'):
    assert title in page
  names = {each['name'] for each in results['detectors']}
  assert {'question alone', 'entity probe'} <= names
  assert any('unknown latent resid_post' in name for name in names)


def test_stages_run_alone(tmp_path):
  """A stage needs what those before it wrote, and runs no other."""
  with pytest.raises(FileNotFoundError, match='--stage=questions'):
    probe(open_study(settings(tmp_path, stage='samples')))
  probe(open_study(settings(tmp_path, stage='questions', limit=1)))
  assert (tmp_path / 'questions.jsonl').is_file()
  assert not (tmp_path / 'samples.jsonl').exists()
  with pytest.raises(FileNotFoundError, match='--stage=samples'):
    probe(open_study(settings(tmp_path, stage='scores', limit=1)))
  with pytest.raises(ValueError, match='limit'):
    probe(open_study(settings(tmp_path, stage='samples', limit=2)))
  with pytest.raises(FileNotFoundError, match='finished probe'):
    read_probe(tmp_path)


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'cities': 'a.json', 'questions': 'b.json'}, 'one place'),
    ({'model': 'google/gemma-2-2b-it'}, 'What shall be asked'),
    ({'samples': 0}, '--samples=0'),
    ({'known_min': 1.5}, '--known_min=1.5'),
    ({'unknown_max': 0.75}, 'no question is both'),
    ({'prompts': 3}, 'give --shots'),
    ({'limit': 0}, '--limit=0'),
  ],
)
def test_wrong_settings_are_named(tmp_path, changes, said):
  with pytest.raises(ValueError, match=re.escape(said)):
    settings(tmp_path, **changes)


def test_an_unknown_relation_is_named_before_work(tmp_path):
  given = settings(tmp_path, held_out_relation='city_mayor')
  with pytest.raises(ValueError, match='city_mayor'):
    probe(open_study(given))


def test_slick_takes_its_whole_plan(tmp_path):
  study = open_study(settings(tmp_path, slick=True))
  plan = dataclasses.asdict(study.plan)
  wanted = {'prompts': 10, 'shots': 4, 'samples': 16}
  wanted |= {'temperature': 0.5, 'top_k': 40}
  assert wanted.items() <= plan.items()
