"""What a check works on besides its subject, opened before any model runs."""

from collections.abc import Sequence
import dataclasses
import functools
import itertools

from absl import flags
import numpy as np

from experiments import inputs
from experiments.confounds.covariates import read_frequencies
from experiments.entities import Entity, read_entities
from experiments.inputs import corpus
from experiments.inputs.documents import DocumentFile
from experiments.inputs.study_inputs import StudyInputs
from experiments.latents import ClassSums, Groups, class_sums
from experiments.miniworld.world import (
  KNOWN,
  TYPES,
  World,
  WorldConfig,
  make_world,
)
from experiments.runs import MANY, define_number, whole
import gemma_jax as gj
from gemma_jax import json_files

TEXT = inputs.BUNDLE / 'text.txt'
# Of MiniWorld's tail, for each type.
_FAMILIAR_PER_TYPE = 48


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Chat:
  """The chat model.

  Attributes:
    reader: Of its checkpoint.
    tokenizer: Its.
    about: What tells it apart.
  """

  reader: gj.CheckpointReader
  tokenizer: gj.Tokenizer
  about: dict


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ConfoundPlan:
  """Checked input.

  Attributes:
    texts: Documents to count words in.
    read: The first of them, on which likelihoods are read.
    frequencies: Name -> count, if given.
    familiar: Entities whose names text has.
    taken: Names that no changed name may be.
    others: Name -> SAEs by name, to compare with.
    chat: None to leave it out.
    bundled: Whether entities are those of MiniWorld.
    layers: Whose SAEs are searched: those of the recognition run, or all.
    text_sums: Of each of them, from the run, which say how often latents fire
      on plain text; [] without.
    skipped: What is left out and why, in sentences.
  """

  texts: Sequence[str]
  read: Sequence[str]
  frequencies: dict[str, float] | None
  familiar: Sequence[Entity]
  taken: set[str]
  others: dict[str, list[inputs.SAESpec]]
  chat: Chat | None
  bundled: bool
  layers: Sequence[int]
  text_sums: Sequence[ClassSums]
  skipped: list[str]


def define_flags(values: flags.FlagValues):
  """Flags of the checks, beside those of the subject."""
  common = {'flag_values': values}
  inputs.define_chat_model(values)
  flags.DEFINE_string(
    'text',
    None,
    'Plain text, .txt or .jsonl, for likelihoods and frequencies. Default: '
    "MiniWorld's with its model, else none.",
    **common,
  )
  flags.DEFINE_string(
    'text_field', 'text', 'Of the objects of a .jsonl file.', **common
  )
  define_number(
    'text_documents',
    2000,
    'Documents whose tokens are read.',
    whole(2, 10**9),
    **common,
  )
  define_number(
    'count_documents',
    50_000,
    'Documents in which names and their tokens are counted.',
    MANY,
    **common,
  )
  define_number(
    'text_window', 128, 'Most tokens of a document.', whole(4), **common
  )
  define_number(
    'text_batch', 32, 'Documents that are run at once.', whole(), **common
  )
  flags.DEFINE_string(
    'frequencies',
    None,
    'How often names are met: .tsv of name and count, or .json. Default: '
    'counted in the text.',
    **common,
  )
  flags.DEFINE_string(
    'familiar',
    None,
    'Folder of entity files: names that the training text has, of which the '
    "model can know nothing. Default: MiniWorld's tail with its entities, "
    'else none.',
    **common,
  )
  flags.DEFINE_list(
    'other_saes',
    [],
    'Other SAEs of the same model: folders or releases, SOURCE or '
    'SOURCE@WIDTH: retrained ones, other widths.',
    **common,
  )
  define_number(
    'bins', 4, 'Per covariate, to match names by.', whole(), **common
  )
  define_number(
    'num_permutations',
    200,
    'Shuffles of the p-value of the selection.',
    whole(1),
    **common,
  )
  define_number(
    'num_shuffles',
    50,
    'Whole runs with shuffled labels, measured on test.',
    whole(),
    **common,
  )
  define_number('num_splits', 20, 'Other random halves.', whole(2), **common)
  define_number(
    'refusals',
    12,
    'Entities per type and kind of name that the chat model is asked about; 0 '
    'asks nothing.',
    whole(0),
    **common,
  )
  define_number(
    'max_new_tokens', 30, 'Most tokens of an answer.', whole(), **common
  )
  define_number('rows_per_batch', 128, 'Answers at once.', whole(), **common)


