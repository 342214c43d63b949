"""Entities, what is asked about them, and what a model knows of them.

  entities = read_entities('folder')
  prompt = activation_prompt(entities['city'][0])
  classes = classify(read_records('run/records'))['city']
  parts = split(classes.known)

`experiments.labelling` has a model answer.
"""

from experiments.entities.answer_judging import Judge
from experiments.entities.entity import PARTS, Entity
from experiments.entities.entity_files import read_entities, write_entities
from experiments.entities.entity_prompts import (
  Prompt,
  activation_prompt,
  base_prompt,
  is_known_question,
  question_prompt,
  refusal_question,
  statement_prompt,
)
from experiments.entities.entity_splits import (
  EntitySplits,
  people_of_names,
  split_classes,
)
from experiments.entities.labels import (
  Classes,
  classify,
  grades_of,
  is_correct,
  label_completion,
  label_record,
  label_trivia,
)
from experiments.entities.modes import MODES
from experiments.entities.prompt_tokens import PromptTokens, tokenize_prompt
from experiments.entities.prompt_types import (
  ENTITY_TYPES,
  PROMPT_TYPES,
  PromptType,
  prompt_types_of,
)
from experiments.entities.records import Record, read_records, write_records
from experiments.entities.refusal_tokens import refusal_tokens
from experiments.entities.refusals import is_refusal
from experiments.entities.splits import Split, split
from experiments.entities.wikidata import process_raw
