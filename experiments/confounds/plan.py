"""What a check works on besides its inputs, opened before any model runs."""

from collections.abc import Sequence
import dataclasses
import functools
import itertools

import numpy as np

from experiments import inputs
from experiments.confounds.covariates import read_frequencies
from experiments.confounds.settings import Settings
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
import gemma_jax as gj
from gemma_jax import json_files

TEXT = inputs.BUNDLE / 'text.txt'
_FAMILIAR_PER_TYPE = 48  # names of MiniWorld's tail


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Chat:
  """Holds the chat model.

  Attributes:
    reader: The chat model's checkpoint.
    tokenizer: The chat model's tokenizer.
    about: What tells the chat model apart.
  """

  reader: gj.CheckpointReader
  tokenizer: gj.Tokenizer
  about: dict


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ConfoundPlan:
  """Holds what was opened and checked.

  Attributes:
    texts: Documents to count words in.
    read: The first of them, on which likelihoods are read.
    frequencies: Name -> count, if given.
    familiar: Entities whose names text has.
    taken: Names that no changed name may be.
    others: Name -> SAEs by name, to compare with.
    chat: The chat model; None to leave it out.
    bundled: True if the entities are those of MiniWorld.
    layers: The layers that are searched: those of the recognition run, or all.
    text_sums: For each of these layers the run's sums, which say how often
      latents fire on plain text; [] if it has none.
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


def prepare(settings: Settings, given: StudyInputs) -> ConfoundPlan:
  """Opens and checks what a check works on besides its inputs.

  Raises:
    ValueError, OSError: something does not exist or does not fit.
  """
  if not given.targets:
    raise ValueError('There is no latent to check: give --run.')
  skipped = []
  bundled = settings.entities == inputs.BUNDLED
  text = settings.text
  if text is None and settings.model == inputs.BUNDLED:
    text = str(TEXT)
  texts = []
  if text is None:
    skipped.append(
      'Likelihood and frequency in text: no --text was given, so that words '
      'were not counted and nothing was read there.'
    )
  else:
    found = DocumentFile(text, field=settings.text_field).read(
      0, settings.count_documents
    )
    texts = [document for _, document in found]
  frequencies = settings.frequencies and read_frequencies(settings.frequencies)
  familiar, taken = [], set()
  for of_type in read_entities(
    inputs.resolve_path(settings.entities, inputs.ENTITIES)
  ).values():
    taken |= {entity.name for entity in of_type}
  if bundled:
    world = _world()
    taken |= {e.name for group in KNOWN for e in world.entities(group)}
  if settings.familiar is not None:
    familiar = list(itertools.chain(*read_entities(settings.familiar).values()))
  elif bundled:
    familiar = _tail(world, settings.seed)
  else:
    skipped.append(
      'Familiar names of which nothing is known: --familiar was not given.'
    )
  others = {
    name: _others(name, given.reader.config) for name in settings.other_saes
  }
  if not others:
    skipped.append(
      'Other SAEs: --other_saes were not given, so that stability is over '
      'splits of the entities alone.'
    )
  layers, text_sums = _searched(given, skipped)
  return ConfoundPlan(
    texts=texts,
    read=texts[: settings.text_documents],
    frequencies=frequencies or None,
    familiar=familiar,
    taken=taken,
    others=others,
    chat=_chat(settings, given, skipped),
    bundled=bundled,
    layers=layers,
    text_sums=text_sums,
    skipped=skipped,
  )


def _chat(settings, given, skipped) -> Chat | None:
  if not settings.chat_model:
    skipped.append('The chat model: --chat_model is empty.')
    return None
  reader = inputs.open_chat_model(
    inputs.resolve_path(settings.chat_model, inputs.CHAT),
    given.reader,
    settings.dtype,
  )
  return Chat(
    reader=reader,
    tokenizer=inputs.read_tokenizer(reader),
    about=corpus.model_identity(reader),
  )


def _others(name: str, config) -> list[inputs.SAESpec]:
  """Returns SAEs of SOURCE or SOURCE@WIDTH."""
  source, _, width = name.partition('@')
  return inputs.choose_saes(source, config, width=width or None)


def _searched(given, skipped) -> tuple[list[int], list[ClassSums]]:
  """Returns the layers that the run has searched, and its sums with text.

  If latents were named in other layers, these are all layers, and no sums.
  """
  run, there = given.findings, list(given.sae_choices)
  sums = {one.layer: one for one in run.sums()}
  if lost := sorted(set(sums) - set(there)):
    skipped.append(
      f'Layers {", ".join(map(str, lost))} in the searches: the run has them, '
      f'--sae={given.settings.sae} has not, or only if they are asked for.'
    )
  layers = [layer for layer in there if layer in sums]
  if not {one.id.layer for one in given.targets.values()} <= set(layers):
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
  """Returns the bundled world."""
  about = json_files.read_json(inputs.BUNDLE / 'run.json')
  return make_world(WorldConfig(**about['world']))


def _tail(world: World, seed: int) -> list[Entity]:
  """Returns pairs that MiniWorld's text says something else of each time."""
  pairs = world.pairs['tail']
  rng = np.random.default_rng([seed, 7])
  drawn = rng.choice(
    len(pairs), min(len(pairs), _FAMILIAR_PER_TYPE * len(TYPES)), replace=False
  )
  return [
    Entity(world.lexicon.name(*pairs[i]), TYPES[number % len(TYPES)], {})
    for number, i in enumerate(drawn)
  ]
