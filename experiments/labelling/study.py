"""Has a model answer questions about entities, and labels what it says.

Every question about an entity gets one greedy completion and some sampled
ones. What is done is kept in `<out>/chunks`, a file per batch, until all is
done and `<out>/records` takes its place. A sample's seed is made from the run's
seed, the prompt type, the entity's name and the sample's number, so that it
does not depend on which other entities there are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import os
import pathlib
import shutil
from typing import NamedTuple

import tqdm

from experiments.entities import entity_prompts
from experiments.entities.completions import complete
from experiments.entities.entity import Entity
from experiments.entities.labels import Classes, classify, label_record
from experiments.entities.modes import is_reference
from experiments.entities.prompt_tokens import PromptTokens, tokenize_prompt
from experiments.entities.prompt_types import PromptType, prompt_types_of
from experiments.entities.records import Record, read_records, write_records
from experiments.entities.sampling import seed_of
from experiments.runs import checksums, outputs
from experiments.runs.checksums import of_value
from experiments.runs.stages import Chunks
from experiments.stats.intervals import wilson
import gemma_jax as gj

# base: question and beginning of the answer, as text. chat: the question in
# the chat template, and the beginning. free: the question alone.
FAMILIES = ('base', 'chat', 'free')
RECORDS = 'records'
_CHUNKS, _IDENTITY, _SHA256 = 'chunks', 'run.json', 'checksums.json'


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelConfig:
  """Says how to ask, and how to judge. Defaults are the paper's.

  Attributes:
    family: One of FAMILIES; known and unknown are the base model's.
    num_samples: Sampled completions, besides the greedy one.
    temperature: Temperature of the samples.
    max_new_tokens: Most tokens per completion.
    stop_at_line_break: If true, a line break ends a completion, as the ends of
      a document and of a turn do. What comes after is not scored.
    seed: Random seed of the samples.
    mode: How answers are judged, 'default' or 'reference'.
    refusal_mode: How refusals are told, likewise; None for `mode`.
    min_correct: Right samples that make an attribute known.
    min_known: Known attributes that make an entity known.
  """

  family: str = 'base'
  num_samples: int = 10
  temperature: float = 1.0
  max_new_tokens: int = 32
  stop_at_line_break: bool = False
  seed: int = 0
  mode: str = 'default'
  refusal_mode: str | None = None
  min_correct: int = 3
  min_known: int = 2

  def __post_init__(self):
    if self.family not in FAMILIES:
      raise ValueError(
        f'family is {self.family!r}, expected one of {FAMILIES}.'
      )
    is_reference(self.mode)
    is_reference(self.refusal_mode or self.mode)
    if not 1 <= self.min_correct <= self.num_samples:
      raise ValueError(
        f'min_correct={self.min_correct} right samples are to be found among '
        f'num_samples={self.num_samples}; raise the latter, or lower the '
        'former, to 1 at least.'
      )
    if self.max_new_tokens < 1 or self.min_known < 1 or self.temperature < 0:
      raise ValueError(
        'max_new_tokens and min_known must be at least 1, temperature at least '
        f'0, got {self.max_new_tokens}, {self.min_known}, {self.temperature}.'
      )


class Labelled(NamedTuple):
  """Holds what was found.

  Attributes:
    records: Prompt type -> records, both sorted by name.
    classes: Entity type -> known, unknown and discarded entities.
    results: Counts and shares with intervals, for results.json.
  """

  records: dict[str, list[Record]]
  classes: dict[str, Classes]
  results: dict


@dataclasses.dataclass(frozen=True)
class _Query:
  """One prompt type, asked about one entity."""

  prompt_type: PromptType
  entity: Entity
  question: str | None
  prompt: PromptTokens

  @property
  def key(self) -> tuple[str, str]:
    return self.prompt_type.name, self.entity.name


def label_entities(
  model: gj.Decoder | Callable[[], gj.Decoder],
  tokenizer: gj.Tokenizer,
  entities: Mapping[str, Sequence[Entity]],
  out: str | os.PathLike,
  *,
  identity: Mapping,
  config: LabelConfig | None = None,
  name: str = RECORDS,
  rows_per_batch: int = 512,
) -> Labelled:
  """Labels all completions, and with them the entities.

  Called again with the same arguments it goes on where it was interrupted, or,
  if it was done, reads what there is.

  Args:
    model: The model, stacked; or what loads it, called only where there is
      something left to generate.
    tokenizer: The model's tokenizer.
    entities: Type -> entities, with unique names per type.
    out: Folder; gets the records, and run.json, which says whose they are.
    identity: What tells the model and its tokenizer from others.
    config: How to ask and to judge.
    name: Name of the folder of records in `out`.
    rows_per_batch: Completions that are generated at once: bounds memory.

  Raises:
    ValueError: `out` has records of another model, other entities or another
      configuration, or that were changed; no entity of a type can be known,
      having too few attributes; a prompt is too long for the model.
  """
  config = config or LabelConfig()
  out = pathlib.Path(out)
  queries = _queries(tokenizer, entities, config)
  identity = _identity(identity, queries, config)
  begun = (out / name).exists() or any((out / _CHUNKS).glob('*.json'))
  outputs.check_same_run(out / _IDENTITY, identity, begun)
  chunks = Chunks(out / _CHUNKS, identity)
  found = ()
  if (out / name).exists() and not (other := _changed(out, name)):
    found = itertools.chain(*read_records(out / name).values())
  elif chunks.names():
    found = map(_of_row, chunks.rows())
  elif (out / name).exists():
    raise ValueError(
      f'{out / name / other[0]} is not what the model answered: it was changed '
      f'since. Delete {out / name} to have the questions answered again. To go '
      'by the changed answers, give experiments.entity_recognition '
      f'--labels={out / name} and another --out.'
    )
  done = {(record.prompt_type, record.entity): record for record in found}
  missing = [query for query in queries if query.key not in done]
  if missing:
    loaded = model if isinstance(model, gj.Decoder) else model()
    with tqdm.tqdm(
      desc='Labelling',
      total=len(queries),
      initial=len(queries) - len(missing),
      unit='prompt',
    ) as bar:
      for batch in _generate(
        loaded, tokenizer, missing, config, rows_per_batch
      ):
        chunks.append(map(dataclasses.asdict, batch))
        done |= {(r.prompt_type, r.entity): r for r in batch}
        bar.update(len(batch))
  records = {}
  for query in queries:
    records.setdefault(query.prompt_type.name, []).append(done[query.key])
  if missing or (out / _CHUNKS).exists():
    with outputs.replaced_folder(out / name) as folder:
      write_records(folder, records)
    outputs.write_json(out / _SHA256, _checksums(out / name))
    shutil.rmtree(out / _CHUNKS, ignore_errors=True)
  classes = classify(records, config.min_correct, config.min_known)
  return Labelled(records, classes, summarize(records, classes, config))


def summarize(
  records: Mapping[str, Sequence[Record]],
  classes: Mapping[str, Classes],
  config: LabelConfig,
) -> dict:
  """Returns counts and shares, for results.json."""
  prompt_types = {}
  for name, group in records.items():
    greedy = [record.string_matching_greedy_label for record in group]
    known = sum(r.correct_samples() >= config.min_correct for r in group)
    prompt_types[name] = {
      'greedy': {
        label: wilson(greedy.count(label), len(group)).to_dict()
        for label in ('correct', 'refusal', 'error')
      },
      'known_attribute': wilson(known, len(group)).to_dict(),
    }
  return {
    'config': dataclasses.asdict(config),
    'prompt_types': prompt_types,
    'types': {
      entity_type: {
        'known': len(group.known),
        'unknown': len(group.unknown),
        'discarded': len(group.discarded),
      }
      for entity_type, group in classes.items()
    },
  }


def _queries(tokenizer, entities, config) -> list[_Query]:
  """Returns all that is asked, sorted by prompt type and name."""
  queries = []
  for entity_type, group in entities.items():
    asked = [prompt_types_of(entity) for entity in group]
    if max(map(len, asked), default=0) < config.min_known:
      raise ValueError(
        f'No {entity_type} can be known: of {len(group)}, none has '
        f'min_known={config.min_known} attributes that are asked about. Give '
        'them more attributes, or leave the type out.'
      )
    for entity, prompt_types in zip(group, asked, strict=True):
      queries += [
        _query(tokenizer, prompt_type, entity, config.family)
        for prompt_type in prompt_types
      ]
  return sorted(queries, key=lambda query: query.key)


def _query(tokenizer, prompt_type, entity, family) -> _Query:
  if family == 'base':
    prompt = entity_prompts.base_prompt(prompt_type, entity)
    tokens = tokenize_prompt(tokenizer, prompt)
    return _Query(prompt_type, entity, None, tokens)
  prompt = entity_prompts.question_prompt(prompt_type, entity)
  stub = prompt_type.chat_stub if family == 'chat' else ''
  tokens = tokenize_prompt(tokenizer, prompt, chat=True, stub=stub)
  return _Query(prompt_type, entity, prompt.text, tokens)


def _generate(
  model, tokenizer, queries, config, rows_per_batch
) -> Iterator[list[Record]]:
  """Yields labelled records, batch by batch."""
  for query in queries:
    positions = len(query.prompt.ids) + config.max_new_tokens
    if positions > model.config.max_positions:
      raise ValueError(
        f'{query.prompt_type.name} of {query.entity.name!r} needs {positions} '
        f'positions; the model has {model.config.max_positions}. Leave this '
        'entity out, or lower max_new_tokens.'
      )
  numbers = range(1 + config.num_samples)  # 0 is the greedy one
  made = complete(
    model,
    tokenizer,
    [query.prompt.ids for query in queries],
    [
      [seed_of(config.seed, *query.key, i) for i in numbers]
      for query in queries
    ],
    temperatures=[0.0] + [config.temperature] * config.num_samples,
    max_new_tokens=config.max_new_tokens,
    stop_at_line_break=config.stop_at_line_break,
    rows_per_batch=rows_per_batch,
  )
  for batch in made:
    yield [_record(queries[i], texts, config) for i, texts in batch.items()]


def _record(query, texts, config) -> Record:
  return label_record(
    Record(
      entity=query.entity.name,
      entity_type=query.entity.type,
      prompt_type=query.prompt_type.name,
      correct_answer=query.entity.attributes[query.prompt_type.attribute],
      prompt=query.prompt.text,
      question=query.question,
      greedy_completion=texts[0],
      sampled_completions=tuple(texts[1:]),
    ),
    config.mode,
    config.refusal_mode,
  )


def _of_row(row: Mapping) -> Record:
  """Returns a record of a chunk; JSON knows no tuples."""
  return Record(
    **{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
  )


def _checksums(folder: pathlib.Path) -> dict[str, str]:
  """Returns the SHA-256 of each file of records."""
  return checksums.by_name(folder, sorted(folder.iterdir()))


def _changed(out: pathlib.Path, name: str) -> list[str]:
  """Returns names of files of records that are not as they were written."""
  now, before = _checksums(out / name), {}
  if (out / _SHA256).is_file():
    before = outputs.read_json(out / _SHA256)
  return [k for k in sorted(now | before) if now.get(k) != before.get(k)]


def _identity(identity, queries, config) -> dict:
  """Returns what records depend on."""
  asked = [
    (*q.key, list(q.prompt.ids), q.entity.attributes[q.prompt_type.attribute])
    for q in queries
  ]
  judged = dataclasses.asdict(config)
  del judged['min_correct'], judged['min_known']  # records do not
  digest = of_value(asked)
  return {**identity, **judged, 'prompts_sha256': digest}
