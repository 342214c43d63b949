"""What a harvest is told: its flags."""

import dataclasses
from typing import Annotated, Literal

from experiments.activations.token_selection import DENOMINATORS
from experiments.harvest.store import DTYPES
from experiments.inputs.documents import SEPARATORS
from experiments.inputs.settings import (
  BaseModel,
  Entities,
  RunSettings,
  SAELayers,
)
from experiments.runs import Count, Many, whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(RunSettings, BaseModel, SAELayers, Entities):
  """Holds what is read, of which prompts.

  Attributes:
    mode: 'reference' does what the published code did, its defects included.
      Here it sets --pile_denominator and --drop_qid_labels, which can be set
      apart.
    seed: Random seed of the choice of random words.
    layers: Layers, counted from 0, of SAEs, and of sites with --store. Default:
      all that have an SAE, except the last layer of the model, whose output no
      layer reads; all of the model with --store. The paper counts resid_pre:
      its layer 13 is layer 12 here.
    text: A .txt or .jsonl file of prompts that are read instead of --entities.
    text_field: Field of a .jsonl object that has the prompt.
    entity_field: Field of a .jsonl object that has the name of the entity, or
      the place of its characters.
    separator: What ends a prompt of a .txt file: every line, or a blank one.
    prompt: What is said about an entity; 'activation' is "The city 'Paris'",
      'question' every question about its attributes (for a base model with the
      beginning of an answer).
    chat: Prompts are what the user says; the template of the chat model is put
      around them, with the model's turn opened.
    parse_special: Read '<start_of_turn>' and the like written out in --text as
      those tokens, and not as ordinary text.
    tokens: Which token is read; entity (the last of its name), random (the last
      of a random word), model (the one that opens the model's turn), last, or
      any text, such as ? (the last token of its first occurrence;
      substring:last for a text that is a choice itself). Default: entity, or
      random with --text.
    window: Most tokens of a prompt, BOS included; longer ones are cut.
    pile_denominator: Where random words are drawn; inside the window, so that
      every document has one; or in the whole document, where those outside the
      window count as inactive, as published. Default: what --mode says.
    drop_qid_labels: Leave out raw entities whose label is a bare Q-id. Default:
      what --mode says.
    limit: Most prompts that are read, the first ones.
    scores: Sum the latents of SAEs.
    store: Write activations to disk.
    site: Sites of the model that are written with --store, in the spelling of
      this project, TransformerLens or HF, at --layers or else at all layers.
    store_dtype: Data type of stored activations. Default: that of the model.
    batch_size: Prompts per run of the model. Only speed and memory depend on
      it.
  """

  text: str | None = None
  text_field: str = 'text'
  entity_field: str = 'entity'
  separator: Literal[*SEPARATORS] = 'line'
  prompt: Literal['activation', 'question'] = 'activation'
  chat: bool = False
  parse_special: bool = False
  tokens: str | None = None
  window: Annotated[int, whole(2)] = 128
  pile_denominator: Literal[*DENOMINATORS] | None = None
  drop_qid_labels: bool | None = None
  limit: Many | None = None
  scores: bool = True
  store: bool = False
  site: tuple[str, ...] = ('resid_post',)
  store_dtype: Literal[*DTYPES] | None = None
  batch_size: Count = 64

  def __post_init__(self):
    super().__post_init__()
    if not (self.scores or self.store):
      raise ValueError('--noscores without --store leaves nothing to do.')
    if self.store and not self.site:
      raise ValueError('--site is empty; --store needs one site at least.')

  def settled(self) -> 'Settings':
    """Returns the settings with what depends on other flags filled in."""
    published = self.mode == 'reference'
    defaults = {
      'tokens': 'entity' if self.text is None else 'random',
      'pile_denominator': DENOMINATORS[published],
      'drop_qid_labels': not published,
    }
    missing = {k: v for k, v in defaults.items() if getattr(self, k) is None}
    return dataclasses.replace(self, **missing)
