"""What an entity-recognition run works on, checked before any work."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib

from absl import flags

from experiments import inputs, model_and_text
from experiments.documents import DocumentFile
from experiments.entities import (
  Entity,
  Record,
  prompt_types_of,
  read_entities,
  read_records,
)
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """A run whose input was checked; no weight of a model is read yet.

  Attributes:
    out: Its folder.
    base, chat: Readers of the models.
    tokenizer, chat_tokenizer: Theirs.
    saes: One per layer.
    entities: Type -> entities.
    records: Prompt type -> labelled generations, if they were given.
    text: Plain text for the frequency filter, if given.
  """

  out: pathlib.Path
  base: gj.CheckpointReader
  chat: gj.CheckpointReader
  tokenizer: gj.Tokenizer
  chat_tokenizer: gj.Tokenizer
  saes: Sequence[inputs.NamedSAE]
  entities: dict[str, list[Entity]]
  records: Mapping[str, Sequence[Record]] | None
  text: DocumentFile | None


def prepare(values: flags.FlagValues) -> Plan:
  """Opens and checks everything that flags name.

  Raises:
    ValueError, OSError, ImportError: something does not exist or
      does not fit; the error names it and the remedy.
  """
  if values.out is None:
    raise ValueError('Say where results go: --out=DIR.')
  base = inputs.open_model(
    inputs.place(values.model, inputs.BASE), values.dtype
  )
  chat = inputs.open_chat_model(
    inputs.place(values.chat_model, inputs.CHAT), base, values.dtype
  )
  saes = inputs.choose_saes(
    inputs.place(values.sae, inputs.SAES),
    base.config,
    layers=values.layers,
    width=values.width,
    l0=values.l0,
  )
  saes[0].load(base)  # of another model? Better said now than in an hour.
  entities = read_entities(
    inputs.place(values.entities, inputs.ENTITIES), types=values.types
  )
  entities = {
    kind: found[: values.max_entities] for kind, found in entities.items()
  }
  records = None
  if values.labels is not None:
    records = read_records(values.labels)
    _check_labels(records, entities, values.labels)
  text = None
  if values.text is not None:
    text = DocumentFile(
      values.text, field=values.text_field, separator=values.separator
    )
  return Plan(
    out=pathlib.Path(values.out),
    base=base,
    chat=chat,
    tokenizer=inputs.read_tokenizer(base),
    chat_tokenizer=inputs.read_tokenizer(chat),
    saes=saes,
    entities=entities,
    records=records,
    text=text,
  )


def _check_labels(records, entities, folder):
  """Every question about every entity must have been answered."""
  answered = {
    (prompt_type, record.entity)
    for prompt_type, of_type in records.items()
    for record in of_type
  }
  missing = [
    (prompt_type.name, entity.name)
    for of_type in entities.values()
    for entity in of_type
    for prompt_type in prompt_types_of(entity)
    if (prompt_type.name, entity.name) not in answered
  ]
  if missing:
    name, entity = missing[0]
    raise ValueError(
      f'{folder} lacks {len(missing)} of the answers that label the entities, '
      f'the first {name} of {entity!r}. Take the entities they were made for, '
      'or leave --labels away: they are generated then.'
    )


def fingerprints(plan: Plan) -> dict[str, Mapping]:
  """What tells models apart, for the identities of stages."""
  return {
    name: model_and_text.model_identity(reader)
    for name, reader in (('base', plan.base), ('chat', plan.chat))
  }
