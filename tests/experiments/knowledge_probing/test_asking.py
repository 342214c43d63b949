"""Asking: against HF, MiniWorld's truth, and whatever must not matter."""

import dataclasses
import random

import numpy as np
import pytest
import torch

from experiments.entities.completions import line_break_ids
from experiments.inputs import BASE
from experiments.knowledge_probing import asking, prompt_batches
from experiments.knowledge_probing.asking import AskingPlan, ask
from experiments.knowledge_probing.formats import Format
from experiments.knowledge_probing.probe_records import Question
from experiments.knowledge_probing.shots import demonstrations
from experiments.miniworld.world import WorldConfig, make_world
import gemma_jax as gj
from tests import tiny
from tests.gemma_jax.text import tiny_tokenizer

WORDS = ('the city Paris', 'art', 'player Kawhi Leonard', 'the movie Party')


def questions(count=5, relation='r', start=0):
  return [
    Question(
      id=f'{relation}{i}',
      question=f'Are you sure you know {WORDS[i % 4]} {"art " * (i % 3)}{i}?',
      answers=(f'in {1991 + i}',),
      relation=relation,
    )
    for i in range(start, start + count)
  ]


@pytest.fixture(scope='module')
def pair():
  return tiny.pair(
    3,
    'gemma2',
    vocab_size=tiny_tokenizer.ours().vocab_size + 3,
    num_hidden_layers=2,
  )


def format_of(name):
  return Format(name=name, tokenizer=tiny_tokenizer.ours())


def all_of(*args, **kwargs):
  return {each.id: each for batch in ask(*args, **kwargs) for each in batch}


def hf_greedy(hf, ids, stops, limit):
  """Tokens, sum of log-probabilities and first probability, by a loop."""
  total, first, made = 0.0, None, []
  while len(made) < limit and not (made and made[-1] in stops):
    with torch.no_grad():
      logits = hf(torch.tensor([ids + made])).logits[0, -1].double()
    p = torch.log_softmax(logits, 0)
    made.append(int(p.argmax()))
    total += float(p.max())
    first = float(p.max().exp()) if first is None else first
  return made, total, first


@pytest.mark.parametrize('name', ['chat', 'qa', 'bare'])
def test_greedy_answers_are_those_of_hf(pair, name):
  hf, model = pair
  format, tokenizer = format_of(name), tiny_tokenizer.ours()
  plan = AskingPlan(
    prompts=2, shots=2, samples=0, max_new_tokens=5, rows_per_batch=2
  )
  pool = questions(6, start=20)
  asked = questions(3)
  found = all_of(model, format, asked, {'r': pool}, plan)
  stops = set(tokenizer.stop_ids) | {model.config.eos_ids[0]}
  lines = line_break_ids(tokenizer) if name == 'qa' else set()
  sets = demonstrations(pool, prompts=2, shots=2, seed=0)
  for question in asked:
    said = found[question.id]
    assert said.samples == () and len(said.greedy) == 2
    for number, shots in enumerate(sets):
      ids = format.prompt_ids(question.question, shots)
      made, total, first = hf_greedy(hf, ids, stops | lines, 5)
      one = said.greedy[number]
      assert (one.prompt, one.temperature) == (number, 0.0)
      assert one.ntok == len(made)
      assert one.stop == (made[-1] in stops | lines)
      assert one.logprob == pytest.approx(total, abs=2e-3)
      assert one.first_prob == pytest.approx(first, abs=1e-3)
      kept = [i for i in made if i not in stops and i < tokenizer.vocab_size]
      text = tokenizer.decode(kept, skip_special=True)
      text = text.split('\n')[0] if name == 'qa' else text
      assert one.text == text.strip()


def test_samples_depend_on_nothing_else(pair):
  """Neither order, other questions, batches, nor what is shared matters."""
  model = pair[1]
  plan = AskingPlan(shots=2, samples=3, max_new_tokens=5, rows_per_batch=8)
  asked = [*questions(4), *questions(2, 'other')]
  pools = {
    'r': questions(4, start=20),
    'other': questions(4, 'other', start=20),
  }
  found = all_of(model, format_of('qa'), asked, pools, plan)
  assert found.keys() == {each.id for each in asked}
  for said in found.values():
    texts = [each.text for each in said.samples]
    assert len(texts) == 3 and len(set(texts)) > 1
    assert {each.first_prob for each in said.samples} == {
      said.greedy[0].first_prob
    }
  shuffled = random.Random(0).sample(asked, len(asked))
  others = dataclasses.replace(plan, rows_per_batch=100)
  _same(all_of(model, format_of('qa'), shuffled, pools, others), found)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(prompt_batches, 'shared_length', lambda rows: 0)
    alone = all_of(model, format_of('qa'), asked[2:3], pools, plan)
  _same(alone, {asked[2].id: found[asked[2].id]})
  seeded = dataclasses.replace(plan, seed=1)
  other = all_of(model, format_of('qa'), asked, pools, seeded)
  assert any(other[i].samples != found[i].samples for i in found)


