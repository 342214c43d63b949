import dataclasses

import numpy as np
import pytest

from experiments import inputs
from experiments.knowledge_probing.formats import Format
from experiments.knowledge_probing.probe_records import Question
from experiments.refusal_tuning.asked import Asked, ask, check_pair, streams
import gemma_jax as gj
from tests import tiny
from tests.experiments.refusal_tuning import asking


@pytest.fixture(scope='module')
def tokenizer():
  return gj.Tokenizer.from_pretrained(str(inputs.CHAT))


def question(text, entity, id='q'):
  return Question(id=id, question=text, answers=('x',), entity=entity)


@pytest.mark.parametrize('name', ['chat', 'qa', 'bare'])
def test_names_are_found_in_prompts(tokenizer, name):
  format = Format(name=name, tokenizer=tokenizer, instruction='Say Zulil Lin.')
  asked = ask(
    format,
    [
      # The name also stands in the instruction, and twice in the question.
      question('In which country is the city Zulil Lin?', 'Zulil Lin'),
      question("Zulil Lin or 'Zulil Lin'", 'Zulil Lin'),
    ],
    [True, False],
  )
  for ids, (start, stop) in zip(asked.ids, asked.spans, strict=True):
    spelled = tokenizer.decode(list(ids[start:stop]))
    assert spelled.strip().strip("'") == 'Zulil Lin'
    assert 'Zulil' not in tokenizer.decode(list(ids[stop:]))
  assert asked.ids[0] == tuple(
    format.prompt_ids('In which country is the city Zulil Lin?')
  )
  assert asked.known.tolist() == [True, False]
  assert asked.ends.tolist() == [len(ids) - 1 for ids in asked.ids]


def test_a_question_without_its_entity_is_refused(tokenizer):
  format = Format(name='qa', tokenizer=tokenizer)
  for entity in ('Nobody', None, ''):
    with pytest.raises(ValueError, match="Question 'q' is"):
      ask(format, [question('Who is it?', entity)], [True])


def test_spans_must_be_in_their_prompts():
  good = asking.prompts()
  spans = good.spans.copy()
  spans[3] = (2, len(good.ids[3]) + 1)
  with pytest.raises(ValueError, match='The entity of prompt 3'):
    dataclasses.replace(good, spans=spans)
  with pytest.raises(ValueError, match='expected'):
    dataclasses.replace(good, known=np.ones(10))
  with pytest.raises(ValueError, match='0 prompts'):
    Asked(
      ids=(), spans=np.zeros((0, 2), int), entities=(), known=np.zeros(0, bool)
    )


def test_streams_are_those_of_single_runs():
  _, model = tiny.pair(0, 'gpt2')
  asked = asking.prompts().take(np.array([1, 4, 7]))
  found = streams(model, asked, [3, 1], asked.name_ends, batch_size=2)
  for row, ids in enumerate(asked.ids):
    one = gj.pad_rows([ids], 0, buckets=16)  # on the other side
    out = gj.run(
      model,
      *one,
      capture=gj.capture('resid_post', positions=[asked.name_ends[row]]),
    )
    for slot, layer in enumerate((3, 1)):
      alone = out['resid_post', layer][0, 0]
      np.testing.assert_allclose(found[slot, row], alone, rtol=2e-4, atol=2e-4)


def test_models_of_a_pair_compute_alike():
  _, model = tiny.pair(0, 'gemma2')
  ends = dataclasses.replace(model.config, eos_ids=(7,), pad_id=3)
  check_pair(model, gj.Decoder(ends, model.weights()))
  other = dataclasses.replace(model.config, final_softcap=9.0)
  with pytest.raises(ValueError, match='final_softcap=9.0'):
    check_pair(model, gj.Decoder(other, model.weights()))
  with pytest.raises(ValueError, match='bfloat16'):
    check_pair(model, tiny.ours('bfloat16'))
