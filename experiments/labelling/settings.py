"""What labelling is told: its flags."""

import dataclasses
from typing import Annotated, Literal

from experiments.inputs.settings import BaseModel, Entities, Mode, RunSettings
from experiments.labelling.study import FAMILIES, LabelConfig
from experiments.runs import Count, real, whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(RunSettings, BaseModel, Entities):
  """Whom a model is asked about, and how its answers are judged.

  Attributes:
    mode: 'reference' does what the published code did, its defects included.
      It sets --correctness, --refusal_detector and --drop_qid_labels, which can
      be set apart.
    seed: Random seed of the sampled answers.
    correctness: How right answers are told from wrong ones. Default: what
      --mode says.
    refusal_detector: How refusals are told from answers. Default: what --mode
      says.
    drop_qid_labels: Leave out raw entities whose label is a bare Q-id. Default:
      what --mode says.
    types: Entity types to ask about. Default: all there are.
    max_entities: Most entities of each type, the first ones by name; to try
      things.
    family: Which prompts the model gets; 'base' is question and beginning of
      the answer, as text; 'chat' is the question in the chat template, and the
      beginning of the answer; 'free' is the question alone.
    num_samples: Number of sampled answers per question.
    temperature: Temperature of the sampled answers.
    max_new_tokens: Most tokens per answer.
    stop_at_line_break: End answers at a line break, too. This is faster; the
      paper went on, and scored what followed.
    min_correct: Number of right samples that make an attribute known.
    min_known: Number of known attributes that make an entity known.
    rows_per_batch: Answers that are generated at once. Only speed and memory
      depend on it.
  """

  correctness: Mode | None = None
  refusal_detector: Mode | None = None
  drop_qid_labels: bool | None = None
  types: tuple[str, ...] | None = None
  max_entities: Count | None = None
  family: Literal[*FAMILIES] = 'base'
  num_samples: Annotated[int, whole(1, 10_000)] = 10
  temperature: Annotated[float, real(0, 100)] = 1.0
  max_new_tokens: Count = 32
  stop_at_line_break: bool = False
  min_correct: Count = 3
  min_known: Count = 2
  rows_per_batch: Count = 512

  @property
  def drops_qid_labels(self) -> bool:
    """Returns True if entities whose label is a bare Q-id are left out."""
    if self.drop_qid_labels is None:
      return self.mode == 'default'
    return self.drop_qid_labels

  def label_config(self) -> LabelConfig:
    """Returns the options of asking and judging.

    Raises:
      ValueError: more right samples are wanted than are drawn.
    """
    return LabelConfig(
      family=self.family,
      num_samples=self.num_samples,
      temperature=self.temperature,
      max_new_tokens=self.max_new_tokens,
      stop_at_line_break=self.stop_at_line_break,
      seed=self.seed,
      mode=self.correctness or self.mode,
      refusal_mode=self.refusal_detector or self.mode,
      min_correct=self.min_correct,
      min_known=self.min_known,
    )
