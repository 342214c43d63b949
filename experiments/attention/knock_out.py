r"""What must the last token see to recall a fact, or to decline?

  make demo
  python -m experiments.attention.knock_out --out=out/knock_out

  python -m experiments.attention.knock_out --out=out/knockout_2b \
    --model=google/gemma-2-2b --chat_model=google/gemma-2-2b-it \
    --sae=gemma-scope-2b-pt-res --run=out/2b --entities=wikidata \
    --window=5,9,from --edges=last:entity,last:relation,after:entity

Cuts attention edges between parts of a prompt in sliding windows of layers
(Geva et al. 2023, arXiv 2304.14767), in all heads or in some, and looks at

  answers    the base model with statements, "The city X is located in": the
             probability of a first token of the answer
  refusals   the chat model with questions: the probability that the answer
             begins as this model's refusals do, and whether that is likeliest
  latents    in both, the activations of the known and the unknown latent, at
             the last token and, if it is among the queries, at the entity's

Edges are QUERIES:KEYS, each of bos, entity, entity_last, relation, rest,
before, after, last, or a negative number, which counts from the end; '+' joins
sets. A window of width w is w layers around its centre; 'from' is all layers
from one on. --heads=each does every head by itself; sets such as L18H5+L20H3
are cut where a window has them.

All windows of edges with the same queries are one compiled call, which runs
only the tokens that can change: one per prompt, for edges of the last token.
results.json has its floating-point operations and time next to those of running
every window as a whole.

--out gets flags.txt, results.json, report.html; per study examples.jsonl, the
prompts, and effects.safetensors, every prompt under every window; and work/,
from which the same command goes on.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Annotated, Literal

import numpy as np

from experiments import inputs
from experiments.attention import (
  Case,
  Edges,
  HeadSet,
  Window,
  commonest_answer,
  knockout_figures,
  make_cases,
  parse_heads,
  parse_windows,
  refusal_openings,
  run_study,
  summarise,
  time_both_ways,
)
from experiments.inputs import corpus
from experiments.inputs.settings import BaseStudy, ChatModel, ChosenLatents
from experiments.inputs.study_inputs import StudyInputs, open_inputs
from experiments.runs import Count, KeepFlags, outputs, start, whole
import gemma_jax as gj
from gemma_jax.whole_files import save_tensors
from sae.jumprelu import Latents

ANSWERS, REFUSALS = 'answers', 'refusals'
STUDIES = (ANSWERS, REFUSALS)
EDGES = (
  'last:entity',
  'last:relation',
  'last:rest',
  'last:bos',
  'after:entity',
  'entity:entity',
)
# Prompts that the speed of both ways is measured with, if so many run at once.
_TIMED = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(BaseStudy, ChatModel, ChosenLatents):
  """Holds what is cut where, in which prompts.

  Attributes:
    studies: Studies to run: 'answers' of the base model, 'refusals' of the chat
      model.
    edges: Sets of attention edges that are cut, as QUERIES:KEYS.
    window: Widths of the windows, in layers; 'from' is all layers from each one
      on.
    heads: Sets of heads that are cut: 'all'; 'each', every head by itself; or
      heads joined by '+', such as H2 or L18H5+L20H3.
    questions: Prompts per entity type and class.
    max_new_tokens: Most tokens of the answers that show how refusals begin.
    rows_per_batch: Prompts times sets of edges and heads that are run at once.
  """

  studies: tuple[Literal['answers', 'refusals'], ...] = STUDIES
  edges: tuple[str, ...] = EDGES
  window: tuple[Annotated[int, whole(1, 10_000, words=('from',))], ...] = (
    1,
    3,
    'from',
  )
  heads: tuple[str, ...] = ('all',)
  questions: Annotated[int, whole(2)] = 50
  max_new_tokens: Count = 30
  rows_per_batch: Count = 1024

  def __post_init__(self):
    super().__post_init__()
    if not self.studies:
      raise ValueError(f'Give --studies, some of {", ".join(STUDIES)}.')
    if not self.edges:
      raise ValueError(f'Give --edges, such as {EDGES[0]}.')
    self.parsed_edges()

  def parsed_edges(self) -> list[Edges]:
    """Returns each set of edges once.

    Raises:
      ValueError: one of them is no set of edges.
    """
    return list(dict.fromkeys(map(Edges.parse, self.edges)))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Cuts:
  """Holds what is cut: every set of edges, in every window and set of heads.

  Attributes:
    edges: Sets of edges.
    windows: Windows of layers.
    heads: Sets of heads.
  """

  edges: Sequence[Edges]
  windows: Sequence[Window]
  heads: Sequence[HeadSet]


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Cuts attention, writes the results; returns the summary."""
  given = open_inputs(settings, keep_flags)
  config = given.reader.config
  cuts = Cuts(
    edges=settings.parsed_edges(),
    windows=parse_windows(settings.window, config),
    heads=parse_heads(settings.heads, config),
  )
  prepared = {
    name: _prepare(given, name) for name in STUDIES if name in settings.studies
  }
  for _, cases in prepared.values():
    for edge in cuts.edges:
      for case in cases:
        edge.first(case)  # has them all, or says which prompt does not
  given.begin()
  results = {
    'edges': list(map(str, cuts.edges)),
    'window': list(map(str, settings.window)),
    'heads': [each.name for each in cuts.heads],
    'studies': {
      name: _run_study(given, name, reader, cases, cuts)
      for name, (reader, cases) in prepared.items()
    },
  }
  return given.write(
    'attention.knock_out',
    results,
    'What must the last token see to recall a fact, or to decline?',
    summary(results),
    knockout_figures.sections(results),
  )