def _same(a, b):
  assert a.keys() == b.keys()
  for id in a:
    for mine, its in zip(
      (*a[id].greedy, *a[id].samples),
      (*b[id].greedy, *b[id].samples),
      strict=True,
    ):
      assert (mine.text, mine.ntok, mine.stop) == (its.text, its.ntok, its.stop)
      assert mine.logprob == pytest.approx(its.logprob, abs=1e-3)
      assert mine.temperature == its.temperature


def test_limits_reach_the_sampler(pair):
  model = pair[1]
  plan = AskingPlan(shots=0, samples=3, max_new_tokens=5, top_k=1)
  for limit in ({'top_k': 1}, {'top_k': None, 'top_p': 1e-6}):
    changed = dataclasses.replace(plan, **limit)
    found = all_of(model, format_of('qa'), questions(2), {}, changed)
    for said in found.values():
      assert {each.text for each in said.samples} == {said.greedy[0].text}
      # Under the model itself, not what is left of it.
      assert said.samples[0].logprob == pytest.approx(said.greedy[0].logprob)
      assert said.greedy[0].logprob < -0.1


def test_everything_wrong_is_said_at_once(pair):
  model, format = pair[1], format_of('qa')
  plan = AskingPlan(shots=2, samples=1)
  with pytest.raises(ValueError, match="no questions of relation 'r'"):
    ask(model, format, questions(), {}, plan)
  with pytest.raises(ValueError, match='1 questions of relation'):
    ask(model, format, questions(), {'r': questions(1, start=20)}, plan)
  with pytest.raises(ValueError, match="'r0' is asked, and its answer"):
    ask(model, format, questions(), {'r': questions(3)}, plan)
  long = dataclasses.replace(plan, shots=0, max_new_tokens=9000)
  with pytest.raises(ValueError, match=r"'r0' has \d+ tokens, and 9000 are"):
    ask(model, format, questions(), {}, long)
  assert list(ask(model, format, [], {}, plan)) == []


@pytest.mark.parametrize(
  'change, said',
  [
    ({'samples': -1}, 'samples=-1'),
    ({'temperature': 0.0}, 'temperature=0.0'),
    ({'temperature': float('nan')}, 'temperature=nan'),
    ({'top_k': 0}, 'top_k=0'),
    ({'top_p': 1.5}, 'top_p=1.5'),
    ({'prompts': 2, 'shots': 0}, 'without demonstrations'),
  ],
)
def test_plans(change, said):
  with pytest.raises(ValueError, match=said):
    AskingPlan(**change)


def test_slick():
  plan = AskingPlan.slick(seed=3)
  assert (plan.prompts, plan.shots, plan.samples) == (10, 4, 16)
  assert (plan.temperature, plan.top_k, plan.seed) == (0.5, 40, 3)


def test_shared_length():
  length = prompt_batches.shared_length
  rows = [[*range(20), 7], [*range(20), 9, 9], [*range(19), 5]]
  assert length(rows) == 16  # 19, down to a multiple of 8
  assert length(rows[:1] * 2) == 16  # 21, but one token stays
  assert length([[*range(8)], [*range(9)]]) == 0
  assert length([[*range(9)], [*range(9)]]) == 8
  assert length([[1], [2]]) == 0


def test_miniworld_answers_what_it_knows():
  """Held-out facts are in its text; of never-seen names it knows nothing."""
  model = gj.load_checkpoint(BASE)
  format = Format(
    name='bare', tokenizer=gj.Tokenizer.from_pretrained(str(BASE))
  )
  world = make_world(WorldConfig())
  asked = [
    Question(
      id=entity.name,
      question=f'In which country is the city {entity.name}?',
      answers=(entity.attributes['country'],),
      relation='country',
      known=group == 'held_out',
    )
    for group in ('held_out', 'unseen')
    for entity in [e for e in world.entities(group) if e.type == 'city'][:12]
  ]
  plan = AskingPlan(shots=0, samples=3, max_new_tokens=16)
  found = all_of(model, format, asked, {}, plan)
  right = {True: [], False: []}
  for question in asked:
    said = found[question.id]
    right[question.known] += [
      question.answers[0] in each.text for each in said.greedy
    ]
  assert np.mean(right[True]) >= 0.9 and np.mean(right[False]) <= 0.2
  # The end of the text counts: what was said has the probability of training.
  said = found[asked[0].id].greedy[0]
  ids = format.prompt_ids(asked[0].question)
  answer = format.answer_ids(said.text)
  assert said.stop and said.ntok == len(answer)
  out = gj.run(model, [ids + answer], logits_at='all').logits[0]
  logp = np.asarray(out, np.float64)[len(ids) - 1 : -1]
  logp -= np.log(np.exp(logp).sum(1, keepdims=True))
  total = logp[np.arange(len(answer)), answer].sum()
  assert said.logprob == pytest.approx(total, abs=1e-3)
  assert asking.fast(model).is_stacked is False
