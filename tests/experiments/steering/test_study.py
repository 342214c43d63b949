"""The whole experiment on a planted model, whose every number is known."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from experiments.latents import LatentId
from experiments.steering import arms as arms_lib
from experiments.steering import divergence, tables
from experiments.steering import study as study_lib
from experiments.steering.arms import standard_arms
from experiments.steering.doses import (
  best_dose,
  published_alpha,
  stream_norms,
)
from experiments.steering.outcomes import by_arm
from experiments.steering.study import SteeringOptions, Strength, steer
import gemma_jax as gj
from tests.experiments.steering import planted
from tests.experiments.steering.conftest import run_study


def arm_of(results, name):
  return next(arm for arm in results['arms'] if arm['name'] == name)


def rate(results, name, entity_class, scope='all', outcome='refusal'):
  arm = arm_of(results, name)
  return arm['counts'][entity_class][scope][outcome]['value']


def test_outcomes_are_those_planted(study, questions):
  results, examples = study
  assert rate(results, 'original', 'unknown') == 1
  assert rate(results, 'original', 'known') == 0
  assert rate(results, '+ unknown', 'known') == 1
  assert rate(results, '+ known', 'unknown') == 0
  assert rate(results, 'mean difference to unknown', 'known') == 1
  for label in ('known', 'unknown'):
    for way in ('exact', 'reference'):
      assert rate(results, f'{label} weight ablation, {way}', 'unknown') == 0
  # One of five entities of each type is of Rome; the model says Paris.
  for name, entity_class in (('original', 'known'), ('+ known', 'unknown')):
    for scope in ('player', 'city', 'all'):
      assert rate(results, name, entity_class, scope, 'correct') == 0.8
      assert rate(results, name, entity_class, scope, 'hallucination') == 0.2
  random = [a for a in results['arms'] if a['kind'] == 'random latent']
  assert len(random) == 8
  for arm in random:
    assert rate(results, arm['name'], 'known') == 0
    assert rate(results, arm['name'], 'unknown') == 1
  isotropic = [e for e in examples if 'direction' in e['arm']]
  assert {e['text'] for e in examples if e not in isotropic} == {
    'Paris',
    'sorry',
  }
  assert len(examples) == len(results['arms']) * len(questions)


def test_effects_are_paired(study):
  results, _ = study
  effect = arm_of(results, '+ unknown')['effects']['known']
  assert (effect['all']['gained'], effect['all']['lost']) == (10, 0)
  assert effect['all']['p'] == pytest.approx(2 * 0.5**10)
  assert effect['player']['p'] == pytest.approx(2 * 0.5**5)
  assert effect['player']['q'] >= effect['player']['p']
  difference = effect['all']['differences']
  assert difference['refusal']['value'] == 1
  assert difference['refusal']['low'] > 0.5
  assert difference['correct']['value'] == -0.8
  assert effect['all']['by_entity']['low'] == 1


def test_the_latent_among_its_controls(study):
  results, _ = study
  found = {
    (c['target'], c['kind']): c for c in results['controls'] if c['chosen']
  }
  latents = found['unknown', 'random latent']['classes']['known']['all']
  assert latents['arms'] == 4 and latents['mean'] == latents['sd'] == 0
  assert (latents['low'], latents['high'], latents['steered']) == (0, 0, 1)
  assert latents['steered_rank'] == 1
  assert latents['steered_p'] == pytest.approx(1 / 5)
  assert latents['steered_excess']['value'] == 1
  # The opposite sign takes no refusal away where there is none.
  assert latents['reversed'] == 0 and latents['reversed_p'] == 1
  # Nothing can be lowered where nothing is refused.
  known = found['known', 'random latent']['classes']['known']['all']
  assert known['steered_p'] == 1 and known['steered_rank'] == 5
  directions = found['known', 'random direction']['classes']['known']['all']
  assert directions['arms'] == 4
  # All controls are there at every dose.
  swept = [
    (c['dose'], c['classes']['known']['all']['arms'])
    for c in results['controls']
    if (c['target'], c['kind']) == ('unknown', 'random latent')
  ]
  assert swept == [(pytest.approx(0.1), 4), (pytest.approx(1.0), 4)]


def test_a_dose_is_specific_where_three_things_hold(study):
  results, _ = study
  (found,) = (
    one for one in results['specificity'] if one['target'] == 'unknown'
  )
  small, large = found['doses']
  assert (small['change'], large['change'], large['reversed']) == (0, 1, 0)
  assert not small['sufficient'] and large['sufficient']
  assert large['sign_flips']
  # Four controls are too few to be sure: one of five is the latent itself.
  assert large['p'] == {
    kind: pytest.approx(1 / 5) for kind in ('random latent', 'random direction')
  }
  assert not large['beyond_controls'] and found['specific_doses'] == []
  assert 'no specific dose' in tables.verdict(found)
  sure = found | {
    'doses': [small, large | {'specific': True}],
    'specific_doses': [1.0],
  }
  assert 'is specific for questions about known entities' in tables.verdict(
    sure
  )


def test_doses_are_in_units_of_the_stream(study, questions):
  results, _ = study
  norm = stream_norms(
    planted.model(),
    questions,
    'resid_post',
    [planted.LAYER],
    'entity_last_to_end',
    rows_per_batch=8,
  )[planted.LAYER]
  # The stream, token by token, from one run per question.
  by_hand = []
  for question in questions:
    out = gj.run(
      planted.model(),
      [list(question.ids)],
      capture=gj.capture('resid_post', layers=planted.LAYER),
    )
    x = np.asarray(out['resid_post'])[0, 0, question.span[1] - 1 :]
    by_hand.append(np.linalg.norm(x, axis=-1).mean())
  assert norm.value == pytest.approx(np.mean(by_hand), rel=1e-5)
  known = results['targets']['known']
  assert known['added_norm'] == 5 and known['alpha'] == 10
  assert known['dose'] == pytest.approx(5 / norm.value, rel=1e-5)
  assert known['mean_difference_cosine'] == pytest.approx(5 / 26**0.5)
  chosen = results['targets']['unknown']
  assert chosen['dose'] == pytest.approx(1.0)
  id = str(planted.target('unknown').id)
  assert chosen['choice'] == {
    'split': 'validation',
    'entity_class': 'known',
    'n': 10,
    'goal': 0.9,
    'effect': 1.0,
    'reached': True,
    'before': 0.0,
    'tried': [
      {'id': id, 'dose': 0.1, 'steered': 0.0, 'reversed': 0.0},
      {'id': id, 'dose': 1.0, 'steered': 1.0, 'reversed': 0.0},
    ],
  }
  response = results['dose_response'][1]
  latent = [p for p in response['points'] if p['line'] == 'latent']
  assert [p['dose'] for p in latent] == pytest.approx([-1, -0.1, 0, 0.1, 1])
  rates = [p['counts']['known']['all']['refusal']['value'] for p in latent]
  assert rates == [0, 0, 0, 0, 1]
  assert [(r['line'], r['arms'], r['dose']) for r in response['random']] == [
    (f'random {kind}', 4, pytest.approx(dose))
    for kind in ('directions', 'latents')
    for dose in (0.1, 1.0)
  ]


def test_every_number_can_be_recomputed(study):
  """results.json and examples.jsonl agree, and are JSON."""
  results, examples = study
  again = [json.loads(json.dumps(example)) for example in examples]
  json.dumps(results, allow_nan=False)
  for name, records in by_arm(again).items():
    for entity_class in ('known', 'unknown'):
      mine = [r for r in records if r['class'] == entity_class]
      share = np.mean([r['outcome'] == 'refusal' for r in mine])
      assert share == rate(results, name, entity_class)
      for key in ('kl', 'kl_first', 'log_refusal'):
        found = arm_of(results, name)[key][entity_class]
        mean = np.mean([r[key] for r in mine])
        assert found['value'] == pytest.approx(mean, abs=1e-12)
        assert found['n'] == len(mine)
        assert found['low'] <= found['value'] <= found['high']


def test_arms_have_one_norm_and_their_own_names():
  made = standard_arms(
    [planted.target('known'), planted.target('unknown')],
    {'known': 10.0, 'unknown': 8.0},
    {'known': 2.5, 'unknown': 2.0},
    sweep=(1.0, 2.0),
  )
  assert len({arm.name for arm in made}) == len(made)
  assert made[0].kind == 'original' and not made[0].steers
  for arm in made:
    if arm.kind in ('steered', 'wrong sign', 'mean difference'):
      size = {'known': 5, 'unknown': 4}[arm.target]
    elif arm.kind in arms_lib.RANDOM_KINDS:
      size = {'known': 5, 'unknown': 4}[arm.target]
    else:
      continue
    added = arm.coefficient * arm.direction
    assert np.linalg.norm(added) == pytest.approx(size)
    assert abs(arm.dose) == pytest.approx(2.0)
  signs = {a.name: np.sign((a.coefficient * a.direction)[3]) for a in made[1:4]}
  assert signs == {'+ known': -1, '- known': 1, 'mean difference to known': -1}
  kinds = [arm.kind for arm in made if arm.target == 'known']
  assert {kind: kinds.count(kind) for kind in sorted(set(kinds))} == {
    'mean difference': 1,
    'weight ablation': 2,
    'random direction': 20,
    'random latent': 4,
    'steered': 1,
    'sweep': 1,
    'sweep of mean difference': 1,
    'sweep of random directions': 20,
    'sweep of random latents': 4,
    'sweep of wrong sign': 1,
    'wrong sign': 1,
  }


def test_published_coefficients_belong_to_their_models():
  assert published_alpha('google/gemma-2-2b-it', 'unknown') == 400
  assert published_alpha('/models/gemma-2-9b-it/', 'unknown') == 550
  for other in ('google/gemma-2-27b-it', 'google/gemma-2-2b', 'bundle/chat'):
    with pytest.raises(ValueError, match='--dose'):
      published_alpha(other, 'known')


def tried(*rows):
  return [
    dict(zip(('dose', 'steered', 'reversed'), r, strict=True)) for r in rows
  ]


def test_best_dose():
  # What both signs do is damage: dose 2 is no better than nothing.
  rates = tried((0.5, 0.3, 0.1), (1.0, 0.7, 0.1), (2.0, 0.9, 0.9))
  chosen, effect = best_dose(rates, 0.1, 'unknown')
  assert chosen['dose'] == 1.0 and effect == pytest.approx(0.6)
  # The smallest of nearly equal ones; and the best of equal doses.
  rates = tried((1.0, 0.8, 0.0), (2.0, 0.84, 0.0), (1.0, 0.82, 0.0))
  assert best_dose(rates, 0.0, 'unknown')[0] is rates[2]
  down = tried((1.0, 0.95, 1.0), (2.0, 0.2, 1.0))
  chosen, effect = best_dose(down, 0.9, 'known')
  assert chosen['dose'] == 2.0 and effect == pytest.approx(0.7)


def test_layer_is_chosen_by_effect(questions, tmp_path):
  """Of two candidates the one that acts, though it comes second."""
  idle = dataclasses.replace(
    planted.target('unknown'),
    id=LatentId('resid_post', 0, 5),
    direction=planted.NOTHING[1],
  )
  results, _ = steer(
    planted.model(),
    planted.tokenizer(),
    questions,
    [idle, planted.target('unknown')],
    {'unknown': Strength(goal=0.9, grid=(0.1, 1.0))},
    SteeringOptions(num_random_directions=2, sweep=(1.0,), weight_ablation=()),
    validation=questions,
  )
  target = results['targets']['unknown']
  assert target['id'] == str(planted.target('unknown').id)
  assert len(target['choice']['tried']) == 4


def test_continuous_effect_and_divergence_on_text(study, questions):
  """log P(refusal) and KL on text, from runs of one row."""
  results, examples = study
  records = by_arm(examples)
  model, tok = planted.model(), planted.tokenizer()
  sorry = tok.encode('sorry', bos=False)[0]
  for q, question in enumerate(questions[:3]):
    logits = gj.run(model, [list(question.ids)], logits_at='last').logits[0, 0]
    logp = np.asarray(logits, float)
    want = logp[sorry] - np.log(np.exp(logp - logp.max()).sum()) - logp.max()
    found = records['original'][q]['log_refusal']
    assert found == pytest.approx(want, abs=1e-4)
  assert results['texts'] > 1
  assert arm_of(results, 'original')['text']['value'] == 0
  assert arm_of(results, '+ unknown')['text']['value'] > 0
  matched = {one['matched_on'] for one in results['matched_kl']}
  assert matched == {'text', 'unflipped', 'same_decision', 'same_questions'}


def test_an_amount_is_one_thing(questions):
  with pytest.raises(ValueError, match='exactly one'):
    Strength(alpha=1.0, dose=2.0)
  with pytest.raises(ValueError, match='exactly one'):
    Strength()
  with pytest.raises(ValueError, match='no validation questions about known'):
    steer(
      planted.model(),
      planted.tokenizer(),
      questions,
      [planted.target('unknown')],
      {'unknown': Strength(goal=0.5)},
      SteeringOptions(),
    )


def test_the_dose_is_chosen_for_what_is_then_done(
  questions, tmp_path, monkeypatch
):
  """With generated tokens steered, they are while a dose is chosen, too."""
  steered = {}
  answer = study_lib.generate_answers

  def spy(model, questions, arms, *, folder, **options):
    steered[folder.name] = {arm.generated for arm in arms if arm.steers}
    return answer(model, questions, arms, folder=folder, **options)

  monkeypatch.setattr(study_lib, 'generate_answers', spy)
  steer(
    planted.model(),
    planted.tokenizer(),
    questions,
    [planted.target('unknown')],
    {'unknown': Strength(goal=0.5, grid=(1.0,))},
    SteeringOptions(
      generated=True,
      num_random_directions=0,
      sweep=(),
      weight_ablation=(),
      max_new_tokens=2,
    ),
    validation=questions,
    folder=tmp_path,
  )
  assert steered == {'choose-unknown': {True}, 'answers': {True}}


def test_resumes_and_refuses_other_work(
  study, study_folder, questions, tmp_path, monkeypatch
):
  folder = tmp_path / 'copy'
  shutil.copytree(study_folder, folder)
  files = sorted((folder / 'answers').glob('0*.json'))
  assert len(files) == len(study[0]['arms'])  # 20 rows each
  measured = sorted((folder / 'divergence').glob('0*.json'))
  assert len(measured) == len(files) - 1  # not the original
  for file in [*files[1:4], files[-1], measured[2]]:
    file.unlink()  # as if killed, and later ones done
  ran = []
  generate, steering = gj.generate, divergence.steering
  monkeypatch.setattr(
    gj, 'generate', lambda *a, **k: ran.append('answers') or generate(*a, **k)
  )
  monkeypatch.setattr(
    divergence,
    'steering',
    lambda *a, **k: ran.append('divergence') or steering(*a, **k),
  )
  assert run_study(questions, folder) == study
  assert ran == ['answers'] * 4 + ['divergence']
  assert run_study(questions, folder) == study
  assert len(ran) == 5, 'nothing is done twice'
  with pytest.raises(ValueError, match='another run.*max_new_tokens=8'):
    run_study(questions, folder, max_new_tokens=9)
  assert len(ran) == 5
  assert run_study(questions, folder) == study and len(ran) == 5


def test_does_other_work_again_if_told_to(
  study, study_folder, questions, tmp_path, monkeypatch
):
  """Only what depends on what changed; and then resumes that."""
  folder = tmp_path / 'copy'
  shutil.copytree(study_folder, folder)
  (folder / '.answers.before').mkdir()  # left by a kill
  ran = []
  generate = gj.generate

  def counted(*args, **kwargs):
    ran.append(1)
    if len(ran) == 3:
      raise KeyboardInterrupt
    return generate(*args, **kwargs)

  monkeypatch.setattr(gj, 'generate', counted)
  fewer = {'weight_ablation': (), 'redo': True}
  with pytest.raises(KeyboardInterrupt):
    run_study(questions, folder, **fewer)
  kept = sorted((folder / 'answers').glob('0*.json'))
  assert len(kept) == 2, 'the old ones are gone, two new ones are there'
  results, _ = run_study(questions, folder, **fewer)
  # The dose was chosen without what was left out: it is not chosen again.
  assert len(ran) == 1 + len(results['arms'])
  assert len(results['arms']) == len(study[0]['arms']) - 4
  assert rate(results, '+ unknown', 'known') == 1
  assert not (folder / '.answers.before').exists()


def test_refusals_at_matched_divergence(study):
  """Recomputed from the records, by a loop over doses."""
  results, examples = study
  records = by_arm(examples)
  mean = lambda name, of: np.mean(
    [of(r) for r in records[name] if r['class'] == 'known']
  )
  kl, change = [0.0], [0.0]
  for name in ('+ unknown at dose 0.1', '+ unknown'):
    kl.append(mean(name, lambda r: r['kl']))
    change.append(mean(name, lambda r: r['outcome'] == 'refusal'))
  assert 0 < kl[1] < kl[2]
  (found,) = (
    one
    for one in results['matched_kl']
    if (one['target'], one['class'], one['matched_on'])
    == ('unknown', 'known', 'same_questions')
  )
  lines = {line['line']: line for line in found['lines']}
  assert list(lines) == [
    'latent',
    'wrong sign',
    'mean difference',
    'random latents',
    'random directions',
  ]
  points = lines['latent']['points']
  assert [p['kl']['value'] for p in points] == pytest.approx(kl[1:])
  assert lines['latent']['largest_kl'] == pytest.approx(kl[2])
  for level in lines['latent']['levels']:
    if level['kl'] > kl[2]:
      assert level['change']['value'] is None
    else:
      expected = np.interp(level['kl'], kl, change)
      assert level['change']['value'] == pytest.approx(expected)
  # Nothing but S makes it decline, at any divergence.
  for level in lines['random latents']['levels']:
    assert not level['change']['value']
