"""What an entity-recognition run is told: its flags."""

import dataclasses
from typing import Annotated, Literal

from experiments.inputs.documents import SEPARATORS
from experiments.inputs.settings import (
  BaseModel,
  ChatModel,
  Entities,
  RunSettings,
  SAELayers,
)
from experiments.runs import Count, whole
from experiments.steering import Steered


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Steered, RunSettings, BaseModel, ChatModel, SAELayers, Entities):
  """Says how latents that know are found and steered with.

  Attributes:
    mode: 'reference' does what the published code did, its defects included,
      where published numbers are to be compared with: how answers and refusals
      are read, what latents are selected on, which random latents are controls,
      and how plain text is counted.
    types: Entity types to use. Default: all there are.
    max_entities: Most entities of each type, the first ones by name; to try
      things.
    labels: Folder of answers of the base model, as experiments.labelling and
      the published code write them.
    num_samples: Sampled answers per question that label an entity; an entity
      is known if 3 of them are right.
    text: Plain text (.txt or .jsonl). Latents that fire on 2 % of its words or
      more are not chosen. The paper has pile-10k. Default: no such filter.
    text_field: Field of a .jsonl object that has the text.
    separator: What ends a document of a .txt file.
    text_documents: Documents of the text that are read.
    text_window: Most tokens that are read of each document.
    num_random: Number of random latents that each chosen latent is compared
      with, of its layer and matched in frequency, or else the nearest to it;
      and number of random directions.
    num_permutations: Number of searches with shuffled labels; 0 leaves them
      out.
    harvest_batch: Prompts per run of the model.
    figures: Formats of files that every figure is written to. They need kaleido
      and Chrome.
  """

  types: tuple[str, ...] | None = None
  max_entities: Annotated[int, whole(9)] | None = None
  labels: str | None = None
  num_samples: Annotated[int, whole(3, 10_000)] = 10
  text: str | None = None
  text_field: str = 'text'
  separator: Literal[*SEPARATORS] = 'line'
  text_documents: Annotated[int, whole(1, 10**9)] = 10_000
  text_window: Annotated[int, whole(2)] = 128
  num_random: Annotated[int, whole(2, 10_000)] = 20
  num_permutations: Annotated[int, whole(0)] = 200
  harvest_batch: Count = 128
  figures: tuple[str, ...] = ()