def prepare(values: flags.FlagValues, subject: StudyInputs) -> ConfoundPlan:
  """Opens and checks it.

  Raises:
    ValueError, OSError: something does not exist or does not fit.
  """
  if not subject.targets:
    raise ValueError('There is no latent to check: give --run.')
  skipped = []
  bundled = values.entities == inputs.BUNDLED
  text = values.text
  if text is None and values.model == inputs.BUNDLED:
    text = str(TEXT)
  texts = []
  if text is None:
    skipped.append(
      'Likelihood and frequency in text: no --text was given, so that words '
      'were not counted and nothing was read there.'
    )
  else:
    found = DocumentFile(text, field=values.text_field).read(
      0, values.count_documents
    )
    texts = [document for _, document in found]
  frequencies = values.frequencies and read_frequencies(values.frequencies)
  familiar, taken = [], set()
  for of_type in read_entities(
    inputs.resolve_path(values.entities, inputs.ENTITIES)
  ).values():
    taken |= {entity.name for entity in of_type}
  if bundled:
    world = _world()
    taken |= {e.name for group in KNOWN for e in world.entities(group)}
  if values.familiar is not None:
    familiar = list(itertools.chain(*read_entities(values.familiar).values()))
  elif bundled:
    familiar = _tail(world, values.seed)
  else:
    skipped.append(
      'Familiar names of which nothing is known: --familiar was not given.'
    )
  others = {
    name: _others(name, subject.reader.config) for name in values.other_saes
  }
  if not others:
    skipped.append(
      'Other SAEs: --other_saes were not given, so that stability is over '
      'splits of the entities alone.'
    )
  layers, text_sums = _searched(subject, skipped)
  return ConfoundPlan(
    texts=texts,
    read=texts[: values.text_documents],
    frequencies=frequencies or None,
    familiar=familiar,
    taken=taken,
    others=others,
    chat=_chat(values, subject, skipped),
    bundled=bundled,
    layers=layers,
    text_sums=text_sums,
    skipped=skipped,
  )


def _chat(values, subject, skipped) -> Chat | None:
  if not values.chat_model:
    skipped.append('The chat model: --chat_model is empty.')
    return None
  reader = inputs.open_chat_model(
    inputs.resolve_path(values.chat_model, inputs.CHAT),
    subject.reader,
    values.dtype,
  )
  return Chat(
    reader=reader,
    tokenizer=inputs.read_tokenizer(reader),
    about=corpus.model_identity(reader),
  )


def _others(name: str, config) -> list[inputs.SAESpec]:
  """SAEs of SOURCE or SOURCE@WIDTH."""
  source, _, width = name.partition('@')
  return inputs.choose_saes(source, config, width=width or None)


def _searched(subject, skipped) -> tuple[list[int], list[ClassSums]]:
  """The layers that the run has searched; what it summed there, with text.

  All layers, and no sums, if latents were named in others.
  """
  run, there = subject.findings, list(subject.sae_choices)
  sums = {one.layer: one for one in run.sums()}
  if lost := sorted(set(sums) - set(there)):
    skipped.append(
      f'Layers {", ".join(map(str, lost))} in the searches: the run has them, '
      f'--sae={subject.values.sae} has not, or only if they are asked for.'
    )
  layers = [layer for layer in there if layer in sums]
  if not {one.id.layer for one in subject.targets.values()} <= set(layers):
    layers = there
  found = []
  if not sums:
    why = 'there is no run'
  elif not set(layers) <= set(sums):
    why = 'latents are named in layers that the run has not searched'
  else:
    groups = Groups(tuple(run.latents['types']))
    found = [class_sums(sums[layer], groups) for layer in layers]
    why = 'the run has not harvested any'
  if found and all(one.text_n for one in found):
    return layers, found
  skipped.append(
    f'The filter of plain text: {why}, so that all latents are candidates in '
    'the searches here.'
  )
  return layers, []


@functools.cache
def _world() -> World:
  """The bundled one."""
  about = json_files.read_json(inputs.BUNDLE / 'run.json')
  return make_world(WorldConfig(**about['world']))


def _tail(world: World, seed: int) -> list[Entity]:
  """Pairs that MiniWorld's text says something else of each time."""
  pairs = world.pairs['tail']
  rng = np.random.default_rng([seed, 7])
  drawn = rng.choice(
    len(pairs), min(len(pairs), _FAMILIAR_PER_TYPE * len(TYPES)), replace=False
  )
  return [
    Entity(world.lexicon.name(*pairs[i]), TYPES[number % len(TYPES)], {})
    for number, i in enumerate(drawn)
  ]
