"""The study runs on the families of the paper's models, from a folder."""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from experiments.factual_recall.opening import open_study
from experiments.factual_recall.settings import Settings
from experiments.factual_recall.study import run_study
import gemma_jax as gj
from tests import tiny

FACTS = {
  'China': 'Beijing',
  'Russia': 'Moscow',
  'France': 'Paris',
  'Japan': 'Tokyo',
  'Italy': 'Rome',
  'Canada': 'Ottawa',
}
SHOTS = {'Cuba': 'Havana', 'Kenya': 'Nairobi'}
TEMPLATES = ('The capital of {subject} is', 'Bear in mind, {subject} has')
SIZES = {
  'gpt2': {'n_layer': 3, 'n_positions': 256},
  'opt': {'num_hidden_layers': 3, 'max_position_embeddings': 256},
}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """A task, a text, and a tokenizer that has its words as tokens."""
  folder = tmp_path_factory.mktemp('inputs')
  pairs = {**FACTS, **SHOTS}
  shot = 'The capital of {subject} is {answer}.'
  text = ' '.join(
    shot.replace('{subject}', a).replace('{answer}', b)
    for a, b in pairs.items()
  )
  text += ' Bear in mind, nobody has it.'
  facts = lambda d: [{'subject': a, 'answer': b} for a, b in d.items()]
  task = {
    'templates': TEMPLATES,
    'facts': facts(FACTS),
    'shot': shot,
    'shots': facts(SHOTS),
  }
  (folder / 'mine.json').write_text(json.dumps(task))
  (folder / 'text.txt').write_text('\n\n'.join([text] * 40))
  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  made.train_from_iterator(
    [text] * 3,
    trainers.BpeTrainer(
      vocab_size=600,
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      special_tokens=['</s>'],
      show_progress=False,
    ),
  )
  return folder, made


@pytest.mark.parametrize(
  'family', ['gpt2', pytest.param('opt', marks=pytest.mark.slow)]
)
def test_from_a_folder(files, family, tmp_path):
  inputs, made = files
  V = made.get_vocab_size()
  _, model = tiny.pair(0, family, vocab_size=V, **SIZES[family])
  checkpoint = tmp_path / 'checkpoint'
  gj.save_checkpoint(model, checkpoint)
  (checkpoint / 'tokenizer.json').write_text(made.to_str())
  config = {'eos_token': '</s>', 'pad_token': '</s>'}
  (checkpoint / 'tokenizer_config.json').write_text(json.dumps(config))
  settings = Settings(
    out=str(tmp_path / 'out'),
    model=str(checkpoint),
    tasks=(str(inputs / 'mine.json'),),
    shots=(0, 2),
    closely=6,
    heads=2,
    text=str(inputs / 'text.txt'),
    text_tokens=256,
    mode='reference',
  )
  study = open_study(settings)
  results = run_study(study)
  prompts = study.prompts['mine', 2]
  assert len(prompts) == 12 and len(prompts.prefix) > 8
  out = gj.run(study.reader.load(), *prompts.whole(), logits_at='last')
  top = out.logits[:, 0].argmax(-1) == prompts.answers
  found = results['runs'][1]['first']
  assert found['top1']['value'] == pytest.approx(float(top.mean()))
  assert found['split_answers'] == 0
  assert {claim['number'] for claim in results['claims']} >= {
    1,
    2,
    3,
    4,
    5,
    6,
    7,
  }
