"""Probabilities of candidate answers against HF's forward pass."""

import dataclasses

import numpy as np
import pytest
from scipy import special
import torch
import transformers

from experiments.inputs import BASE
from experiments.knowledge_probing.candidate_ranking import (
  Ranked,
  rank_candidates,
)
from experiments.knowledge_probing.formats import Format
import gemma_jax as gj
from tests.experiments.knowledge_probing.made import question


@pytest.fixture(scope='module')
def world():
  """The bundled base model: ours, HF's, and a format of its own."""
  lm = gj.load_model(BASE)
  hf = transformers.AutoModelForCausalLM.from_pretrained(
    BASE, attn_implementation='eager'
  )
  return lm.model, hf.eval(), Format(name='bare', tokenizer=lm.tokenizer)


def by_hand(hf, format, asked, name, shots=()) -> float:
  """log P(name, end | prompt), each token from a run of its own row."""
  prompt = format.prompt_ids(asked.question, shots)
  ids = [*prompt, *format.answer_ids(name)]
  with torch.no_grad():
    logits = hf(torch.tensor([ids])).logits[0].double().log_softmax(-1)
  return float(sum(logits[i - 1, ids[i]] for i in range(len(prompt), len(ids))))


NAMES = ('Paris', 'New York City', 'x', 'a far longer name than the others')
SHOTS = (('The capital of one place is', 'Rome'),)


@pytest.mark.parametrize('shots', [(), SHOTS])
def test_against_one_run_per_candidate(world, shots):
  model, hf, format = world
  questions = [
    question('a', ('Paris',), question='It is in', relation='city'),
    question(
      'b',
      ('york', 'x'),
      question='A much longer question about where that city is to be found',
      relation='city',
    ),
    question('c', ('7',), question='How many', relation='number'),
  ]
  candidates = {'city': NAMES, 'number': ('7', '12', '1,990'), 'unused': ()}
  found = rank_candidates(model, format, questions, candidates, shots)
  for asked, ranked in zip(questions, found, strict=True):
    expected = [
      by_hand(hf, format, asked, name, shots)
      for name in candidates[asked.relation]
    ]
    np.testing.assert_allclose(ranked.logprobs, expected, rtol=2e-5, atol=2e-4)
  assert found[1].right.tolist() == [False, False, True, False]
  p = special.softmax(found[0].logprobs)
  assert found[0].p_right == pytest.approx(p[0])
  assert found[0].correct == (p.argmax() == 0)


def test_many_candidates_and_layers_apart(world):
  """More candidates than are run at once; the model may be unstacked."""
  model, _, format = world
  names = [f'name {i}' for i in range(70)]
  asked = [question('a', ('name 69',), question='Who?')]
  many = rank_candidates(model, format, asked, {'of': names})[0]
  last = rank_candidates(
    gj.unstack_layers(model), format, asked, {'of': names[60:]}
  )[0]
  np.testing.assert_allclose(many.logprobs[60:], last.logprobs, atol=2e-4)
  assert last.p_right > many.p_right > 0


def test_ranks():
  ranked = Ranked(
    logprobs=np.array([-1.0, -2.0, -1.5]), right=np.array([True, False, False])
  )
  assert ranked.correct
  tie = dataclasses.replace(ranked, logprobs=np.array([-1.0, -1.0, -3.0]))
  assert not tie.correct
  assert dataclasses.replace(tie, right=np.array([True, True, False])).correct
  alone = Ranked(logprobs=np.array([-9.0]), right=np.array([True]))
  assert alone.correct and alone.p_right == 1
  tiny = dataclasses.replace(ranked, logprobs=np.array([-1e4, -1e4, -1e5]))
  assert tiny.p_right == pytest.approx(0.5)


def test_an_answer_that_is_no_candidate(world):
  model, _, format = world
  with pytest.raises(ValueError, match="'a'.*'Paris'.*'of'.*Add it"):
    rank_candidates(
      model, format, [question('a', ('Paris',))], {'of': ['Rome'], 'x': []}
    )
  assert rank_candidates(model, format, [], {}) == []
