"""What a harvest works on, checked before any weight of a model is read."""

from collections.abc import Sequence
import dataclasses
import pathlib

import numpy as np

from experiments import inputs
from experiments.activations.harvest_rows import HarvestRows, make_rows
from experiments.activations.reading import check_place
from experiments.entities import (
  activation_prompt,
  base_prompt,
  prompt_types_of,
  question_prompt,
  read_entities,
)
from experiments.harvest.prompt_files import read_prompt_file
from experiments.harvest.settings import Settings
from experiments.inputs import corpus
from experiments.runs import KeepFlags, outputs
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE

STORE = 'store'  # a folder in --out


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class HarvestPlan:
  """A run whose input was checked; no weight of a model is read yet.

  Attributes:
    settings: What the run is told, with nothing left open.
    out: Folder of the run.
    reader: The checkpoint of the model.
    saes: SAEs, one per layer; none without --scores.
    sites: Sites to store.
    layers: Layers to store.
    rows: What is run.
    texts: What the prompts say, without a chat template.
    groups: Names of the groups.
    group_of: int32 [n], the number of each row's group.
  """

  settings: Settings
  out: pathlib.Path
  reader: gj.CheckpointReader
  saes: Sequence[JumpReLUSAE]
  sites: Sequence[str]
  layers: Sequence[int]
  rows: HarvestRows
  texts: Sequence[str]
  groups: Sequence[str]
  group_of: np.ndarray

  @property
  def num_layers(self) -> int:
    """Returns how many layers of the model are needed."""
    read = [sae.origin.layer for sae in self.saes]
    return max([*read, *self.layers]) + 1


def prepare(settings: Settings, keep_flags: KeepFlags) -> HarvestPlan:
  """Opens and checks everything, and tokenises prompts.

  Raises:
    ValueError, OSError, ImportError: something does not exist or
      does not fit; the error names it and the remedy.
  """
  settings = settings.settled()
  reader = inputs.open_model(
    inputs.resolve_path(settings.model, inputs.BASE), settings.dtype
  )
  sites, layers = [], []
  if settings.store:
    sites, layers = _stored(settings, reader.config)
  chosen = []
  if settings.scores:
    chosen = settings.choose_saes(reader.config, settings.layers)
  prompts, ids, group_names = _prompts(settings)
  rows = make_rows(
    inputs.read_tokenizer(reader),
    prompts,
    tokens=settings.tokens,
    chat=settings.chat,
    ids=ids,
    window=settings.window,
    seed=settings.seed,
    parse_special=settings.parse_special,
    pile_denominator=settings.pile_denominator,
  )
  if not len(rows):
    reasons = ', '.join(sorted({one.reason for one in rows.dropped}))
    raise ValueError(
      f'None of {len(prompts):,} prompts can be read with '
      f'--tokens={settings.tokens}: {reasons}.'
    )
  number = {name: i for i, name in enumerate(sorted(set(group_names)))}
  group_of = rows.groups([number[name] for name in group_names])
  out = pathlib.Path(settings.out)
  # Before anything in the folder of another run is touched.
  given = dataclasses.asdict(settings)
  del given['out']
  outputs.check_same_run(
    out / 'run.json',
    given | {'model_now': corpus.model_identity(reader)},
    resumes=(out / STORE).exists(),
  )
  keep_flags()
  return HarvestPlan(
    settings=settings,
    out=out,
    reader=reader,
    saes=[one.load(reader) for one in chosen],
    sites=sites,
    layers=layers,
    rows=rows,
    texts=[each if isinstance(each, str) else each.text for each in prompts],
    groups=list(number),
    group_of=group_of,
  )


def _stored(
  settings: Settings, config: gj.ModelConfig
) -> tuple[list[str], list[int]]:
  """Returns the sites and the layers to store."""
  sites = []
  for name in settings.site:
    site, layer = gj.parse_site(name, config)
    if layer is not None or site not in gj.VECTOR_SITES:
      raise ValueError(
        f'--site={name} must be one of {", ".join(gj.VECTOR_SITES)}; give '
        'layers by --layers.'
      )
    sites.append(site)
  if settings.layers is None:
    return sites, list(range(config.num_layers))
  layers = sorted(set(settings.layers))
  for layer in layers:
    check_place(config, sites[0], layer, '--layers: ')
  return sites, layers


def _prompts(settings):
  """Returns prompts, their ids, and the name of each one's group."""
  if settings.text is not None:
    found = read_prompt_file(
      settings.text,
      text_field=settings.text_field,
      entity_field=settings.entity_field,
      separator=settings.separator,
      limit=settings.limit,
    )
    return found, [one.id for one in found], [one.group for one in found]
  entities = read_entities(
    inputs.resolve_path(settings.entities, inputs.ENTITIES),
    settings.drop_qid_labels,
  )
  found = [
    prompt
    for of_type in entities.values()
    for entity in of_type
    for prompt in _about(entity, settings)
  ]
  return tuple(map(list, zip(*found[: settings.limit], strict=True)))


def _about(entity, settings):
  """Returns prompt, id and group of all that is said about an entity."""
  if settings.prompt == 'activation':
    name = f'{entity.type}/{entity.name}'
    return [(activation_prompt(entity), name, entity.type)]
  ask = question_prompt if settings.chat else base_prompt
  return [
    (ask(each, entity), f'{each.name}/{entity.name}', entity.type)
    for each in prompt_types_of(entity)
  ]
