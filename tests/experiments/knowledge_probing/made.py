"""Questions, answers and scores as tests of rules and rows want them."""

import math

import numpy as np

from experiments.knowledge_probing.probe_records import (
  Question,
  Said,
  Sampled,
  Score,
  Verdict,
)

DECLINED = 'Sorry, I do not know.'
# What is said: c a right answer, w a wrong one (wW two different ones), r a
# refusal, n nothing informative.
TEXTS = {'c': 'Right', 'w': 'Wrong', 'W': 'Other', 'r': DECLINED, 'n': 'the'}


def question(id='q', answers=('Right',), **fields) -> Question:
  fields = {'question': f'What of {id}?', 'relation': 'of', **fields}
  return Question(id=id, answers=tuple(answers), **fields)


def verdict(kind: str) -> Verdict:
  return Verdict(
    correct=kind == 'c',
    exact=kind == 'c',
    rule='made',
    informative=kind in 'cwW',
    refusal=kind == 'r',
    hedged=False,
  )


def said(kind: str, text: str | None = None, stop=True, ntok=4) -> Said:
  return Said(
    text=TEXTS[kind] if text is None else text,
    logprob=-2.0,
    ntok=ntok,
    stop=stop,
    prompt=0,
    temperature=1.0,
    first_prob=0.5,
  )


def score(id='q', greedy='c', samples='cccc') -> Score:
  """A score of what is said, one letter of TEXTS each."""
  counts = np.unique(list(samples), return_counts=True)[1] / len(samples)
  right = samples.count('c') / len(samples)
  return Score(
    id=id,
    greedy=tuple(map(verdict, greedy)),
    samples=tuple(map(verdict, samples)),
    cluster=tuple(sorted(set(samples)).index(kind) for kind in samples),
    p_correct_greedy=greedy.count('c') / len(greedy),
    p_correct=right,
    p_correct_interval=(0.0, 1.0),
    semantic_entropy=0.0,
    discrete_entropy=float(-sum(p * math.log(p) for p in counts)),
    naive_entropy=0.0,
    n=len(samples),
    category='Unknown' if not right else 'WeaklyKnown',
  )


def sampled(id='q', greedy='c', samples='cccc') -> Sampled:
  return Sampled(
    id=id,
    greedy=tuple(map(said, greedy)),
    samples=tuple(map(said, samples)),
  )
