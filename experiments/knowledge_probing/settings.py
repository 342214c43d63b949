"""What the study can be told: its flags."""

import dataclasses
from typing import Annotated, Literal

from experiments.inputs import BUNDLED
from experiments.inputs.settings import Dtype
from experiments.runs import (
  Count,
  Few,
  Many,
  Seed,
  Share,
  check_numbers,
  real,
  whole,
)

_Above0 = Annotated[float, real(0, 1, above=True)]
STAGES = ('questions', 'samples', 'scores', 'decisions', 'rows', 'report')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Says how a model's knowledge is probed.

  Attributes:
    out: Folder for everything that is written.
    model: The model: a folder, a hub id such as google/gemma-2-2b-it, or a
      .gguf file. 'miniworld' is the bundled base model, whose truth is known.
    dtype: Data type of weights and activations. Default: that of the
      checkpoint; float32 for a .gguf.
    questions: File of questions: JSON lines as this study writes them, or the
      published TriviaQA format. Default: questions about the bundled world.
    snippets: File of passages (.jsonl, or .txt with blank lines between them)
      that the model itself writes questions about.
    entities: Folder of entity files, one <type>.json per type; every attribute
      of every entity is asked for.
    cities: File of cities in the Wikidata format of arXiv 2411.14257
      (city.json). Their country, continent and language are asked for, beside
      made-up cities of the same countries.
    limit: Most questions of each relation, split and truth; to try things.
    format: How questions are put, 'chat' by the model's own template, 'qa' as
      lines that begin with Question and Answer, 'bare' as they are. Default:
      chat where the model has a chat template, but bare for the bundled one.
    stage: Stage to run; it needs what the stages before it wrote. 'all' runs
      every stage that is not finished.
    prompts: Prompts per question, each with other demonstrations.
    shots: Demonstrations before each question, of the same relation. Default:
      4, but none for the bundled model.
    samples: Sampled answers per prompt, beside a greedy one.
    temperature: Temperature of the samples.
    top_k: Sample among so many of the likeliest tokens only.
    top_p: Sample among the likeliest tokens that together have this
      probability.
    max_new_tokens: Most tokens of an answer.
    slick: Sample as SliCK does: 10 prompts of 4 demonstrations, 16 samples
      each at temperature 0.5 among the 40 likeliest tokens.
    judge: What says that an answer is right. 'cascade' tries exact match, whole
      names, token F1 and spelling in turn; 'reference' is the published string
      matching of TriviaQA; 'llm' asks --judge_model, with the passage.
    judge_model: Model that judges where --judge=llm. Default: the probed one.
    nli_model: Folder of an entailment model of transformers, by which sampled
      answers are told to mean the same. Default: they do if they are equal
      after normalising, or if both decline.
    f1_threshold: Token F1 from which an answer is right, in the cascade.
    fuzzy: Similarity of spelling, from 0 to 1, from which an answer is right.
    rule: Rule that makes training rows, see docs/knowledge_probing.md.
    known_min: Share of right samples from which a question counts as known.
    unknown_max: Share of right samples up to which it counts as unknown.
    consistent_min: Share of samples that must agree on being informative and
      wrong, or on declining.
    rows: Format of the training rows that TRL reads.
    refusal: What is answered where the model does not know. Default: one of
      several texts that name the entity; the bundled world's own for it.
    refusal_style: 'template' takes such a text, 'model' has the model write
      one, which is checked.
    max_refusal_share: Largest share of refusals among the training rows.
    held_out_relation: Relation that no training row asks for.
    p_true: Ask the model, too, whether its own answer is right.
    rank: Have the model rank all answers of a relation by probability, too. The
      probability of the right one among them is a detector, and how often it is
      the likeliest is reported: no answer needs to be read for that.
    sae: SAEs of the model, for a latent as a detector: a release or a folder.
      The bundled model has its own; other models go without unless told.
    seed: Random seed of demonstrations, samples, splits and resamples.
    rows_per_batch: Answers made at once; bounds memory.
    redo: Do everything again, even what an earlier run has finished.
  """

  out: str
  model: str = BUNDLED
  dtype: Dtype | None = None
  questions: str | None = None
  snippets: str | None = None
  entities: str | None = None
  cities: str | None = None
  limit: Many | None = None
  format: Literal['chat', 'qa', 'bare'] | None = None
  stage: Literal[
    'all', 'questions', 'samples', 'scores', 'decisions', 'rows', 'report'
  ] = 'all'
  prompts: Few = 1
  shots: Annotated[int, whole(0, 10_000)] | None = None
  samples: Few = 16
  temperature: Annotated[float, real(0, 100)] = 1.0
  top_k: Count | None = None
  top_p: _Above0 | None = None
  max_new_tokens: Count = 16
  slick: bool = False
  judge: Literal[
    'cascade', 'exact', 'contains', 'f1', 'fuzzy', 'reference', 'llm'
  ] = 'cascade'
  judge_model: str | None = None
  nli_model: str | None = None
  f1_threshold: _Above0 = 0.5
  fuzzy: _Above0 = 0.9
  rule: Literal[
    'correctness', 'llama3', 'craft', 'honesty_absolute', 'honesty_multisample'
  ] = 'llama3'
  known_min: Share = 0.75
  unknown_max: Share = 0.0
  consistent_min: Share = 0.8
  rows: Literal['prompt_completion', 'messages', 'dpo', 'kto'] = (
    'prompt_completion'
  )
  refusal: str | None = None
  refusal_style: Literal['template', 'model'] = 'template'
  max_refusal_share: Share = 0.5
  held_out_relation: str | None = None
  p_true: bool = False
  rank: bool = False
  sae: str | None = None
  seed: Seed = 0
  rows_per_batch: Count = 256
  redo: bool = False

  def __post_init__(self):
    check_numbers(self)
    sources = ('questions', 'snippets', 'entities', 'cities')
    given = [name for name in sources if getattr(self, name) is not None]
    if len(given) > 1:
      raise ValueError(
        f'Questions come from one place, not from --{" and --".join(given)}.'
      )
    if not given and self.model != BUNDLED:
      raise ValueError(
        'What shall be asked? Give --cities, --entities, --snippets or '
        '--questions; only the bundled world comes with questions.'
      )
    if self.unknown_max >= self.known_min:
      raise ValueError(
        f'--unknown_max={self.unknown_max} must be below '
        f'--known_min={self.known_min}: no question is both.'
      )
    if self.prompts > 1 and self.demonstrations == 0:
      raise ValueError(
        f'--prompts={self.prompts} differ by their demonstrations only; give '
        '--shots.'
      )

  @property
  def demonstrations(self) -> int:
    """Demonstrations before each question."""
    if self.shots is not None:
      return self.shots
    return 4 if self.slick or self.model != BUNDLED else 0
