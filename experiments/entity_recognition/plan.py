"""What an entity-recognition run works on, checked before any work."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib

from experiments import inputs
from experiments.entities import (
  Entity,
  Record,
  prompt_types_of,
  read_entities,
  read_records,
)
from experiments.entity_recognition.settings import Settings
from experiments.inputs import corpus
from experiments.inputs.documents import DocumentFile
import gemma_jax as gj

# Documents of ordinary text that steering is tried on.
_ORDINARY = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecognitionPlan:
  """A run whose input was checked; no weight of a model is read yet.

  Attributes:
    out: Folder of the run.
    base, chat: Readers of the models.
    tokenizer, chat_tokenizer: Tokenizers of the models.
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
  saes: Sequence[inputs.SAESpec]
  entities: dict[str, list[Entity]]
  records: Mapping[str, Sequence[Record]] | None
  text: DocumentFile | None
  bundled: bool

  def ordinary_text(self) -> list[str]:
    """Returns documents on which steering should change nothing.

    Those of --text; for the bundled world, text of its own; else none.
    """
    if self.text is not None:
      return [text for _, text in self.text.read(0, _ORDINARY)]
    if not self.bundled:
      return []
    return inputs.TEXT.read_text(encoding='utf-8').splitlines()[:_ORDINARY]


def prepare(settings: Settings) -> RecognitionPlan:
  """Opens and checks everything that flags name.

  Raises:
    ValueError, OSError, ImportError: something does not exist or
      does not fit; the error names it and the remedy.
  """
  base = inputs.open_model(
    inputs.resolve_path(settings.model, inputs.BASE), settings.dtype
  )
  chat = inputs.open_chat_model(
    inputs.resolve_path(settings.chat_model, inputs.CHAT), base, settings.dtype
  )
  saes = settings.choose_saes(base.config, settings.layers)
  saes[0].load(base)  # of another model? Better said now than in an hour.
  entities = read_entities(
    inputs.resolve_path(settings.entities, inputs.ENTITIES),
    types=settings.types,
  )
  entities = {
    kind: found[: settings.max_entities] for kind, found in entities.items()
  }
  records = None
  if settings.labels is not None:
    records = read_records(settings.labels)
    _check_labels(records, entities, settings.labels)
  text = None
  if settings.text is not None:
    text = DocumentFile(
      settings.text, field=settings.text_field, separator=settings.separator
    )
  return RecognitionPlan(
    out=pathlib.Path(settings.out),
    base=base,
    chat=chat,
    tokenizer=inputs.read_tokenizer(base),
    chat_tokenizer=inputs.read_tokenizer(chat),
    saes=saes,
    entities=entities,
    records=records,
    text=text,
    bundled=settings.chat_model == inputs.BUNDLED,
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


def fingerprints(plan: RecognitionPlan) -> dict[str, Mapping]:
  """Returns what tells models apart, for the identities of stages."""
  return {
    name: corpus.model_identity(reader)
    for name, reader in (('base', plan.base), ('chat', plan.chat))
  }
