"""What can be chosen in the study of latents.

Each departure of `reference` from the default is a switch of its own
(paper.md, 10.1): no. 2 `selection_split`, no. 7 `random_pool`; and `criterion`,
which the paper has as the firing frequency.
"""

import dataclasses

from experiments.latents.class_sums import SPLITS
from experiments.latents.criteria import CRITERIA
from experiments.latents.selection import MAX_TEXT_FREQUENCY

SELECTION_SPLITS = ('train', 'all')
RANDOM_POOLS = ('matched', 'zero_score')
_REFERENCE = {
  'selection_split': 'all',
  'random_pool': 'zero_score',
  'criterion': 'frequency',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnalysisOptions:
  """Says how latents are selected, controlled and described.

  Attributes:
    selection_split: Entities to select on: 'train', or 'all', test included.
    criterion: One of criteria.CRITERIA: what the latents that are steered with
      are chosen by. Those of the others stand beside them.
    num_chosen: Latents of each label.
    max_text_frequency: Chosen latents fire on a smaller share of plain text;
      None switches the filter off.
    at_least: Entities that a class of a type must have to select on.
    random_pool: 'matched' or 'zero_score' random latents.
    num_random: How many of each label's best latent.
    num_permutations: Number of permutations of the null of the selection; 0
      leaves it out.
    num_described: Chosen latents of each label whose entities and tokens are
      listed.
    num_listed: How many of each.
    final_norm_gain: True if promoted tokens take the final norm's gain in.
    seed: Random seed of all draws.
  """

  selection_split: str = 'train'
  criterion: str = 'auroc'
  num_chosen: int = 10
  max_text_frequency: float | None = MAX_TEXT_FREQUENCY
  at_least: int = 5
  random_pool: str = 'matched'
  num_random: int = 20
  num_permutations: int = 200
  num_described: int = 3
  num_listed: int = 10
  final_norm_gain: bool = False
  seed: int = 0

  def __post_init__(self):
    for name, choices in (
      ('selection_split', SELECTION_SPLITS),
      ('criterion', tuple(CRITERIA)),
      ('random_pool', RANDOM_POOLS),
    ):
      if getattr(self, name) not in choices:
        raise ValueError(
          f'{name} is {getattr(self, name)!r}, expected one of {choices}.'
        )
    for name in ('num_chosen', 'at_least', 'num_random', 'num_listed'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} is {getattr(self, name)}, expected 1 up.')

  @classmethod
  def for_mode(cls, mode: str, **changes) -> 'AnalysisOptions':
    """Returns the options of 'default' or 'reference', with changes."""
    if mode not in ('default', 'reference'):
      raise ValueError(f"mode is {mode!r}, expected 'default' or 'reference'.")
    return cls(**(_REFERENCE if mode == 'reference' else {}) | changes)

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits to select on."""
    return SPLITS if self.selection_split == 'all' else ('train',)
