"""What passes from stage to stage: questions, answers, scores, decisions.

Every stage reads and writes JSON lines, one record each; the fields of a line
are those of the dataclass.
"""

from collections.abc import Mapping
import dataclasses
from typing import Literal

Decision = Literal['answer', 'refuse', 'refuse_keep', 'unsure', 'drop']
DECISIONS: tuple[Decision, ...] = (
  'answer',
  'refuse',
  'refuse_keep',
  'unsure',
  'drop',
)
Category = Literal['HighlyKnown', 'MaybeKnown', 'WeaklyKnown', 'Unknown']
CATEGORIES: tuple[Category, ...] = (
  'HighlyKnown',
  'MaybeKnown',
  'WeaklyKnown',
  'Unknown',
)
SPLITS = ('shots', 'train', 'validation', 'test')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snippet:
  """A passage that questions are asked about.

  Attributes:
    id: Name of the snippet.
    text: The passage.
    source: Where it is from.
    entity: What it is about, if that is known.
    type: The entity's type.
  """

  id: str
  text: str
  source: str = ''
  entity: str | None = None
  type: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
  """A question with its right answers.

  Attributes:
    id: Name of the question.
    question: What is asked.
    answers: Right ones, the canonical one first, then its other names.
    context: A passage that answers it.
    relation: What is asked of an entity, such as 'country'.
    entity: What it is about; intervals resample entities.
    type: The entity's type.
    group: What is never cut by a split, such as the country of a city; None is
      the entity.
    split: One of SPLITS, if the file decides that: questions of 'shots' are
      only shown as demonstrations. None leaves it to the study.
    known: True if the training text holds the answer; None where nobody knows.
  """

  id: str
  question: str
  answers: tuple[str, ...]
  context: str | None = None
  relation: str | None = None
  entity: str | None = None
  type: str | None = None
  group: str | None = None
  split: str | None = None
  known: bool | None = None

  @property
  def cluster(self) -> str:
    """Returns what intervals resample: the entity, or the question."""
    return self.id if self.entity is None else self.entity

  @property
  def unit(self) -> str:
    """Returns what a split does not cut."""
    return self.cluster if self.group is None else self.group


@dataclasses.dataclass(frozen=True, kw_only=True)
class Said:
  """One answer of the model.

  Attributes:
    text: Without what ended it.
    logprob: Sum over its tokens, its end included, in nats, under the model
      itself, whatever the temperature.
    ntok: Tokens, the end included.
    stop: True if it ended by itself.
    prompt: Number of the prompt that it continues.
    temperature: Temperature of the sampling; 0 is greedy.
    first_prob: Highest probability of any first token.
  """

  text: str
  logprob: float
  ntok: int
  stop: bool
  prompt: int
  temperature: float
  first_prob: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled:
  """All answers to a question.

  Attributes:
    id: The question's.
    greedy: One per prompt.
    samples: In the order of prompts, then of samples.
  """

  id: str
  greedy: tuple[Said, ...]
  samples: tuple[Said, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """Says how one answer was judged.

  Attributes:
    correct: By the judge that was chosen.
    exact: By exact match of the normalised first line.
    rule: The rule of the cascade that decided, or why none did.
    informative: True if it gives an answer, right or wrong.
    refusal: True if it declines.
    hedged: True if it answers, but admits doubt.
  """

  correct: bool
  exact: bool
  rule: str
  informative: bool
  refusal: bool
  hedged: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """Holds what the answers to a question amount to.

  Attributes:
    id: The question's.
    greedy: A verdict on each greedy answer.
    samples: A verdict on each sampled one.
    cluster: Number of each sample's cluster of meaning.
    p_correct_greedy: Share of greedy answers that are right.
    p_correct: Share of samples that are right.
    p_correct_interval: Wilson's interval of that.
    semantic_entropy: In nats, clusters weighted by probability.
    discrete_entropy: In nats, clusters weighted by how many samples they have.
    naive_entropy: Less the mean of the samples' mean log-probabilities.
    n: Samples.
    category: SliCK's.
  """

  id: str
  greedy: tuple[Verdict, ...]
  samples: tuple[Verdict, ...]
  cluster: tuple[int, ...]
  p_correct_greedy: float
  p_correct: float
  p_correct_interval: tuple[float, float]
  semantic_entropy: float
  discrete_entropy: float
  naive_entropy: float
  n: int
  category: Category


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decided:
  """Holds what a rule makes of a question.

  Attributes:
    id: The question's.
    rule: Name of the rule.
    decision: What to do.
    split: One of SPLITS, or 'held_out_relation'.
  """

  id: str
  rule: str
  decision: Decision
  split: str


def to_json(record) -> dict:
  """Returns a record's fields for JSON, but for those that are None."""
  return {
    key: value
    for key, value in dataclasses.asdict(record).items()
    if value is not None
  }


def read_question(row: Mapping) -> Question:
  """Returns a question from an object of JSON."""
  return Question(**{**row, 'answers': tuple(row['answers'])})


def read_sampled(row: Mapping) -> Sampled:
  """Answers from an object of JSON."""
  return Sampled(
    id=row['id'],
    greedy=tuple(Said(**each) for each in row['greedy']),
    samples=tuple(Said(**each) for each in row['samples']),
  )


def read_score(row: Mapping) -> Score:
  """Returns a score from an object of JSON."""
  verdicts = {
    name: tuple(Verdict(**each) for each in row[name])
    for name in ('greedy', 'samples')
  }
  low, high = row['p_correct_interval']
  return Score(
    **{
      **row,
      **verdicts,
      'cluster': tuple(row['cluster']),
      'p_correct_interval': (low, high),
    }
  )
