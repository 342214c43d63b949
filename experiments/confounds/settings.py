"""What a check of confounds is told: its flags."""

import dataclasses
from typing import Annotated

from experiments.inputs.settings import BaseStudy, ChatModel, ChosenLatents
from experiments.runs import Count, Many, whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(BaseStudy, ChatModel, ChosenLatents):
  """Holds what two latents are checked with.

  Attributes:
    chat_model: The chat model that was tuned from the base model, such as
      google/gemma-2-2b-it. Its latents are those of the base model. An empty
      value leaves it out.
    text: Plain text, .txt or .jsonl, for likelihoods and frequencies. Default:
      MiniWorld's with its model, else none.
    text_field: Field of a .jsonl object that has the text.
    text_documents: Documents whose tokens are read.
    count_documents: Documents in which names and their tokens are counted.
    text_window: Most tokens that are read of each document.
    text_batch: Documents that are run at once.
    frequencies: File that says how often names are met: .tsv of name and count,
      or .json. Default: names are counted in the text.
    familiar: Folder of entity files: names that the training text has, of which
      the model can know nothing. Default: MiniWorld's tail with its entities,
      else none.
    other_saes: Other SAEs of the same model to compare with, such as retrained
      ones or other widths: folders or releases, SOURCE or SOURCE@WIDTH.
    bins: Number of bins of each covariate that names are matched by.
    num_permutations: Number of searches with shuffled labels behind the p-value
      of the selection.
    num_shuffles: Number of whole runs with shuffled labels that are measured on
      test entities.
    num_splits: Number of other random halves of the entities.
    refusals: Entities per type and kind of name that the chat model is asked
      about; 0 asks nothing.
    max_new_tokens: Most tokens of an answer.
    rows_per_batch: Answers that are generated at once.
  """

  text: str | None = None
  text_field: str = 'text'
  text_documents: Annotated[int, whole(2, 10**9)] = 2000
  count_documents: Many = 50_000
  text_window: Annotated[int, whole(4)] = 128
  text_batch: Count = 32
  frequencies: str | None = None
  familiar: str | None = None
  other_saes: tuple[str, ...] = ()
  bins: Count = 4
  num_permutations: Count = 200
  num_shuffles: Count = 50
  num_splits: Annotated[int, whole(2)] = 20
  refusals: Annotated[int, whole(0)] = 12
  max_new_tokens: Count = 30
  rows_per_batch: Count = 128
