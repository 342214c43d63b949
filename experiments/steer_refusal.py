r"""Adds latents to a chat model while it reads a question: does it decline?

  python -m experiments.entity_recognition --out=out/recognition
  python -m experiments.steer_refusal --run=out/recognition --out=out/steering

  python -m experiments.steer_refusal --out=out/steering_2b \
    --chat_model=google/gemma-2-2b-it --sae=gemma-scope-2b-pt-res \
    --entities=wikidata --labels=out/labels/records \
    --known_latent=resid_post.12/7957 --unknown_latent=resid_post.14/11898 \
    --positions=entity_last

The experiment of arXiv 2411.14257, section 5, by itself, to try other latents,
positions, coefficients or entities; `entity_recognition` has it as its last
stage. What is compared: experiments/steering/arms.py.

Latents, their random controls, the difference of means and labels come from
--run, the folder of an `entity_recognition` run with the same SAEs and
entities. Latents named by flags have random latents of the same SAE as
controls, drawn uniformly: matched ones need a run that chose them.

A latent is named SITE.LAYER/INDEX. resid_post of layer l is what the paper
calls layer l + 1.

How much is added: --alpha_known and --alpha_unknown are coefficients of decoder
rows; --dose is a norm in units of the stream's; --goal has the smallest dose
chosen that changes refusals by so much on validation questions. One is needed,
but for published models, which have their coefficients. --out gets flags.txt,
results.json, answers.jsonl (every answer, with its outcome), report.html, and
answers/, from which the same command goes on.
"""

from collections.abc import Mapping, Sequence
import os
import pathlib

from absl import flags

from experiments import inputs, model_and_text, outputs
from experiments.entities import (
  MODES,
  Entity,
  People,
  classify,
  read_entities,
  read_records,
  split_classes,
)
from experiments.latents import CLASSES
from experiments.report import steering_figures
from experiments.report.page import Section, Table, write_report
from experiments.steering import (
  POSITIONS,
  WAYS,
  Rules,
  Settings,
  make_questions,
  steer,
)
from experiments.steering.amounts import amount, doses
from experiments.steering.targets import RecognitionRun, find_targets


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines this program's flags; returns their names."""
  before = set(values)
  inputs.define_chat_model(values)
  inputs.define_saes(values)
  inputs.define_entities(values)
  common = {'flag_values': values}
  flags.DEFINE_string(
    'out', None, 'Folder for everything that is written.', **common
  )
  flags.DEFINE_enum(
    'dtype',
    None,
    ['float32', 'bfloat16'],
    'Of the model and its activations. Default: that of the checkpoint.',
    **common,
  )
  flags.DEFINE_enum(
    'mode',
    'default',
    MODES,
    "'reference' reads answers as the published code did, past their end.",
    **common,
  )
  flags.DEFINE_string(
    'run', None, 'Folder of an entity_recognition run.', **common
  )
  for label in CLASSES:
    flags.DEFINE_string(
      f'{label}_latent',
      None,
      f'Latent that fires on {label} entities, such as resid_post.12/7957. '
      "Default: the run's; without a run, none.",
      **common,
    )
    flags.DEFINE_float(
      f'alpha_{label}',
      None,
      f"Coefficient of the {label} latent's decoder row.",
      **common,
    )
  flags.DEFINE_float(
    'dose', None, "Norm of what is added, in units of the stream's.", **common
  )
  flags.DEFINE_float(
    'goal',
    None,
    'Change of the refusal rate that the dose is chosen for.',
    lower_bound=0.0,
    upper_bound=1.0,
    **common,
  )
  flags.DEFINE_string(
    'labels',
    None,
    'Folder of answers of the base model, which say what it knows. Default: '
    "the run's.",
    **common,
  )
  flags.DEFINE_integer(
    'questions', 100, 'Per entity type and class.', lower_bound=1, **common
  )
  flags.DEFINE_enum(
    'positions',
    'entity_last_to_end',
    list(POSITIONS),
    'Which tokens of a question are steered.',
    **common,
  )
  flags.DEFINE_bool('generated', False, 'Steer generated tokens too.', **common)
  flags.DEFINE_integer(
    'max_new_tokens', 30, 'Most tokens of an answer.', lower_bound=1, **common
  )
  flags.DEFINE_integer(
    'num_random',
    20,
    'Random latents, and random directions, per latent.',
    lower_bound=0,
    **common,
  )
  flags.DEFINE_list(
    'sweep',
    ['0.1', '0.2', '0.3', '0.4', '0.6', '1', '2'],
    'Doses of the dose-response curves.',
    **common,
  )
  flags.DEFINE_list(
    'orthogonalise',
    list(WAYS),
    "Ways to take a latent's direction out of the weights, of "
    f'{" and ".join(WAYS)}.',
    **common,
  )
  flags.DEFINE_integer(
    'rows_per_batch',
    256,
    'Answers generated at once.',
    lower_bound=1,
    **common,
  )
  flags.DEFINE_integer('seed', 0, 'Of all draws.', **common)
  names = sorted(set(values) - before)
  outputs.show_in_help(values, names)
  return names


