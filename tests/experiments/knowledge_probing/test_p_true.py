"""P(True), against HF's probabilities of the next token."""

import dataclasses

import numpy as np
import pytest
import torch

from experiments.knowledge_probing import p_true as p_true_lib
from experiments.knowledge_probing.formats import Format
from experiments.knowledge_probing.p_true import LETTERS, Wording, p_true
from experiments.knowledge_probing.probe_records import Question, Said, Sampled
from tests import tiny
from tests.gemma_jax.text import tiny_tokenizer

# Words of the tiny tokenizer.
ART = Wording(asked='Are you sure?', lead='Answer', yes='yes', no='no')


def said(text):
  return Said(
    text=text,
    logprob=-1.0,
    ntok=1,
    stop=True,
    prompt=0,
    temperature=1.0,
    first_prob=0.5,
  )


def answered(id, greedy, *samples):
  return (
    Question(id=id, question=f'Where is {id}?', answers=('x',)),
    Sampled(id=id, greedy=(said(greedy),), samples=tuple(map(said, samples))),
  )


ASKED = [
  answered('Paris', 'Texas', *(f'party\n{i}' for i in range(12))),
  answered('the art', 'San Diego is\nlate'),
  answered('Zoë', '', 'naïve'),
]


@pytest.mark.parametrize('shots', [0, 2])
@pytest.mark.parametrize('name', ['chat', 'qa', 'bare'])
def test_against_hf(name, shots):
  tokenizer = tiny_tokenizer.ours()
  hf, model = tiny.pair(
    3, 'gemma2', vocab_size=tokenizer.vocab_size + 3, num_hidden_layers=2
  )
  format = Format(name=name, tokenizer=tokenizer)
  examples = [
    (*answered('sure', 'yes', 'no'), True),
    (*answered('model', 'user'), False),
  ][:shots]
  questions, sampled = zip(*ASKED, strict=True)
  found = p_true(
    model,
    format,
    questions,
    sampled,
    wording=ART,
    examples=examples,
    rows_per_batch=2,
  )
  assert found.shape == (3, 2) and found.dtype == np.float64
  ids = [
    tokenizer.encode(f'you {word}', bos=False)[-1] for word in ('yes', 'no')
  ]
  for row, (question, its) in enumerate(ASKED):
    ideas = [' '.join(each.text.split()) for each in its.samples[:10]]
    greedy = ' '.join(its.greedy[0].text.split())
    text = (
      f'This was asked: {question.question}\nAnswers that came to mind:\n'
      + '\n'.join(ideas or [greedy])
      + f'\nPossible answer: {greedy}\nAre you sure?'
    )
    before = [
      (
        'This was asked: Where is sure?\nAnswers that came to mind:\nno\n'
        'Possible answer: yes\nAre you sure?',
        'Answer yes',
      ),
      (
        'This was asked: Where is model?\nAnswers that came to mind:\nuser\n'
        'Possible answer: user\nAre you sure?',
        'Answer no',
      ),
    ][:shots]
    prompt = format.prompt_ids(text, before)
    lead = 'Answer' if name == 'chat' else ' Answer'
    prompt += tokenizer.encode(lead, bos=False)
    with torch.no_grad():
      logits = hf(torch.tensor([prompt])).logits[0, -1].double()
    p = torch.softmax(logits, 0)[ids].numpy()
    np.testing.assert_allclose(found[row], [p[0] / p.sum(), p.sum()], rtol=2e-3)


def test_words_that_are_not_one_token():
  tokenizer = tiny_tokenizer.ours()
  format = Format(name='qa', tokenizer=tokenizer)
  model = tiny.pair(
    3, 'gemma2', vocab_size=tokenizer.vocab_size + 3, num_hidden_layers=2
  )[1]
  questions, sampled = zip(*ASKED, strict=True)
  with pytest.raises(ValueError, match="' A' is not one token after 'The poss"):
    p_true(model, format, questions, sampled, wording=LETTERS)
  same = dataclasses.replace(ART, no='yes')
  with pytest.raises(ValueError, match="'yes' is both"):
    p_true(model, format, questions, sampled, wording=same)
  assert p_true(model, format, [], [], wording=ART).shape == (0, 2)


def test_too_long(monkeypatch):
  tokenizer = tiny_tokenizer.ours()
  format = Format(name='qa', tokenizer=tokenizer)
  model = tiny.pair(
    3, 'gemma2', vocab_size=tokenizer.vocab_size + 3, num_hidden_layers=2
  )[1]
  long = [answered('x', 'art ' * 9000)]
  monkeypatch.setattr(p_true_lib.gj, 'run', None)  # nothing is run
  with pytest.raises(ValueError, match=r"P\(True\) of 'x' has \d+ tokens"):
    p_true(model, format, *zip(*long, strict=True), wording=ART)
