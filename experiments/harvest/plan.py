"""What a harvest works on, checked before any weight of a model is read."""

from collections.abc import Sequence
import dataclasses
import pathlib

from absl import flags
import numpy as np

from experiments import inputs
from experiments.activations.reading import check_place
from experiments.activations.rows import HarvestRows, make_rows
from experiments.activations.token_selection import DENOMINATORS
from experiments.entities import (
  activation_prompt,
  base_prompt,
  prompt_types_of,
  question_prompt,
  read_entities,
)
from experiments.harvest.prompt_files import read_prompt_file
from experiments.inputs import corpus
from experiments.runs import outputs
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE

STORE = 'store'  # a folder in --out


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class HarvestPlan:
  """A run whose input was checked; no weight of a model is read yet.

  Attributes:
    out: Its folder.
    reader: Of the model.
    saes: One per layer; none without --scores.
    sites, layers: To store.
    rows: What is run.
    texts: What the prompts say, without a chat template.
    groups: Names of the groups.
    group_of: int32 [n], of each row.
  """

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
    """How many layers of the model are needed."""
    read = [sae.origin.layer for sae in self.saes]
    return max([*read, *self.layers]) + 1


def prepare(values: flags.FlagValues, names: Sequence[str]) -> HarvestPlan:
  """Opens and checks everything, and tokenises prompts.

  Raises:
    ValueError, OSError, ImportError: something does not exist or
      does not fit; the error names it and the remedy.
  """
  if values.out is None:
    raise ValueError('Say where results go: --out=DIR.')
  if not (values.scores or values.store):
    raise ValueError('--noscores without --store leaves nothing to do.')
  _settle(values)
  reader = inputs.open_model(
    inputs.resolve_path(values.model, inputs.BASE), values.dtype
  )
  sites, layers = [], []
  if values.store:
    sites, layers = _stored(values, reader.config)
  chosen = []
  if values.scores:
    chosen = inputs.choose_saes(
      inputs.resolve_path(values.sae, inputs.SAES),
      reader.config,
      layers=values.layers,
      width=values.width,
      l0=values.l0,
    )
  prompts, ids, group_names = _prompts(values)
  rows = make_rows(
    inputs.read_tokenizer(reader),
    prompts,
    tokens=values.tokens,
    chat=values.chat,
    ids=ids,
    window=values.window,
    seed=values.seed,
    parse_special=values.parse_special,
    pile_denominator=values.pile_denominator,
  )
  if not len(rows):
    reasons = ', '.join(sorted({one.reason for one in rows.dropped}))
    raise ValueError(
      f'None of {len(prompts):,} prompts can be read with '
      f'--tokens={values.tokens}: {reasons}.'
    )
  number = {name: i for i, name in enumerate(sorted(set(group_names)))}
  group_of = rows.groups([number[name] for name in group_names])
  out = pathlib.Path(values.out)
  # Before anything in the folder of another run is touched.
  outputs.check_same_run(
    out / 'run.json',
    {name: values[name].value for name in names if name != 'out'}
    | {'model_now': corpus.model_identity(reader)},
    resumes=(out / STORE).exists(),
  )
  outputs.write_flags(out, values, names)
  return HarvestPlan(
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


def _settle(values):
  """Fills in what depends on other flags, for flags.txt too."""
  published = values.mode == 'reference'
  if values.tokens is None:
    values.tokens = 'random' if values.text else 'entity'
  if values.pile_denominator is None:
    values.pile_denominator = DENOMINATORS[published]
  if values.drop_qid_labels is None:
    values.drop_qid_labels = not published


def _stored(
  values: flags.FlagValues, config: gj.ModelConfig
) -> tuple[list[str], list[int]]:
  """Sites and layers to store."""
  sites = []
  for name in values.site:
    site, layer = gj.parse_site(name, config)
    if layer is not None or site not in gj.VECTOR_SITES:
      raise ValueError(
        f'--site={name} must be one of {", ".join(gj.VECTOR_SITES)}; give '
        'layers by --layers.'
      )
    sites.append(site)
  if values.layers is None:
    return sites, list(range(config.num_layers))
  layers = sorted(set(values.layers))
  for layer in layers:
    check_place(config, sites[0], layer, '--layers: ')
  return sites, layers


def _prompts(values):
  """Prompts, their ids, and the name of each one's group."""
  if values.text is not None:
    found = read_prompt_file(
      values.text,
      text_field=values.text_field,
      entity_field=values.entity_field,
      separator=values.separator,
      limit=values.limit,
    )
    return found, [one.id for one in found], [one.group for one in found]
  entities = read_entities(
    inputs.resolve_path(values.entities, inputs.ENTITIES),
    values.drop_qid_labels,
  )
  found = [
    prompt
    for of_type in entities.values()
    for entity in of_type
    for prompt in _about(entity, values)
  ]
  return tuple(map(list, zip(*found[: values.limit], strict=True)))


def _about(entity, values):
  """(Prompt, id, group) for all that is said about an entity."""
  if values.prompt == 'activation':
    name = f'{entity.type}/{entity.name}'
    return [(activation_prompt(entity), name, entity.type)]
  ask = question_prompt if values.chat else base_prompt
  return [
    (ask(each, entity), f'{each.name}/{entity.name}', entity.type)
    for each in prompt_types_of(entity)
  ]
