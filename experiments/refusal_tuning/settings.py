"""What the study can be told: its flags."""

import dataclasses
from typing import Annotated, Literal

from experiments.runs import (
  Count,
  Layer,
  Positive,
  Seed,
  Share,
  check_numbers,
  whole,
)

# Arms that are trained, and what their rows are made by.
TUNED = {
  'correctness': 'correctness',
  'llama3': 'llama3',
  'craft': 'craft',
  'multisample': 'honesty_multisample',
  'dpo': 'llama3',
}
UNTUNED, PROMPTED = 'untuned', 'prompted'
TEST, HELD_OUT = 'test', 'held_out_relation'
# Ends the names of parts without made-up entities, where there are such.
REAL = ', real entities'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Says how a model is taught to decline what it does not know.

  Attributes:
    out: Folder for everything that is written.
    probe: Folder of a finished run of experiments.knowledge_probing: its
      model, questions and scores are taken.
    arms: What is compared with the untuned model. 'prompted' is told to admit
      that it does not know; 'correctness', 'llama3', 'craft' and
      'multisample' are trained on rows of these rules; 'dpo' on pairs of an
      answer and a refusal, by the rule llama3.
    inside: Arm whose inside is compared with the untuned model's. Default: the
      trained arm of the highest honesty score on validation questions.
    method: What is trained. 'full' is all weights, 'lora' low-rank changes of
      the query and value matrices. Default: full for the bundled model, else
      lora.
    rank: Rank of LoRA.
    alpha: LoRA's changes are scaled by alpha / rank.
    learning_rate: Highest learning rate. Default: 1e-3.
    dpo_learning_rate: The same for DPO. Default: a tenth of the other.
    beta: Strength of DPO's pull towards the untuned model.
    epochs: Passes over the rows, at most.
    batch: Packed rows of tokens per update.
    accumulation: Parts of a batch that are run one after the other.
    length: Tokens per packed row. Default: 128, or 64 for the bundled model.
    average: Share of the running mean of weights that an update keeps; 0
      judges and keeps the last weights.
    patience: Judgements on validation rows without gain after which training
      stops.
    compute: Data type that training computes in; weights and moments are
      float32.
    data: Devices over which batches are split. Default: those that
      --model_parallel leaves; without it, one device.
    model_parallel: Devices over which heads and hidden units are split.
    rehearsal_epochs: Passes over the known rows in CRaFT's rehearsal.
    rows: Most training rows of an arm, drawn evenly over relations.
    ordinary: Ordinary requests that are rehearsed beside the rows, with the
      untuned model's own answers, so that it does not learn to decline
      everything. 0 trains on the rows alone.
    max_refusal_share: Largest share of refusals among them; CRaFT's paper has
      0.8.
    text: Plain text (.txt) on which perplexity is measured. Default: the
      bundled world's text, or for real models the documentation of the Python
      language.
    text_tokens: Tokens of that text.
    sae: SAEs of the base model: a release or a folder. The bundled model has
      its own; other models are compared by directions alone.
    layers: Layers that are looked at inside, from 0. Default: those of the
      SAEs, or five spread over the model.
    closely: Prompts that are steered and patched, at most.
    max_new_tokens: Most tokens of an answer.
    seed: Random seed of training and of resamples.
    rows_per_batch: Answers made at once; bounds memory.
    redo: Do everything again, even what an earlier run has finished.
  """

  out: str
  probe: str
  arms: tuple[str, ...] = (PROMPTED, *TUNED)
  inside: str | None = None
  method: Literal['full', 'lora'] | None = None
  rank: Count = 16
  alpha: Positive = 32.0
  learning_rate: Positive = 1e-3
  dpo_learning_rate: Positive | None = None
  beta: Positive = 0.1
  epochs: Count = 4
  batch: Count = 8
  accumulation: Count = 1
  length: Count | None = None
  average: Share = 0.0
  patience: Count = 3
  compute: Literal['float32', 'bfloat16'] = 'float32'
  data: Count | None = None
  model_parallel: Count = 1
  rehearsal_epochs: Count = 1
  rows: Count = 600
  ordinary: Annotated[int, whole(0)] = 0
  max_refusal_share: Share = 0.5
  text: str | None = None
  text_tokens: Count = 2048
  sae: str | None = None
  layers: tuple[Layer, ...] | None = None
  closely: Count = 48
  max_new_tokens: Count = 24
  seed: Seed = 0
  rows_per_batch: Count = 256
  redo: bool = False

  def __post_init__(self):
    check_numbers(self)
    known = (PROMPTED, *TUNED)
    unknown = [arm for arm in self.arms if arm not in known]
    if unknown or len(set(self.arms)) < len(self.arms):
      raise ValueError(
        f'--arms={",".join(self.arms)} must be different ones of '
        f'{", ".join(known)}; the untuned model is always there.'
      )
    if (
      'dpo' in self.arms and 'llama3' not in self.arms[: self.arms.index('dpo')]
    ):
      raise ValueError('The arm dpo starts from llama3: name that before it.')
    if not set(self.arms) & set(TUNED):
      raise ValueError('--arms has no arm that is trained.')
    if self.inside is not None and self.inside not in set(self.arms) & set(
      TUNED
    ):
      raise ValueError(
        f'--inside={self.inside} is none of the trained arms of --arms.'
      )
    if self.batch % self.accumulation:
      raise ValueError(
        f'--batch={self.batch} is not a multiple of '
        f'--accumulation={self.accumulation}.'
      )
    for name in ('average', 'max_refusal_share'):
      if getattr(self, name) == 1:
        raise ValueError(f'--{name}=1 must be below 1.')
