"""The files of a MiniWorld, in the formats of public ones."""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib

import jax
import tokenizers

from experiments.entities import write_entities
from experiments.miniworld.pretraining_text import Corpus
from experiments.miniworld.world import SPLITS, TYPES, World
from experiments.runs.outputs import write_text
import gemma_jax as gj

# A row of the corpus after those that anything is trained on.
_FIRST_ROW = 4 * 10**9

# Gemma's turns, written for this project.
CHAT_TEMPLATE = """{{ bos_token }}
{%- for message in messages %}
  {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('Turns alternate, the user first.') }}
  {%- endif %}
  {%- set role = 'user' if message['role'] == 'user' else 'model' %}
  {{- '<start_of_turn>' + role + '\\n' }}
  {{- message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<start_of_turn>model\\n' }}
{%- endif %}"""


def write_model(
  folder: str | os.PathLike,
  config: gj.ModelConfig,
  weights: Mapping[str, jax.Array],
  tokenizer: tokenizers.Tokenizer,
):
  """Writes a checkpoint with its tokenizer, as HF reads them.

  Raises:
    FileExistsError: `folder` has something in it.
  """
  folder = pathlib.Path(folder)
  gj.save_checkpoint(gj.Decoder(config, dict(weights)), folder)
  write_text(folder / 'tokenizer.json', tokenizer.to_str(pretty=False))
  about = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'bos_token': '<bos>',
    'eos_token': '<eos>',
    'pad_token': '<pad>',
    'unk_token': '<unk>',
    'add_bos_token': True,
    'clean_up_tokenization_spaces': False,
    'model_max_length': config.max_positions,
    'padding_side': 'left',
    'chat_template': CHAT_TEMPLATE,
  }
  write_text(folder / 'tokenizer_config.json', json.dumps(about, indent=2))


def write_documents(
  path: str | os.PathLike, corpus: Corpus, tokenizer: gj.Tokenizer, count: int
):
  """Writes documents of no training, one per line, to train SAEs on."""
  documents, number = [], _FIRST_ROW
  while len(documents) < count:
    (row,) = corpus.read(number, 1)
    number += 1
    # The last one of a row is cut off.
    texts = tokenizer.decode(row[1:].tolist()).split('<eos>')[:-1]
    documents += [text.replace("' ", "'") for text in texts]
  write_text(path, ''.join(f'{text}\n' for text in documents[:count]))


def write_people(
  folder: str | os.PathLike, world: World, groups: Sequence[str] = tuple(SPLITS)
):
  """Writes the entity files of some groups.

  Facts of unseen entities stand in no text, so that no model can know them.
  """
  entities = [e for group in groups for e in world.entities(group)]
  write_entities(
    folder,
    {kind: [e for e in entities if e.type == kind] for kind in TYPES},
  )
