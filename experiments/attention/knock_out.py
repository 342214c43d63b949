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

from absl import flags
import numpy as np

from experiments import inputs
from experiments.attention import (
  Edges,
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
from experiments.inputs import corpus, study_inputs
from experiments.runs import define_number, define_numbers, outputs, whole
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


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines this program's flags; returns their names."""
  before = set(values)
  study_inputs.define_flags(values, model='base', num_random=None)
  inputs.define_chat_model(values)
  common = {'flag_values': values}
  flags.DEFINE_list(
    'studies', list(STUDIES), 'Of answers and refusals.', **common
  )
  flags.DEFINE_list(
    'edges', list(EDGES), 'What is cut, as QUERIES:KEYS.', **common
  )
  define_numbers(
    'window',
    [1, 3, 'from'],
    "Widths of windows in layers; 'from' is all layers from one on.",
    whole(1, 10_000, words=('from',)),
    **common,
  )
  flags.DEFINE_list(
    'heads',
    ['all'],
    "Sets of heads: 'all', 'each', or heads joined by '+', such as H2 or "
    'L18H5+L20H3.',
    **common,
  )
  define_number(
    'questions', 50, 'Prompts per entity type and class.', whole(2), **common
  )
  define_number(
    'max_new_tokens',
    30,
    'Most tokens of the answers that show how refusals begin.',
    whole(),
    **common,
  )
  define_number(
    'rows_per_batch',
    1024,
    'Prompts times sets of edges and heads that run at once.',
    whole(),
    **common,
  )
  return study_inputs.finish_flags(values, before)


def run(values: flags.FlagValues, names: Sequence[str]) -> int:
  """Does what parsed flags say; returns the exit code."""
  try:
    about = study_inputs.open_subject(values, names)
    wrong = sorted(set(values.studies) - set(STUDIES))
    if wrong or not values.studies:
      raise ValueError(
        f'--studies={",".join(values.studies)}; expected some of '
        f'{", ".join(STUDIES)}.'
      )
    if not values.edges:
      raise ValueError(f'Give --edges, such as {EDGES[0]}.')
    config = about.reader.config
    plan = {
      'edges': list(dict.fromkeys(map(Edges.parse, values.edges))),
      'windows': parse_windows(values.window, config),
      'heads': parse_heads(values.heads, config),
    }
    prepared = [
      _prepare(about, name) for name in STUDIES if name in values.studies
    ]
    for _, _, cases in prepared:
      for edge in plan['edges']:
        for case in cases:
          edge.first(case)  # has them all, or says which prompt does not
    about.begin()
    studies = {}
    for name, reader, cases in prepared:
      studies[name] = _run_study(about, name, reader, cases, plan)
    results = {
      'edges': list(map(str, plan['edges'])),
      'window': list(map(str, values.window)),
      'heads': [each.name for each in plan['heads']],
      'studies': studies,
    }
    about.write(
      'attention.knock_out',
      results,
      'What must the last token see to recall a fact, or to decline?',
      summary(results),
      knockout_figures.knockout_sections(results),
    )
  except (OSError, ValueError, ImportError) as error:
    return outputs.failed(error)
  return 0


def summary(results: Mapping) -> list[str]:
  """Uncut, what cutting everywhere does, up to where edges are read, cost."""
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


def _prepare(about, name):
  """A study's name, the reader of its model, and its prompts."""
  values = about.values
  reader, tokenizer = about.reader, about.tokenizer
  if name == REFUSALS:
    reader = inputs.open_chat_model(
      inputs.resolve_path(values.chat_model, inputs.CHAT),
      about.reader,
      values.dtype,
    )
    tokenizer = inputs.read_tokenizer(reader)
  cases = make_cases(
    tokenizer,
    about.people.of('test', 'known'),
    about.people.of('test', 'unknown'),
    chat=name == REFUSALS,
    per_class=values.questions,
    seed=values.seed,
  )
  return name, reader, cases


def _run_study(about, name, reader, cases, plan) -> dict:
  """Runs one study, writes its effects, returns its numbers."""
  values, folder = about.values, about.out / 'work' / name
  model = reader.load()
  identity = corpus.model_identity(reader)
  result, examples = {}, [case.to_dict() for case in cases]
  if name == REFUSALS:
    openings = refusal_openings(
      model,
      inputs.read_tokenizer(reader),
      cases,
      mode=values.mode,
      max_new_tokens=values.max_new_tokens,
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
  watched = _watched(about, model)
  arguments = (plan['windows'], plan['heads'], wanted, watched)
  study = run_study(
    model,
    cases,
    plan['edges'],
    *arguments,
    rows_per_batch=values.rows_per_batch,
    folder=folder / 'sweeps',
    identity=identity,
    description=f'Cutting attention: {name}',
  )
  if name == ANSWERS:
    result['commonest_answer'] = commonest_answer(study)
  first = [e for e in plan['edges'] if e.queries == plan['edges'][0].queries]
  fit = values.rows_per_batch // (len(first) * len(plan['heads']))
  few = min(_TIMED, max(1, fit))
  timed = time_both_ways(
    model,
    cases[:few],
    first,
    plan['windows'],
    plan['heads'],
    wanted[:few],
    watched,
  )
  result |= summarise(study, list(about.targets), seed=values.seed)
  result['cost'] = {**study.cost, 'timed': timed}
  _write_effects(about.out / name, study)
  outputs.write_lines(about.out / name / 'examples.jsonl', examples)
  return result


def _watched(about, model) -> tuple[Latents, ...]:
  """The chosen latents, as a sweep measures them."""
  values, ids = about.values, [t.id for t in about.targets.values()]
  saes = inputs.choose_saes(
    inputs.resolve_path(values.sae, inputs.SAES),
    about.reader.config,
    layers=sorted({id.layer for id in ids}),
    width=values.width,
    l0=values.l0,
  )
  saes = {one.layer: one.load(about.reader) for one in saes}
  about.check_fit(model, list(saes.values()))
  return tuple(saes[id.layer].select([id.latent]) for id in ids)


def _write_effects(folder, study):
  """Arrays per prompt, in the order of examples.jsonl.

  Axes: uncut then windows, prompt, row (edges x heads); for latents also place
  and latent.
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
  outputs.start(define_flags, run)
