"""What a probe has found, and how it is read from its folder."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib

from experiments.knowledge_probing import probe_records as lib
from experiments.knowledge_probing.rules import RULES
from experiments.runs import outputs


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Probed:
  """Holds what a probe has found so far.

  Attributes:
    questions: All questions, those of demonstrations too.
    splits: Id -> split.
    sampled: Id -> what the model said.
    scores: Id -> what that amounts to.
    decisions: Rule -> id -> what to do.
  """

  questions: Sequence[lib.Question]
  splits: Mapping[str, str]
  sampled: Mapping[str, lib.Sampled]
  scores: Mapping[str, lib.Score]
  decisions: Mapping[str, Mapping[str, lib.Decision]]

  @property
  def asked(self) -> list[lib.Question]:
    """Returns the questions that were asked: all but demonstrations."""
    return [q for q in self.questions if self.splits[q.id] != 'shots']


def read_probe(folder: pathlib.Path) -> Probed:
  """Returns what a finished probe has written.

  Raises:
    FileNotFoundError: the folder has no finished probe.
  """
  for name in ('questions', 'samples', 'scores'):
    if not (folder / f'{name}.jsonl').is_file():
      raise FileNotFoundError(
        f'{folder} has no {name}.jsonl, so no finished probe. Run '
        f'`python -m experiments.knowledge_probing --out={folder}` first.'
      )
  questions = [lib.read_question(x) for x in _rows(folder / 'questions.jsonl')]
  sampled = _rows(folder / 'samples.jsonl')
  scores = _rows(folder / 'scores.jsonl')
  decisions = {}
  for rule in RULES:
    decided = _rows(decisions_file(folder, rule))
    decisions[rule] = {row['id']: row['decision'] for row in decided}
  return Probed(
    questions=questions,
    splits={q.id: q.split for q in questions},
    sampled={row['id']: lib.read_sampled(row) for row in sampled},
    scores={row['id']: lib.read_score(row) for row in scores},
    decisions=decisions,
  )


def _rows(path: pathlib.Path) -> list[dict]:
  return [row for _, row in outputs.read_objects(path)]


def decisions_file(folder: pathlib.Path, rule: str) -> pathlib.Path:
  """Returns where a rule's decisions are, in a run's folder."""
  return folder / 'decisions' / f'{rule}.jsonl'


def pools_of(questions, splits) -> dict[str | None, list[lib.Question]]:
  """Relation -> the questions that are shown as demonstrations."""
  pools = {}
  for q in questions:
    if splits[q.id] == 'shots':
      pools.setdefault(q.relation, []).append(q)
  return pools
