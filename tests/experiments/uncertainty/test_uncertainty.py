"""The binary on a part of MiniWorld, whose answers are right or made up.

Which entities count as known is made up, too: it only names groups here.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn import metrics

from experiments import inputs
from experiments.entities import (
  Entity,
  EntitySplits,
  Split,
  prompt_types_of,
  read_entities,
  refusal_question,
  write_entities,
  write_records,
)
from experiments.inputs import sae_fingerprint
from experiments.uncertainty import (
  Answer,
  AnswerOptions,
  Asked,
  Data,
  SearchOptions,
  about_entities,
  answer,
  figures,
  find,
  judge,
  p_refusal,
  p_true,
)
from experiments.uncertainty import __main__ as uncertainty
from experiments.uncertainty.begun_answers import P_TRUE
from experiments.uncertainty.summary_text import sentences
import gemma_jax as gj
from tests.experiments import worlds

TYPES = ('city', 'song')
ENTITIES = 48
FEW = (
  '--num_samples=4',
  '--rows_per_batch=300',
  '--max_new_tokens=4',
  '--random_latents=5',
  '--layers=3,6',
  '--harvest_batch=32',
)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  """entities/ and labels/ of some entities; other questions in a file."""
  folder = tmp_path_factory.mktemp('world')
  every = read_entities(str(inputs.ENTITIES))
  few = {kind: every[kind][:ENTITIES] for kind in TYPES}
  write_entities(folder / 'entities', few)
  known = {entity.name for of in few.values() for entity in of[1::2]}
  write_records(
    folder / 'labels',
    worlds.records(few, lambda entity: entity.name in known),
  )
  others = [
    {
      'question': refusal_question(prompt_type, entity).text,
      'question_id': f'q{number}',
      'correct_answer': [entity.attributes[prompt_type.attribute], 'nothing'],
    }
    for number, entity in enumerate(every['player'][:60])
    for prompt_type in prompt_types_of(entity)[:1]
  ]
  (folder / 'others.json').write_text(json.dumps(others))
  return folder


def run(world, out, *arguments):
  return worlds.run(
    uncertainty,
    f'--entities={world / "entities"}',
    f'--labels={world / "labels"}',
    '--run=',
    '--answer_prefix=It is',
    f'--out={out}',
    *arguments,
  )


@pytest.fixture(scope='module')
def finished(world, tmp_path_factory):
  """The folder of a run."""
  out = tmp_path_factory.mktemp('run') / 'out'
  others = f'--transfer={world / "others.json"}'
  assert run(world, out, others, '--nop_true', *FEW) == 0
  return out


@pytest.fixture(scope='module')
def results(finished):
  return json.loads((finished / 'results.json').read_text())


@pytest.fixture(scope='module')
def chat():
  reader = inputs.open_model(str(inputs.CHAT))
  return reader.load(), inputs.read_tokenizer(reader)


def test_numbers_are_sklearns_of_the_kept_scores(finished, results):
  arrays = load_file(finished / 'effects.safetensors')
  lines = (finished / 'answers.jsonl').read_text().splitlines()
  used = [r for r in map(json.loads, lines) if r['used']]
  error = arrays['error'].astype(bool)
  assert [r['group'].startswith('error') for r in used] == error.tolist()
  kinds = np.array([r['type'] for r in used])
  places = {
    'test': np.array([r['split'] == 'test' for r in used])
    & (kinds != 'trivia'),
    'transfer': kinds == 'trivia',
  }
  assert (places['test'] == arrays['test'].astype(bool)).all()
  for one in results['detectors']:
    scores = arrays[f'score/{one["name"]}']
    for place, which in places.items():
      if place not in one:
        assert one['name'] == 'error rate of what is asked'
        continue
      found = one[place]
      mine, wrong = scores[which], error[which]
      assert found['auroc']['value'] == pytest.approx(
        metrics.roc_auc_score(wrong, mine), abs=1e-6
      )
      assert found['auroc']['n'] == which.sum()
      assert found['average_precision']['value'] == pytest.approx(
        metrics.average_precision_score(wrong, mine), abs=1e-4
      )
      assert found['f1_f1']['value'] == pytest.approx(
        metrics.f1_score(wrong, mine >= one['thresholds']['f1']), abs=0.02
      )
      assert found['auroc']['low'] <= found['auroc']['value']
    for kind in TYPES:
      which = places['test'] & (kinds == kind)
      assert one['types'][kind]['value'] == pytest.approx(
        metrics.roc_auc_score(error[which], scores[which]), abs=1e-6
      )
  assert results['n']['transfer']['clusters'] == places['transfer'].sum() == 60
  about_known = places['test'] & np.array([r['class'] == 'known' for r in used])
  for one in results['detectors']:
    assert one['known']['errors'] == (about_known & error).sum()
    assert one['known']['correct'] == (about_known & ~error).sum()
    assert one['known']['n'] == about_known.sum()


def test_what_miniworld_makes_up_is_found(results):
  """A made-up answer is less likely; the stream knows before it is given."""
  found = {each['name']: each['test']['auroc'] for each in results['detectors']}
  assert found['answer log-probability']['low'] > 0.7
  assert found['first-token entropy']['low'] > 0.7
  probes = [v for k, v in found.items() if k.startswith('linear probe')]
  assert probes and all(each['low'] > 0.5 for each in probes)
  for name in ('length of the question', 'error rate of what is asked'):
    assert found[name]['low'] < 0.6
  # And so on questions of another type, in another form.
  transfer = {
    each['name']: each['transfer']['auroc']
    for each in results['detectors']
    if 'transfer' in each
  }
  assert transfer['answer log-probability']['low'] > 0.6
  assert set(results['cross']) == set(TYPES)


def test_sentences_say_what_numbers_rest_on(results):
  said = sentences(few := json.loads(json.dumps(results)))
  known, controls = few['detectors'][0]['known'], few['controls']
  (line,) = (each for each in said if 'known entities alone' in each)
  numbers = known['errors'], known['correct']
  assert 'of {} errors and {} correct answers'.format(*numbers) in line
  known |= {'errors': 17, 'correct': 559}
  (line,) = (each for each in sentences(few) if 'known entities alone' in each)
  assert 'of 17 errors' in line and 'little to go by' in line
  known |= {'errors': 30, 'correct': 30}
  assert not any('little to go by' in each for each in sentences(few))
  (line,) = (each for each in said if 'random latents' in each)
  often = controls['frequencies']
  for frequency in (controls['frequency'], min(often), max(often)):
    assert f'{frequency:.1%}' in line
  assert 'whether or not they tell errors' in line


def test_what_is_kept_is_found_again(finished, world, monkeypatch):
  # Sums are of the SAEs' weights, whatever they are called.
  key = json.loads((finished / 'sums' / 'key.json').read_text())
  assert key['identity']['saes'] == [
    sae_fingerprint(one.load(inputs.open_model(str(inputs.CHAT))))
    for one in inputs.choose_saes(
      str(inputs.SAES),
      inputs.open_model(str(inputs.CHAT)).config,
      layers=[3, 6],
    )
  ]
  before = (finished / 'results.json').read_bytes()
  monkeypatch.setattr(gj, 'generate', None)
  arguments = f'--flagfile={finished / "flags.txt"}'
  assert worlds.run(uncertainty, arguments) == 0
  assert (finished / 'results.json').read_bytes() == before
  assert run(world, finished, *FEW, '--nop_true', '--seed=4') == 1


def test_a_killed_run_has_its_flags(world, tmp_path, monkeypatch):
  def killed(*given, **options):
    raise KeyboardInterrupt

  monkeypatch.setattr(gj, 'generate', killed)
  with pytest.raises(KeyboardInterrupt):
    run(world, tmp_path, *FEW)
  assert '--num_samples=4\n' in (tmp_path / 'flags.txt').read_text()


def test_figures_show_text_as_it_is(finished, results):
  lines = (finished / 'answers.jsonl').read_text().splitlines()
  hostile = json.loads(json.dumps(results))
  hostile['detectors'][0]['name'] = '<b>x'
  sections = figures.sections(hostile, list(map(json.loads, lines)))
  drawn = [figure for section in sections for figure in section.figures]
  assert len(drawn) == 2 + 4 + 4
  for figure in drawn:
    assert '<b>' not in figure.to_json()


def test_other_questions_without_a_correct_answer(results):
  for one in (few := json.loads(json.dumps(results)))['detectors']:
    one.pop('transfer', None)
  few['n']['transfer']['correct'] = 0
  assert any('nothing to tell apart' in line for line in sentences(few))
  drawn = [s.figures for s in figures.sections(few, [])]
  assert sum(map(len, drawn)) == 2 + 4


def test_shuffled_labels_find_nothing(chat, finished):
  """Errors that are none: no detector finds them on test."""
  model, tokenizer = chat
  lines = (finished / 'answers.jsonl').read_text().splitlines()
  rows = [r for r in map(json.loads, lines) if r['type'] != 'trivia']
  asked = [
    Asked(
      id=r['id'],
      cluster=r['id'],  # labels are shuffled one by one
      type=r['type'],
      split=r['split'],
      entity_class=r['class'],
      prompt_type=r['id'].split('/')[0],
      prompt=r['question'],
      answers=r['answers'],
    )
    for r in rows
  ]
  rng = np.random.default_rng(0)
  shuffled = [
    Answer(
      text=r['text'],
      logprob=r['logprob'],
      num_tokens=2,
      samples=r['samples'],
      sample_logprobs=[-1.0] * 4,
      entropy=r['entropy'],
    )
    for r in rows
  ]
  judged = judge(asked, shuffled)
  judged.error[:] = rng.permutation(judged.error)
  saes = [
    one.load(inputs.open_model(str(inputs.CHAT)))
    for one in inputs.choose_saes(
      str(inputs.SAES),
      model.config,
      layers=[3, 6],
    )
  ]
  found, _ = find(
    model,
    tokenizer,
    saes,
    Data(asked=asked, answers=shuffled, judged=judged),
    SearchOptions(num_random=5, batch_size=32),
  )
  missed = [
    each['name']
    for each in found['detectors']
    if not (each['test']['auroc']['low'] < 0.5 < each['test']['auroc']['high'])
  ]
  assert len(missed) <= 2  # of a dozen intervals of 95 %


def test_answers_are_those_of_the_model(chat, tmp_path):
  """Log-probabilities and entropies against one run over the whole text."""
  model, tokenizer = chat
  entities = read_entities(str(inputs.ENTITIES))['song'][:60]
  asked = [
    Asked(
      id=entity.name,
      cluster=entity.name,
      type='song',
      split='test',
      entity_class='known',
      prompt_type='song_album',
      prompt=f"What is the album of the song '{entity.name}'?",
      answers=('x',),
    )
    for entity in entities
  ]
  config = AnswerOptions(
    prefix='It is', num_samples=4, max_new_tokens=4, seed=3
  )
  run = {'rows_per_batch': 300}
  made = answer(model, tokenizer, asked, config, **run)
  # In other company, a question is answered the same.
  others = [dataclasses.replace(a, id=f'other {a.id}') for a in asked[:30]]
  again = answer(model, tokenizer, others + asked[::-2], config, **run)
  assert [a.samples for a in again[30:]] == [a.samples for a in made[::-2]]
  assert [a.samples for a in again[:30]] != [a.samples for a in made[:30]]
  for each, one in zip(asked[:5], made, strict=False):
    chat_ids = tokenizer.tokenize_chat(each.text).ids
    prompt = [*chat_ids, *tokenizer.encode('It is', bos=False)]
    said = [*tokenizer.encode(one.text, bos=False), tokenizer.end_of_turn_id]
    padded = gj.pad_rows([prompt + said], 0, side='right', buckets=128)
    logits = gj.run(model, *padded, logits_at='all').logits[0]
    logp = np.asarray(jax.nn.log_softmax(logits), np.float64)
    at = len(prompt) - 1 + np.arange(len(said))
    assert one.num_tokens == len(said)
    assert one.logprob == pytest.approx(logp[at, said].sum(), abs=1e-3)
    first = logp[len(prompt) - 1]
    assert one.entropy == pytest.approx(
      -(np.exp(first) * first).sum(), abs=1e-4
    )
  sure = p_true(model, tokenizer, asked[:2], made[:2])
  for each, one, (share, mass) in zip(asked, made, sure, strict=False):
    question = P_TRUE.format(question=each.text, answer=one.text.strip())
    ids = [
      *tokenizer.tokenize_chat(question).ids,
      *tokenizer.encode('Answer:', bos=False),
    ]
    padded = gj.pad_rows([ids], 0, side='right', buckets=128)
    logits = gj.run(model, *padded, logits_at='all').logits[0, len(ids) - 1]
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    yes, no = (p[tokenizer.encode(w, bos=False)[0]] for w in (' Yes', ' No'))
    assert share == pytest.approx(yes / (yes + no), abs=1e-4)
    assert mass == pytest.approx(yes + no, rel=1e-2)


@pytest.mark.parametrize(
  'arguments, said',
  [
    (('--tokens=entity', '--transfer=OTHERS'), '--tokens=entity'),
    (('--yes=Maybe',), "'Maybe' is not one token"),
    (('--transfer=nowhere',), 'nowhere'),
    (('--layers=99',), '--layers=99'),
    (('--labels=nowhere',), 'nowhere'),
  ],
)
def test_what_is_wrong_is_said_before_any_work(
  world, tmp_path, capsys, arguments, said
):
  arguments = [
    a.replace('OTHERS', str(world / 'others.json')) for a in arguments
  ]
  assert run(world, tmp_path / 'out', *FEW, *arguments) == 1
  assert said in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_too_few_errors(world, tmp_path, capsys):
  """Free to decline, the model makes hardly any."""
  arguments = ('--answer_prefix=', '--at_least=40', '--nop_true', *FEW)
  assert run(world, tmp_path / 'out', *arguments) == 1
  assert '--rare' in capsys.readouterr().err


def test_probability_of_a_refusal_is_that_of_its_first_tokens(chat):
  """Against single prompts, one by one."""
  model, tokenizer = chat
  entities = read_entities(str(inputs.ENTITIES))['song']
  some = [entities[i] for i in range(0, 60, 6)]
  asked = [
    Asked(
      id=str(i),
      cluster=str(i),
      type='song',
      split='test',
      entity_class='known',
      prompt_type=kind.name,
      prompt=refusal_question(kind, entity),
      answers=(entity.attributes[kind.attribute],),
    )
    for i, entity in enumerate(some)
    for kind in prompt_types_of(entity)[:1]
  ]
  sorry = 'Sorry, I do not know that.'
  first, logp = [], []
  for each in asked:
    ids = tokenizer.tokenize_chat(each.text).ids
    logits = np.asarray(
      gj.run(model, [list(ids)], logits_at='last').logits[0, 0], float
    )
    first.append(int(logits.argmax()))
    p = np.exp(logits - logits.max())
    logp.append(p[tokenizer.encode(sorry, bos=False)[0]] / p.sum())
  begins = tokenizer.encode(sorry, bos=False)[0]
  answers = [
    Answer(
      text=sorry if token == begins else 'It is X.',
      logprob=0.0,
      num_tokens=1,
      samples=[],
      sample_logprobs=[],
      entropy=0.0,
    )
    for token in first
  ]
  assert begins in first, 'some of these are declined'
  found = p_refusal(model, tokenizer, asked, answers)
  np.testing.assert_allclose(found, logp, rtol=1e-4, atol=1e-6)
  none = [dataclasses.replace(a, text='It is X.') for a in answers]
  assert p_refusal(model, tokenizer, asked, none) is None


def test_rare_entities_are_asked_about_in_their_splits():
  people = EntitySplits(
    {
      ('song', label): Split(
        [Entity(f'{label}', 'song', {'album': 'A'})], [], []
      )
      for label in ('known', 'unknown')
    }
  )
  rare = {
    'song': [Entity('Seldom', 'song', {'album': 'B'}, 'test')],
    'city': [Entity('Rome', 'city', {'country': 'C'}, 'test')],
  }
  asked = about_entities(people, rare=rare)
  assert [(a.entity_class, a.split) for a in asked] == [
    ('known', 'train'),
    ('unknown', 'train'),
    ('rare', 'test'),
  ]
  with pytest.raises(ValueError, match="1 further.*'split'.*'Seldom'"):
    about_entities(
      people, rare={'song': [Entity('Seldom', 'song', {'album': 'B'})]}
    )