def summary(results: Mapping) -> list[str]:
  """Says what models do uncut and cut, where edges are read, and the cost."""
  lines = []
  for name, study in results['studies'].items():
    what = f'P({study["measure"]})'
    for entity_class, uncut in study['uncut'].items():
      lines.append(
        f'{name}, {entity_class} entities: {what} is '
        f'{_number(uncut["probability"])} uncut, likeliest for '
        f'{_share(uncut["says"])}.'
      )
      for found in study['read_out']:
        if found['class'] != entity_class:
          continue
        until = found['last_layer']
        lines.append(
          f'  {found["edges"]} cut in all layers: {found["all_layers"]:+.3f}, '
          f'likeliest for {_share(found["says_after"])}'
          + ('' if until is None else f'; they matter up to layer {until}')
          + '.'
        )
    if 'commonest_answer' in study:
      lines.append(
        f'  A model without the entity gets at most '
        f'{study["commonest_answer"]:.3f} right.'
      )
    if 'openings' in study:
      lines.append(
        f'  The first token tells refusals in '
        f'{study["openings"]["agreement"]:.1%} of answers.'
      )
    cost, timed = study['cost'], study['cost']['timed']
    lines.append(
      f'  {cost["flops"]:.3g} FLOP, {cost["naive_flops"]:.3g} for whole runs '
      f'({cost["naive_flops"] / cost["flops"]:.1f} times); '
      f'{timed["rows"]} rows of {timed["prompts"]} prompts take '
      f'{timed["seconds"]:.2f} s, whole runs {timed["naive_seconds"]:.2f} s '
      f'({timed["naive_seconds"] / timed["seconds"]:.0f} times).'
    )
  return lines


def _prepare(
  given: StudyInputs, name: str
) -> tuple[gj.CheckpointReader, list[Case]]:
  """Returns the reader of a study's model, and its prompts."""
  settings = given.settings
  reader, tokenizer = given.reader, given.tokenizer
  if name == REFUSALS:
    reader = inputs.open_chat_model(
      inputs.resolve_path(settings.chat_model, inputs.CHAT),
      given.reader,
      settings.dtype,
    )
    tokenizer = inputs.read_tokenizer(reader)
  cases = make_cases(
    tokenizer,
    given.people.of('test', 'known'),
    given.people.of('test', 'unknown'),
    chat=name == REFUSALS,
    per_class=settings.questions,
    seed=settings.seed,
  )
  return reader, cases


