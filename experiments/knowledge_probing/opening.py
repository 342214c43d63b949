"""What the study works on, checked before any weight is read."""

import dataclasses
import functools
import pathlib

from experiments import inputs
from experiments.inputs import corpus
from experiments.knowledge_probing import asking, judging
from experiments.knowledge_probing.formats import Format
from experiments.knowledge_probing.rules import RuleSettings
from experiments.knowledge_probing.settings import Settings
from experiments.miniworld.sentences import REFUSAL
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Study:
  """A study whose input was checked; no weight is read yet.

  Attributes:
    settings: What it was told.
    folder: Where everything is written.
    reader: The checkpoint.
    format: How questions are put.
    plan: How answers are drawn.
  """

  settings: Settings
  folder: pathlib.Path
  reader: gj.CheckpointReader
  format: Format
  plan: asking.AskingPlan

  @functools.cached_property
  def model(self) -> gj.Decoder:
    """Returns the weights, read when a stage first asks for them."""
    return self.reader.load()

  @functools.cached_property
  def judge_model(self) -> tuple[gj.Decoder, Format]:
    """Returns the model that judges, and how it is asked."""
    name = self.settings.judge_model
    if name is None:
      return self.model, self.format
    reader, tokenizer = inputs.open_named(name, bundled=inputs.CHAT)
    return reader.load(), Format(
      name=_own_format(tokenizer), tokenizer=tokenizer
    )

  @functools.cached_property
  def identity(self) -> dict:
    """Returns what tells the model apart."""
    return {
      'model': corpus.fingerprint(self.reader),
      'dtype': str(self.reader.dtype),
      'tokenizer': corpus.tokenizer_sha256(self.reader),
      'format': self.format.name,
    }

  @property
  def judges(self) -> judging.JudgeSettings:
    """Returns how answers are judged where no model does."""
    settings = self.settings
    kind = settings.judge
    return judging.JudgeSettings(
      kind='cascade' if kind == 'llm' else kind,
      f1_threshold=settings.f1_threshold,
      fuzzy=settings.fuzzy,
    )

  @property
  def name(self) -> str:
    """Returns what the model is called in tables."""
    return inputs.short_name(self.settings.model)

  @property
  def refusal(self) -> str | None:
    """Returns the one text that declines; None for a pool of them."""
    if self.settings.refusal is None and self.settings.model == inputs.BUNDLED:
      return REFUSAL
    return self.settings.refusal


def open_study(settings: Settings) -> Study:
  """Reads and checks everything but the weights.

  Raises:
    ValueError, OSError, ImportError: something is missing or does
      not fit; the error names it.
  """
  reader, tokenizer = inputs.open_named(settings.model, settings.dtype)
  drawing = {
    'prompts': settings.prompts,
    'shots': settings.demonstrations,
    'samples': settings.samples,
    'temperature': settings.temperature,
    'top_k': settings.top_k,
    'top_p': settings.top_p,
  }
  if settings.slick:
    slick = asking.AskingPlan.slick()
    drawing = {name: getattr(slick, name) for name in drawing}
  return Study(
    settings=settings,
    folder=pathlib.Path(settings.out),
    reader=reader,
    format=Format(name=_format(settings, tokenizer), tokenizer=tokenizer),
    plan=asking.AskingPlan(
      **drawing,
      max_new_tokens=settings.max_new_tokens,
      seed=settings.seed,
      rows_per_batch=settings.rows_per_batch,
    ),
  )


def _format(settings: Settings, tokenizer: gj.Tokenizer) -> str:
  if settings.format is not None:
    return settings.format
  if settings.model == inputs.BUNDLED:
    return 'bare'
  return _own_format(tokenizer)


def _own_format(tokenizer: gj.Tokenizer) -> str:
  """Chat where the model has a template that shows answers."""
  try:
    Format(name='chat', tokenizer=tokenizer)
  except ValueError:
    return 'qa'
  return 'chat'


def rule_settings(settings: Settings) -> RuleSettings:
  """Returns the thresholds of all rules."""
  return RuleSettings(
    known_min=settings.known_min,
    unknown_max=settings.unknown_max,
    consistent_min=settings.consistent_min,
  )
