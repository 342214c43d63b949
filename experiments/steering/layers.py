r"""In which layers, and how strongly added, does a direction change refusals?

  make demo
  python -m experiments.steering.layers --out=out/layers   # MiniWorld

  python -m experiments.steering.layers --out=out/steer_layers_2b \
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
import dataclasses

from experiments.inputs.settings import ChatStudy, SAELayers
from experiments.inputs.study_inputs import open_inputs
from experiments.runs import Count, KeepFlags, Positive, outputs, start
from experiments.steering import Rules, layer_map_figures, make_questions
from experiments.steering.doses import stream_norms
from experiments.steering.layer_map import asked_of, describe, map_arms, places
from experiments.steering.settings import Positions
from experiments.steering.strength import check_doses
from experiments.steering.study import AnswerRunner, SteeringOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ChatStudy, SAELayers):
  """Holds what is added where, over layers and doses.

  Attributes:
    sweep: Doses, in units of the mean norm of the residual stream at the layer.
    questions: Questions per entity type and class.
    positions: Tokens of a question that are steered.
    max_new_tokens: Most tokens of an answer.
    rows_per_batch: Answers that are generated at once.
  """

  sweep: tuple[Positive, ...] = (0.1, 0.2, 0.4, 0.8, 1.6)
  questions: Count = 25
  positions: Positions = 'entity_last_to_end'
  max_new_tokens: Count = 30
  rows_per_batch: Count = 256

  def __post_init__(self):
    super().__post_init__()
    if not self.sweep:
      raise ValueError('--sweep is empty; give one dose at least, such as 0.2.')
    check_doses(self.sweep)


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Maps layers and doses, writes the results; returns the summary."""
  given = open_inputs(settings, keep_flags)
  if given.run is None:
    raise ValueError(
      'Which latents, and which means? Give --run, the folder of an '
      'entity_recognition run.'
    )
  layers = list(given.sae_choices)
  if settings.layers is None:
    harvested = {each['layer'] for each in given.findings.latents['saes']}
    layers = [layer for layer in layers if layer in harvested]
  found = places(given.findings, [given.sae(layer) for layer in layers])
  questions = make_questions(
    given.tokenizer,
    given.people.of('test', 'known'),
    given.people.of('test', 'unknown'),
    per_class=settings.questions,
  )
  given.begin()
  model = given.load()
  site = found[0].id.site
  streams = stream_norms(model, questions, site, layers, settings.positions)
  ask = AnswerRunner(
    model,
    given.tokenizer,
    SteeringOptions(
      rules=Rules.of_mode(settings.mode),
      max_new_tokens=settings.max_new_tokens,
      rows_per_batch=settings.rows_per_batch,
    ),
    given.out / 'answers',
    identity=given.about,
  )
  arms = map_arms(found, streams, settings.sweep, settings.positions)
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
  return given.write(
    'steering.layers',
    {
      'positions': settings.positions,
      'streams': {
        f'{site}.{layer}': norm.to_dict() for layer, norm in streams.items()
      },
      'map': records,
    },
    'In which layers does a direction act, and at which dose?',
    summary(records),
    layer_map_figures.sections(records),
  )


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
  start(Settings, work)
