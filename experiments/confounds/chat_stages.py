"""What the chat model is run for; kept in the run's folder like `stages`.

chat      readers on its stream
answers   what it answers about changed names
"""

from collections.abc import Mapping, Sequence
import functools
import json

import numpy as np

from experiments.activations import make_rows
from experiments.confounds.kept_stages import ARRAYS, all_read, identity_of
from experiments.confounds.linear_readout import LinearReadout, read_rows
from experiments.confounds.prompt_variants import PromptVariant
from experiments.entities import (
  PROMPT_TYPES,
  Prompt,
  PromptType,
  is_refusal,
  refusal_question,
  tokenize_prompt,
)
from experiments.inputs.study_inputs import StudyInputs
from experiments.latents import read_arrays, write_arrays
from experiments.runs import outputs
from experiments.runs.stages import digest, stage
from experiments.steering import Arm, Question, generate_answers
import gemma_jax as gj

_ANSWERS = 'answers.json'


class ChatStages:
  """Runs the chat model where a stage is not there yet.

  Attributes:
    given: The study's inputs.
    reader: The chat model's checkpoint.
    tokenizer: The chat model's tokenizer.
  """

  def __init__(
    self, given: StudyInputs, reader: gj.CheckpointReader, tokenizer
  ):
    """Keeps what it is given; the model is loaded when a stage needs it."""
    self.given, self.reader, self.tokenizer = given, reader, tokenizer

  @functools.cached_property
  def model(self) -> gj.Decoder:
    """Returns the chat model."""
    return self.reader.load()

  def values(
    self,
    readers: Sequence[LinearReadout],
    contexts: Mapping[str, tuple[Sequence[Prompt], bool]],
    identity: Mapping,
  ) -> dict[str, np.ndarray]:
    """Returns context -> readers [R, n].

    Args:
      readers: Readers of the base model.
      contexts: Name -> prompts, and whether they go into the chat template.
      identity: What tells the chat model apart.
    """
    rows = {
      name: all_read(make_rows(self.tokenizer, prompts, chat=chat))
      for name, (prompts, chat) in contexts.items()
    }

    def make(folder):
      arrays = {}
      for name, one in rows.items():
        values, _ = read_rows(self.model, readers, one, f'Chat model, {name}')
        arrays[name] = values[:, one.prompt_rows]
      write_arrays(folder / ARRAYS, arrays)

    folder = self.given.out / 'work' / 'chat'
    stage(
      folder,
      {
        'model': dict(identity),
        'readers': identity_of(readers),
        'rows': {name: digest(one.tokens) for name, one in rows.items()},
      },
      make,
    )
    return read_arrays(folder / ARRAYS)

  def refusals(
    self,
    shown: Sequence[PromptVariant],
    *,
    max_new_tokens: int,
    rows_per_batch: int,
    mode: str,
    identity: Mapping,
  ) -> list[dict]:
    """Asks about each entity; returns answers, and whether they decline."""
    questions = [self._question(one) for one in shown]
    work = self.given.out / 'work'

    def make(folder):
      (answers,) = generate_answers(
        self.model,
        questions,
        [Arm(name='original', kind='original')],
        stop_ids=self.tokenizer.stop_ids,
        max_new_tokens=max_new_tokens,
        rows_per_batch=rows_per_batch,
        folder=work / 'answering',
        identity=identity,
        redo=True,
      )
      outputs.write_text(folder / _ANSWERS, json.dumps(answers))

    about = {
      'model': dict(identity),
      'questions': digest(*(np.array(one.ids) for one in questions)),
      'max_new_tokens': max_new_tokens,
    }
    stage(work / 'answers', about, make)
    answers = outputs.read_json(work / 'answers' / _ANSWERS, list)
    stops = set(self.tokenizer.stop_ids)
    found = []
    for question, ids in zip(questions, answers, strict=True):
      text = self.tokenizer.decode([i for i in ids if i not in stops]).strip()
      found.append(
        {
          'question': question.text,
          'answer': text,
          'refused': is_refusal(text, mode, (question.entity,)),
        }
      )
    return found

  def _question(self, shown: PromptVariant) -> Question:
    entity, prompt_type = shown.entity, _asked(shown.entity.type)
    prompt = refusal_question(prompt_type, entity)
    tokens = tokenize_prompt(self.tokenizer, prompt, chat=True)
    return Question(
      entity=entity.name,
      type=entity.type,
      entity_class=shown.label,
      prompt_type=prompt_type.name,
      answer='',
      text=prompt.text,
      ids=tuple(tokens.ids),
      span=tokens.entity,
    )


def question_prompts(shown: Sequence[PromptVariant]) -> list[Prompt]:
  """Returns what a user asks about each entity."""
  return [
    refusal_question(_asked(one.entity.type), one.entity) for one in shown
  ]


def _asked(kind: str) -> PromptType:
  """Returns the first thing that is asked about a type: always the same.

  Raises:
    ValueError: nothing is asked about this type.
  """
  for one in PROMPT_TYPES.values():
    if one.entity_type == kind and one.relation and one.counts:
      return one
  raise ValueError(f'There is no question about entities of type {kind!r}.')