def known_and_unknown(
  entities: Mapping[str, Sequence[Entity]], labels: str
) -> People:
  """The entities, split, by answers of the base model.

  Raises:
    ValueError, OSError: answers are missing or malformed, or a class is small.
  """
  classes = classify(read_records(labels))
  for kind in entities:
    if kind not in classes:
      raise ValueError(f'{labels} has no answers about entities of {kind!r}.')
  return split_classes(entities, classes)


def run(values: flags.FlagValues, names: Sequence[str]) -> int:
  """Does what parsed flags say; returns the exit code."""
  try:
    if values.out is None:
      raise ValueError('Say where results go: --out=DIR.')
    out = pathlib.Path(values.out)
    chat = inputs.open_model(
      inputs.place(values.chat_model, inputs.CHAT), values.dtype
    )
    tokenizer = inputs.read_tokenizer(chat)
    before = RecognitionRun(values.run)
    targets, drawn = find_targets(values, before, chat)
    amounts = {each.label: amount(values, each.label) for each in targets}
    labels = values.labels
    if labels is None and before.folder is None:
      raise ValueError(
        'What does the base model know? Give --labels, a folder of its '
        'answers (experiments.label_entities makes them), or --run.'
      )
    people = known_and_unknown(
      read_entities(inputs.place(values.entities, inputs.ENTITIES)),
      labels or str(before.folder / 'labels' / 'records'),
    )
    ask = lambda part: make_questions(
      tokenizer,
      people.of(part, 'known'),
      people.of(part, 'unknown'),
      per_class=values.questions,
    )
    questions = ask('test')
    validation = ask('validation') if values.goal is not None else ()
    settings = Settings(
      rules=Rules.of_mode(values.mode),
      positions=values.positions,
      generated=values.generated,
      max_new_tokens=values.max_new_tokens,
      rows_per_batch=values.rows_per_batch,
      num_random_directions=values.num_random,
      sweep=doses(values.sweep),
      orthogonalise=values.orthogonalise,
      seed=values.seed,
    )
    about = {
      'folder': os.fspath(chat.folder),
      'dtype': str(chat.dtype),
      'fingerprint': model_and_text.fingerprint(chat),
    }
    outputs.write_flags(out, values, names)
    results, examples = steer(
      chat.load(),
      tokenizer,
      questions,
      targets,
      amounts,
      settings,
      validation=validation,
      folder=out / 'answers',
      identity=about,
    )
    for label, how in drawn.items():
      results['targets'][label]['controls_drawn'] = how
    results = {
      'experiment': 'steer_refusal',
      'mode': values.mode,
      'seed': values.seed,
      'model': about,
      'sae': values.sae,
      'steering': results,
      'versions': outputs.versions(),
    }
    outputs.write_results(out, results)
    outputs.write_lines(out / 'answers.jsonl', examples)
    _write_page(out, results, examples)
  except (OSError, ValueError, KeyError, ImportError) as error:
    return outputs.failed(error)
  print('\n'.join(summary(results)))
  print(f'Written: {out / outputs.REPORT_FILE}')
  return 0


def summary(results: Mapping) -> list[str]:
  """What was added; refusals under the original and each latent."""
  lines = [
    f'{label} latent {target["id"]}: alpha {target["alpha"]:.4g} '
    f'({target["source"]}) x norm {target["direction_norm"]:.3g} = '
    f'{target["dose"]:.2f} times the mean norm of the stream there, '
    f'{target["stream_norm"]["value"]:.4g}'
    for label, target in results['steering']['targets'].items()
  ]
  for arm in results['steering']['arms']:
    if arm['kind'] in ('original', 'steered'):
      for name, scopes in arm['counts'].items():
        refused = scopes['all']['refusal']
        lines.append(
          f'{arm["name"]}, {name} entities: {refused["count"]} of '
          f'{refused["n"]} refused, {refused["value"]:.1%} '
          f'[{refused["low"]:.1%}, {refused["high"]:.1%}]'
        )
  return lines


def _write_page(out, results, examples):
  steering = results['steering']
  rows = [
    ['model', f'{results["model"]["folder"]}, {results["model"]["dtype"]}'],
    ['SAEs', results['sae']],
    ['mode', results['mode']],
    ['seed', str(results['seed'])],
    *(
      [f'random latents for {label}', target['controls_drawn']]
      for label, target in steering['targets'].items()
    ),
    *map(list, results['versions'].items()),
  ]
  write_report(
    out / outputs.REPORT_FILE,
    'Does the model decline when a latent is added?',
    [f'{line}.' for line in summary(results)],
    [
      *steering_figures.sections(steering, examples),
      Section(
        title='What this was computed with',
        text=['flags.txt repeats the run; results.json has every number.'],
        tables=[Table(columns=['', ''], rows=rows)],
      ),
    ],
  )


if __name__ == '__main__':
  outputs.start(define_flags, run)