def _run_study(
  given: StudyInputs,
  name: str,
  reader: gj.CheckpointReader,
  cases: Sequence[Case],
  cuts: Cuts,
) -> dict:
  """Runs one study, writes its effects, returns its numbers."""
  settings, folder = given.settings, given.out / 'work' / name
  model = reader.load()
  identity = corpus.model_identity(reader)
  result, examples = {}, [case.to_dict() for case in cases]
  if name == REFUSALS:
    openings = refusal_openings(
      model,
      inputs.read_tokenizer(reader),
      cases,
      mode=settings.mode,
      max_new_tokens=settings.max_new_tokens,
      folder=folder / 'answers',
      identity=identity,
    )
    wanted = [openings.tokens] * len(cases)
    result = {'measure': 'refusal begins', 'openings': openings.to_dict()}
    for example, text in zip(examples, openings.answers, strict=True):
      example['answer_given'] = text
  else:
    wanted = [case.answer_tokens for case in cases]
    result = {'measure': 'answer begins'}
  watched = _watched(given, model)
  study = run_study(
    model,
    cases,
    cuts.edges,
    cuts.windows,
    cuts.heads,
    wanted,
    watched,
    rows_per_batch=settings.rows_per_batch,
    folder=folder / 'sweeps',
    identity=identity,
    description=f'Cutting attention: {name}',
  )
  if name == ANSWERS:
    result['commonest_answer'] = commonest_answer(study)
  alike = [e for e in cuts.edges if e.queries == cuts.edges[0].queries]
  fit = settings.rows_per_batch // (len(alike) * len(cuts.heads))
  few = min(_TIMED, max(1, fit))
  timed = time_both_ways(
    model,
    cases[:few],
    alike,
    cuts.windows,
    cuts.heads,
    wanted[:few],
    watched,
  )
  result |= summarise(study, list(given.targets), seed=settings.seed)
  result['cost'] = {**study.cost, 'timed': timed}
  _write_effects(given.out / name, study)
  outputs.write_lines(given.out / name / 'examples.jsonl', examples)
  return result


def _watched(given: StudyInputs, model: gj.Decoder) -> tuple[Latents, ...]:
  """Returns the chosen latents, as a sweep measures them."""
  ids = [target.id for target in given.targets.values()]
  saes = {layer: given.sae(layer) for layer in sorted({i.layer for i in ids})}
  given.check_fit(model, list(saes.values()))
  return tuple(saes[id.layer].select([id.latent]) for id in ids)


def _write_effects(folder, study):
  """Writes arrays per prompt, in the order of examples.jsonl.

  The axes are uncut then windows, prompt, row (edges x heads); for latents also
  place and latent.
  """
  folder.mkdir(parents=True, exist_ok=True)
  sweep = study.sweep
  save_tensors(
    folder / 'effects.safetensors',
    {
      'log_prob': sweep.log_prob,
      'says': sweep.says,
      'latents': sweep.latents,
      'windows': np.stack([window.layers for window in study.windows]),
      'heads': np.stack([heads.heads for _, heads in study.rows]),
    },
    metadata={'rows': '; '.join(f'{e} {h.name}' for e, h in study.rows)},
  )


def _share(found: Mapping) -> str:
  value, low, high = (f'{found[key]:.1%}' for key in ('value', 'low', 'high'))
  return f'{value} [{low}, {high}] (n {found["n"]})'


def _number(found: Mapping) -> str:
  return f'{found["value"]:.3f} [{found["low"]:.3f}, {found["high"]:.3f}]'


if __name__ == '__main__':
  start(Settings, work)
