r"""Does the model say that it knows an entity? Do latents change what it says?

  python -m experiments.entity_recognition --out=out/demo      # `make demo`
  python -m experiments.self_report --out=out/self_report            # MiniWorld

  python -m experiments.self_report --out=out/self_report_2b \
    --run=out/gemma_2_2b --chat_model=google/gemma-2-2b-it \
    --sae=gemma-scope-2b-pt-res --entities=wikidata --dtype=bfloat16

The chat model is asked "Are you sure you know the {type} {name}? Answer yes or
no.", its answer is begun for it, "Answer:", and what counts is how much more
likely ' Yes' is than ' No' (arXiv 2411.14257, Figure 5). Every entity of the
test split is asked about once. Then a latent's decoder row is added at the last
token of the name: the unknown latent on known entities should make the model
less sure, the known latent on unknown entities surer. Beside them the opposite
direction, the difference of means, and random latents and directions of the
same norm; all arms on all entities.

Another question or other words: --question, --prefix, --yes, --no. The two
words must be tokens of the model. Where they carry next to none of the
probability, the model would say neither, and what is read is no self-report:
the summary says so. The same two words are read after an ordinary question
about each entity, too: what tells known from unknown there is no self-report
either, but what any question brings out. MiniWorld was taught what to say to
this question, about entities that it is not asked about here.

How much is added: --alpha_known and --alpha_unknown are coefficients; --dose
is a norm in units of the mean norm of the stream there. For the published
models the default is the published coefficient, for others --dose=1. --sweep
has more doses.

--mode=reference asks as the published code did: about an entity once for each
of its relations, with one random latent, of the unknown latent's layer, as the
control of both latents.

--out gets

  results.json         every mean, effect, interval and test
  examples.jsonl       each question: logits of both words under the main arms
  effects.safetensors  logits [arm, question, word] and log_sum [arm, question]
                       of all arms, in the order of results.json
  report.html          figures
  replies/             what is kept to go on from
"""

from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np

from experiments.inputs.study_inputs import open_inputs
from experiments.latents import write_arrays
from experiments.runs import KeepFlags, outputs, start
from experiments.self_report import (
  METRICS,
  Replies,
  ask_about,
  ask_ordinary,
  ask_per_relation,
  figures,
  measure,
  self_report_arms,
  summarise,
)
from experiments.self_report.settings import Settings
from experiments.self_report.summary import sentences
from experiments.steering import (
  RANDOM_KINDS,
  SWEEP_KINDS,
  Arm,
  Question,
  stream_norms,
)


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Asks, writes the results; returns the summary."""
  wording = settings.wording
  given = open_inputs(settings, keep_flags)
  token_ids = wording.token_ids(given.tokenizer)
  strengths = {label: settings.strength(label) for label in given.targets}
  known, unknown = (
    given.people.of('test', label) for label in ('known', 'unknown')
  )
  if settings.mode == 'reference':
    questions = ask_per_relation(
      given.tokenizer, known, unknown, wording, per_class=settings.questions
    )
  else:
    questions = ask_about(
      given.tokenizer,
      known,
      unknown,
      wording,
      per_class=settings.questions,
      seed=settings.seed,
    )
  given.begin()
  model = given.load()
  norms = {
    label: stream_norms(
      model, questions, target.id.site, [target.id.layer], settings.positions
    )[target.id.layer]
    for label, target in given.targets.items()
  }
  alphas = {
    label: strength.alpha
    if strength.alpha is not None
    else strength.dose * norms[label].value / given.targets[label].norm
    for label, strength in strengths.items()
  }
  arms = self_report_arms(
    given.targets,
    alphas,
    norms,
    mode=settings.mode,
    positions=settings.positions,
    num_random=settings.num_random,
    sweep=settings.sweep,
    seed=settings.seed,
  )
  replies = measure(
    model,
    questions,
    arms,
    token_ids,
    rows_per_batch=settings.rows_per_batch,
    folder=given.out / 'replies',
    identity=given.about,
  )
  ordinary = ask_ordinary(given.tokenizer, known, unknown, questions)
  at_ordinary = measure(
    model,
    ordinary,
    arms[:1],
    token_ids,
    rows_per_batch=settings.rows_per_batch,
    folder=given.out / 'ordinary',
    identity=given.about,
  )
  results = {
    'wording': dataclasses.asdict(wording),
    'ordinary': summarise(ordinary, arms[:1], at_ordinary),
    'metric': settings.metric,
    'amounts': {
      label: {
        'alpha': alphas[label],
        'source': strengths[label].source,
        'direction_norm': target.norm,
        'stream_norm': norms[label].to_dict(),
        'dose': alphas[label] * target.norm / norms[label].value,
      }
      for label, target in given.targets.items()
    },
    **summarise(questions, arms, replies),
  }
  examples = list(_examples(questions, arms, replies))
  outputs.write_lines(given.out / 'examples.jsonl', examples)
  write_arrays(
    given.out / 'effects.safetensors',
    {'logits': replies.logits, 'log_sum': replies.log_sum},
  )
  return given.write(
    'self_report',
    results,
    'Does the model say that it knows?',
    sentences(results),
    figures.sections(results, examples),
  )


def _examples(
  questions: Sequence[Question], arms: Sequence[Arm], replies: Replies
) -> Iterator[dict]:
  """Yields a record per question, with the arms that are no random ones."""
  shown = [
    i
    for i, arm in enumerate(arms)
    if arm.kind not in (*RANDOM_KINDS, *SWEEP_KINDS)
  ]
  values = {name: replies.metric(name) for name in METRICS}
  for q, question in enumerate(questions):
    yield {
      'entity': question.entity,
      'type': question.type,
      'class': question.entity_class,
      'question': question.text,
      'arms': {
        arms[i].name: {
          'logits': np.round(replies.logits[i, q].astype(float), 5).tolist(),
          **{name: float(each[i, q]) for name, each in values.items()},
        }
        for i in shown
      },
    }


if __name__ == '__main__':
  start(Settings, work)
