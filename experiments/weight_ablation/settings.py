"""What the study of weight ablation is told: its flags."""

import dataclasses
from typing import Annotated, Literal

from experiments.inputs.settings import ChatStudy, ControlledLatents
from experiments.runs import Count, Many, whole

Way = Literal['exact', 'reference']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ChatStudy, ControlledLatents):
  """Says which direction is taken out of a chat model, and how it is compared.

  Attributes:
    label: Class of entities whose direction is taken out, and whose latent is
      meant by --direction.
    direction: Direction that is taken out. 'latent' is the latent's decoder
      row; 'mean_difference' goes from the other class's mean to that of
      --label, at the latent's site; anything else is a .safetensors file with
      one tensor [D], or one called 'direction'.
    ways: Ways in which it is taken out; random latents are taken out in the
      first. Default: exact and reference; with --mode=reference, reference.
    save: Write the edited models as checkpoints.
    questions: Questions per entity type and class.
    max_new_tokens: Most tokens of an answer.
    rows_per_batch: Answers that are generated at once.
    text: Plain text (.txt, a document per line, or .jsonl) that models are
      compared on. Default: for miniworld its own; for others none.
    text_field: Field of a .jsonl object that has the text.
    text_documents: Documents of the text that are read.
    text_window: Most tokens that are read of each document.
  """

  label: Literal['known', 'unknown'] = 'unknown'
  direction: str = 'latent'
  ways: tuple[Way, ...] | None = None
  save: bool = True
  questions: Count = 25
  max_new_tokens: Count = 30
  rows_per_batch: Count = 256
  text: str | None = None
  text_field: str = 'text'
  text_documents: Many = 400
  text_window: Annotated[int, whole(2)] = 64

  def __post_init__(self):
    super().__post_init__()
    if self.ways == ():
      raise ValueError('--ways is empty; it must be some of exact, reference.')

  @property
  def chosen_ways(self) -> list[Way]:
    """Returns the ways in which the direction is taken out, each once."""
    if self.ways is not None:
      return list(dict.fromkeys(self.ways))
    return ['exact', 'reference'] if self.mode == 'default' else ['reference']
