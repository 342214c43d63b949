r"""In which layers, and how strongly added, does a direction change refusals?

  make demo
  python -m experiments.steer_layers --out=out/steer_layers   # MiniWorld

  python -m experiments.steer_layers --out=out/steer_layers_2b \
    --chat_model=google/gemma-2-2b-it --sae=gemma-scope-2b-pt-res \
    --entities=wikidata --run=out/recognition_2b --layers=4,8,12,16,20

Latents are chosen by how well they tell known from unknown entities. Whether
they act is another matter: a model that has read the entity does not look
again. Here the best latent of each layer, and the difference of means there,
are added to the chat model at several doses while it reads a question:
towards unknown for questions about known entities, and the reverse. Maps of
layer by dose show what happens to refusals, how far the model is moved from
itself (KL along its own answers), and where answers fall apart.

A dose is a norm in units of the stream's mean norm at that layer. --out gets
flags.txt, results.json, answers.jsonl, report.html, and answers/, from which
the same command goes on.
"""

from collections.abc import Mapping, Sequence

from absl import flags

from experiments import outputs, subject
from experiments.report import layer_map_figures
from experiments.runs import POSITIVE, define_number, define_numbers, whole
from experiments.steering import POSITIONS, Rules, make_questions
from experiments.steering.amounts import doses
from experiments.steering.doses import stream_norms
from experiments.steering.layer_map import (
  asked_of,
  describe,
  map_arms,
  places,
)
from experiments.steering.study import Asker, Settings


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines this program's flags; returns their names."""
  before = set(values)
  subject.define_flags(values, model='chat', latents=False)
  common = {'flag_values': values}
  define_numbers(
    'sweep', [0.1, 0.2, 0.4, 0.8, 1.6], 'Doses.', POSITIVE, **common
  )
  define_number(
    'questions', 25, 'Per entity type and class.', whole(), **common
  )
  flags.DEFINE_enum(
    'positions',
    'entity_last_to_end',
    list(POSITIONS),
    'Which tokens of a question are steered.',
    **common,
  )
  define_number(
    'max_new_tokens', 30, 'Most tokens of an answer.', whole(), **common
  )
  define_number(
    'rows_per_batch', 256, 'Answers generated at once.', whole(), **common
  )
  return subject.finish_flags(values, before)


def run(values: flags.FlagValues, names: Sequence[str]) -> int:
  """Does what parsed flags say; returns the exit code."""
  try:
    sweep = doses(values.sweep)
    given = subject.open_subject(values, names, model='chat')
    if given.run is None:
      raise ValueError(
        'Which latents, and which means? Give --run, the folder of an '
        'entity_recognition run.'
      )
    layers = list(given.sae_choices)
    if values.layers is None:
      harvested = {each['layer'] for each in given.findings.latents['saes']}
      layers = [layer for layer in layers if layer in harvested]
    found = places(given.findings, [given.sae(layer) for layer in layers])
    questions = make_questions(
      given.tokenizer,
      given.people.of('test', 'known'),
      given.people.of('test', 'unknown'),
      per_class=values.questions,
    )
    given.begin()
    model = given.load()
    site = found[0].id.site
    streams = stream_norms(model, questions, site, layers, values.positions)
    ask = Asker(
      model,
      given.tokenizer,
      Settings(
        rules=Rules.of_mode(values.mode),
        max_new_tokens=values.max_new_tokens,
        rows_per_batch=values.rows_per_batch,
      ),
      given.out / 'answers',
      identity=given.about,
    )
    arms = map_arms(found, streams, sweep, values.positions)
    examples = {
      label: ask.and_measure(
        asked_of(questions, label), of_label, label, f'Answering, to {label}'
      )
      for label, of_label in arms.items()
    }
    records = describe(found, arms, examples)
    outputs.write_lines(
      given.out / 'answers.jsonl',
      [
        {'towards': label, **example}
        for label, of_label in examples.items()
        for example in of_label
      ],
    )
    given.write(
      'steer_layers',
      {
        'positions': values.positions,
        'streams': {
          f'{site}.{layer}': norm.to_dict() for layer, norm in streams.items()
        },
        'map': records,
      },
      'In which layers does a direction act, and at which dose?',
      summary(records),
      layer_map_figures.sections(records),
    )
  except (OSError, ValueError, ImportError) as error:
    return outputs.failed(error)
  return 0


def summary(records: Sequence[Mapping]) -> list[str]:
  """Per label and kind of direction, where refusals change most.

  The largest of many was not chosen beforehand: its interval is too kind.
  """
  lines = []
  for label, kind in dict.fromkeys((r['label'], r['kind']) for r in records):
    of = [r for r in records if (r['label'], r['kind']) == (label, kind)]
    sign = 1 if label == 'unknown' else -1
    best = max(of, key=lambda r: sign * r['change']['value'])
    change, kl = best['change'], best['kl']
    what = best['latent'] or f'difference of means at {_at(best)}'
    layers = sorted(
      {r['layer'] for r in of if sign * r['change']['value'] >= 0.5}
    )
    said = f'{100 * change["value"]:+.0f} points'
    if change['low'] is not None:
      said += f' [{100 * change["low"]:+.0f}, {100 * change["high"]:+.0f}]'
    lines.append(
      f'Towards {label}, the largest of {len(of)} cells is {what} at dose '
      f'{best["dose"]:g}: refusals of questions about {best["asked_about"]} '
      f'entities change by {said} (n {change["n"]}), KL {kl["value"]:.2g} nats '
      'per token. Cells that change them by half or more are in '
      + (f'layers {", ".join(map(str, layers))}.' if layers else 'no layer.')
    )
  return lines


def _at(record: Mapping) -> str:
  return f'{record["site"]}.{record["layer"]}'


if __name__ == '__main__':
  outputs.start(define_flags, run)
