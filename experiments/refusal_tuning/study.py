"""The study: train the arms, ask again, compare, look inside.

Every step is kept in the run's folder when it is complete, under the identity
of all that it depends on, so that the same command goes on where it was killed;
training itself goes on from its last snapshot.

  arms/<arm>      a tuned model: all weights as HF writes them, or PEFT adapters
  answers/<arm>   what it says to questions that no row came from
  side_effects/   plain text and ordinary requests
  inside/         detectors, controllers, patched weights
  best/model      the best arm as HF reads it, adapters merged
"""

from collections.abc import Mapping
import dataclasses
import time

import numpy as np

from experiments.inputs import corpus
from experiments.refusal_tuning import steps
from experiments.refusal_tuning.arms import export, make_arm
from experiments.refusal_tuning.opening import Study
from experiments.refusal_tuning.settings import TUNED, UNTUNED
from experiments.runs import outputs


def run_study(study: Study) -> dict:
  """Runs what is not finished; returns what results.json gets."""
  settings, start = study.settings, time.monotonic()
  arms = (UNTUNED, *settings.arms)
  found, answers, made = {}, {}, {}
  for number, name in enumerate(arms):
    spent = time.monotonic() - start
    print(
      f'[{number + 1}/{len(arms)}] {name} (after {spent:.0f} s)', flush=True
    )
    arm = made[name] = make_arm(study, name, made)
    answers[name] = steps.answer(study, arm)
    found[name] = {
      'arm': name,
      **steps.compare(study, answers[UNTUNED], answers[name]),
    }
    if name in TUNED:
      found[name] |= {
        'training': arm.about,
        'side_effects': steps.measure_costs(study, arm),
      }
  best = settings.inside or max(
    (arm for arm in arms if arm in TUNED),
    key=lambda arm: _validation_score(found[arm]),
  )
  spent = time.monotonic() - start
  print(f'Looking inside {best} (after {spent:.0f} s)', flush=True)
  inside = steps.inside(study, made[best], answers[UNTUNED], answers[best])
  export(study, made[best])
  return {
    'study': 'refusal_tuning',
    'mode': 'default',
    'seed': settings.seed,
    'versions': outputs.versions(),
    'model': {
      'name': study.probe.name,
      'path': study.probe.settings.model,
      **corpus.model_identity(study.reader),
    },
    'settings': dataclasses.asdict(settings),
    'method': 'lora' if study.tuner.lora else 'full',
    'questions': {
      split: len(study.questions([split])) for split in (*steps.ASKED, 'train')
    },
    'arms': list(found.values()),
    'best': best,
    'inside': inside,
    'examples': _examples(study, answers),
    'seconds': time.monotonic() - start,
  }


def _validation_score(arm: Mapping) -> float:
  value = arm['validation']['metrics']['honesty']['after']['value']
  return -1.0 if value is None else value


def _examples(study: Study, answers: Mapping) -> list[dict]:
  """Returns some test questions with what every arm said."""
  questions = study.questions(['test'])
  rng = np.random.default_rng(study.settings.seed)
  chosen = rng.permutation(len(questions))[:12]
  return [
    {
      'question': questions[i].question,
      'answers': list(questions[i].answers[:2]),
      'known': questions[i].known,
      'said': {
        arm: each[questions[i].id].text for arm, each in answers.items()
      },
    }
    for i in sorted(chosen)
  ]
