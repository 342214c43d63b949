"""What the study works on, read and checked before any weight is."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import pathlib

from experiments import inputs
from experiments.factual_recall import plain_text
from experiments.factual_recall.receivers import parse_receiver
from experiments.factual_recall.settings import Settings
from experiments.factual_recall.task_prompts import Prompts, make_prompts
from experiments.factual_recall.tasks import Task, read_task
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Study:
  """A study whose input was checked; no weight is read yet.

  Attributes:
    settings: What it was told.
    folder: Where everything is written.
    reader: The checkpoint.
    tokenizer: The model's tokenizer.
    tasks: What is asked.
    prompts: Task and number of demonstrations -> the prompts.
    text: Plain text.
    text_source: Where it is from.
    saes: Layer -> the SAE to read.
  """

  settings: Settings
  folder: pathlib.Path
  reader: gj.CheckpointReader
  tokenizer: gj.Tokenizer
  tasks: Sequence[Task]
  prompts: Mapping[tuple[str, int], Prompts]
  text: str
  text_source: str
  saes: Mapping[int, inputs.SAESpec]

  @functools.cached_property
  def sae_fingerprints(self) -> dict[str, str]:
    """Tells the SAEs apart, layer by layer."""
    return inputs.sae_fingerprints(self.saes, self.reader)


def open_study(settings: Settings) -> Study:
  """Reads and checks everything but the weights.

  Raises:
    ValueError, OSError, ImportError: something is missing or does
      not fit; the error names it.
  """
  reader, tokenizer = inputs.open_named(settings.model, settings.dtype)
  for receiver in settings.receivers:
    parse_receiver(receiver, reader.config)
  tasks = [read_task(name) for name in settings.chosen_tasks]
  names = [task.name for task in tasks]
  if len(set(names)) < len(names):
    raise ValueError(f'--tasks has two tasks of one name: {", ".join(names)}.')
  prompts = {
    (task.name, shots): make_prompts(
      tokenizer,
      task,
      shots=shots,
      single_token=settings.single_token,
      most=settings.prompts,
    )
    for task in tasks
    for shots in settings.shots
  }
  longest = max(int(each.ends.max()) + 1 for each in prompts.values())
  if longest > reader.config.max_positions:
    raise ValueError(
      f'A prompt with its demonstrations has {longest} tokens; the model reads '
      f'{reader.config.max_positions}. Lower --shots.'
    )
  text, source = plain_text.find_text(settings.text, settings.model)
  return Study(
    settings=settings,
    folder=pathlib.Path(settings.out),
    reader=reader,
    tokenizer=tokenizer,
    tasks=tasks,
    prompts=prompts,
    text=text,
    text_source=source,
    saes=inputs.saes_by_layer(settings.sae, settings.model, reader.config),
  )
