"""What the study can be told: its flags."""

import dataclasses
from typing import Annotated, Literal

from experiments.inputs import BUNDLED
from experiments.inputs.settings import Dtype, Mode
from experiments.runs import Count, Few, Seed, check_numbers, whole

# What is run where --tasks is not given.
MINIWORLD_TASKS = ('city_country', 'player_teams_list')
REAL_TASKS = ('capitals', 'products', 'countries')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Says how factual recall is studied.

  Attributes:
    out: Folder for everything that is written. The table at the end compares
      the run with those in the folders beside it.
    model: The model: a folder, a hub id such as openai-community/gpt2, or a
      .gguf file. 'miniworld' is the bundled one, whose truth is known.
    dtype: Data type of weights and activations. Default: that of the
      checkpoint; float32 for a .gguf.
    tasks: Tasks: built-in ones by name, or JSON files (see
      experiments/factual_recall/tasks.py). Default: capitals, products and
      countries; two relations of the bundled world for its model.
    shots: Numbers of demonstrations before each prompt.
    prompts: Most prompts per task; templates beyond are left out, but for one.
      The published set is 15 nations in 15 templates, --prompts=225.
    single_token: Keep only facts whose subject and answer are one token each.
    donor: What a head or MLP is replaced by in path patching. 'mean' is its
      mean over corrupted prompts, as published; 'paired' its output after the
      prompt's own corrupted one.
    receivers: Later components whose inputs are patched too, such as L9H8 or
      MLP10.
    heads: How many of the strongest heads are looked at closely, and are called
      the argument heads.
    rest: True if the rest of the stream is a regressor beside the heads, in the
      regression of MLPs.
    sae: SAEs of the model: a release or a folder, for latents that know. The
      bundled model has its own; other models go without unless told.
    text: Plain text (.txt) for token frequencies and for the price of undoing
      the last layer. Default: the bundled world's text, or for real models the
      documentation of the Python language, which every Python has.
    text_tokens: Tokens of that text which the price is measured on.
    closely: Most prompts per task for what runs each of them many times: path
      patching, attention knockouts and extraction. All subjects are among them
      if there is room.
    mode: 'reference' keeps the defects of the published code: means over
      absolute positions, padding and answers included; corrupted possessives
      that lose their 's; one prompt in 15 that is not corrupted.
    seed: Random seed of corruptions, splits and resamples.
    rows_per_batch: Prompts run at once; bounds memory.
    redo: Do everything again, even what an earlier run has finished.
  """

  out: str
  model: str = BUNDLED
  dtype: Dtype | None = None
  tasks: tuple[str, ...] | None = None
  shots: tuple[Annotated[int, whole(0, 10_000)], ...] = (0, 1, 4)
  prompts: Count = 120
  single_token: bool = False
  donor: Literal['mean', 'paired'] = 'mean'
  receivers: tuple[str, ...] = ()
  heads: Few = 5
  rest: bool = False
  sae: str | None = None
  text: str | None = None
  text_tokens: Count = 1024
  closely: Count = 30
  mode: Mode = 'default'
  seed: Seed = 0
  rows_per_batch: Count = 128
  redo: bool = False

  def __post_init__(self):
    check_numbers(self)
    if not self.shots:
      raise ValueError('--shots is empty; give a number at least, such as 0.')
    if len(set(self.shots)) < len(self.shots):
      raise ValueError('--shots names a number twice.')

  @property
  def chosen_tasks(self) -> tuple[str, ...]:
    """Returns the tasks, by default those that suit the model."""
    if self.tasks:
      return self.tasks
    return MINIWORLD_TASKS if self.model == BUNDLED else REAL_TASKS
