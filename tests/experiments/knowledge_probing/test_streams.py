"""Prompts are read once, where the name and the prompt end."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.knowledge_probing import streams
from experiments.knowledge_probing.formats import Format
from experiments.knowledge_probing.streams import hidden_states
import gemma_jax as gj
from tests import tiny
from tests.experiments.knowledge_probing import made
from tests.gemma_jax.text import tiny_tokenizer

VOCABULARY = 600
QUESTIONS = [
  made.question('a', question='Is Paris a city?', entity='Paris'),
  made.question('b', question='The art of art is in San Diego', entity='art'),
  made.question(
    'c',
    question='Where was the player Zoë crème brûlée, model of model, born?',
    entity='Zoë crème brûlée',
  ),
  made.question('e', question='A party of art. 東京の首都は?', entity='東京'),
  # The template says it too, before and after.
  made.question('d', question='Which user is model?', entity='model'),
]


def formats():
  tokenizer = tiny_tokenizer.ours()
  return [
    Format(name=name, tokenizer=tokenizer, instruction=told)
    for name in ('chat', 'qa', 'bare')
    for told in ('', 'Paris art: say so.')
  ]


@pytest.mark.parametrize('number', range(6))
def test_states_are_hfs(number):
  hf, model = tiny.pair(vocab_size=VOCABULARY)
  format = formats()[number]
  found = hidden_states(model, format, QUESTIONS, [3, 0], rows_per_batch=3)
  assert found['last'].shape == (2, len(QUESTIONS), model.config.d_model)
  for row, question in enumerate(QUESTIONS):
    ids = format.prompt_ids(question.question)
    with torch.no_grad():
      out = hf(torch.tensor([ids]), output_hidden_states=True).hidden_states
    for slot, layer in enumerate((3, 0)):
      expected = out[layer + 1][0].numpy()
      np.testing.assert_allclose(
        found['last'][slot, row], expected[-1], atol=2e-4, rtol=2e-4
      )
      at = np.abs(found['entity'][slot, row] - expected).max(-1).argmin()
      np.testing.assert_allclose(
        found['entity'][slot, row], expected[at], atol=2e-4, rtol=2e-4
      )
      # Up to that token the name is there; with one token less it is not.
      before = format.prompt_text('\0').partition('\0')[0]
      before += question.question.partition(question.entity)[0]
      named = (before + question.entity).removeprefix('<bos>')
      upto, less = (
        format.tokenizer.decode(ids[:end]).removeprefix('<bos>')
        for end in (at + 1, at)
      )
      assert upto.startswith(named) and not less.startswith(named)


def test_one_place_is_as_both_are_and_batches_do_not_matter():
  _, model = tiny.pair(vocab_size=VOCABULARY)
  format = formats()[0]
  both = hidden_states(model, format, QUESTIONS, [2])
  for place in streams.PLACES:
    one = hidden_states(
      gj.unstack_layers(model), format, QUESTIONS, [2], place, rows_per_batch=2
    )
    assert list(one) == [place]
    np.testing.assert_allclose(one[place], both[place], atol=1e-4, rtol=1e-4)
  assert hidden_states(model, format, [], [2], 'last')['last'].shape == (
    1,
    0,
    model.config.d_model,
  )


def test_layers_above_are_not_run():
  """Weights that are no numbers do no harm there."""
  _, model = tiny.pair(vocab_size=VOCABULARY)
  weights = model.weights()
  name = next(n for n, w in weights.items() if w.shape[0] == 5 and w.ndim > 2)
  broken = gj.Decoder(
    model.config,
    {**weights, name: jnp.asarray(weights[name]).at[3:].set(np.nan)},
  )
  found = hidden_states(broken, formats()[1], QUESTIONS, [0, 2])
  assert np.isfinite(found['last']).all()


@pytest.mark.parametrize(
  'entity', [None, '', 'paris', 'Rome', '.', 'Par', 'ari']
)
def test_a_question_that_does_not_name_its_entity_is_refused(entity):
  _, model = tiny.pair(vocab_size=VOCABULARY)
  bad = made.question('bad', question='Is Paris a city?', entity=entity)
  with pytest.raises(ValueError, match="'bad' does not name its entity"):
    hidden_states(model, formats()[0], [*QUESTIONS, bad], [0])
  hidden_states(model, formats()[0], [bad], [0], 'last')


def test_bad_input_is_named():
  _, model = tiny.pair(vocab_size=VOCABULARY)
  with pytest.raises(ValueError, match="where is .'end',., expected"):
    hidden_states(model, formats()[0], QUESTIONS, [0], 'end')
  with pytest.raises(ValueError, match='Cannot capture layer 5'):
    hidden_states(model, formats()[0], QUESTIONS, [5])
