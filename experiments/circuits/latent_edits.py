"""All causes of a subject: what is done to its latents, and to whom.

The model's own answers say how its refusals begin. Each latent is added where
it is silent and ablated where it fires; each of these is traced, and kept in
the run's folder.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import pathlib
import re

import jax
import numpy as np
from safetensors.numpy import load_file

from experiments.circuits import refusal_default
from experiments.circuits.components import Component
from experiments.circuits.metric import Pairs, choose_pairs, find_beginnings
from experiments.circuits.results import Asked
from experiments.circuits.study import Settings, trace
from experiments.circuits.tracing import LatentEdit, ablated, steered
from experiments.inputs.study_inputs import StudyInputs
from experiments.latents import CLASSES
from experiments.runs import outputs
from experiments.runs.stages import stage
from experiments.steering import (
  OPPOSITE,
  ORIGINAL,
  REFUSAL,
  Arm,
  Question,
  Rules,
  generate_answers,
  make_examples,
  stream_norms,
)
import gemma_jax as gj
from gemma_jax.whole_files import save_tensors
from sae.jumprelu import JumpReLUSAE


class CircuitStudy:
  """One model, its questions, and all that is traced.

  Attributes:
    metric: What is measured, in words and tokens.
    examples: The model's own answers.
  """

  def __init__(
    self,
    subject: StudyInputs,
    model: gj.Decoder,
    splits: Mapping[str, Sequence[Question]],
    saes: Mapping[str, JumpReLUSAE],
    settings: Settings,
  ):
    """Asks the questions, to see how the model's answers begin.

    Args:
      subject: Of the run, whose folder keeps what is done.
      model: The chat model.
      splits: 'validation' and 'test' -> questions.
      saes: Label -> the SAE of its latent.
      settings: Settings.

    Raises:
      ValueError: refusals and answers do not begin differently.
    """
    self._subject, self._model, self._saes = subject, model, saes
    self._settings, self._arrays = settings, {}
    values = subject.values
    everything = [*splits['validation'], *splits['test']]
    answers = generate_answers(
      model,
      everything,
      [Arm(name=ORIGINAL, kind=ORIGINAL)],
      stop_ids=subject.tokenizer.stop_ids,
      max_new_tokens=values.max_new_tokens,
      rows_per_batch=values.rows_per_batch,
      folder=subject.out / 'answers',
      identity=subject.about,
      redo=True,
    )
    self.examples = make_examples(
      subject.tokenizer,
      everything,
      [Arm(name=ORIGINAL, kind=ORIGINAL)],
      answers,
      Rules.of_mode(values.mode),
    )
    refused = [each['outcome'] == REFUSAL for each in self.examples]
    self._beginnings = find_beginnings(answers[0], refused)
    logits = _first_logits(model, everything, values.rows_per_batch)
    pairs = choose_pairs(logits, self._beginnings)
    cut = len(splits['validation'])
    self._asked = {}
    for part, at in (
      ('validation', np.arange(cut)),
      ('test', np.arange(cut, len(everything))),
    ):
      for label in CLASSES:
        mine = [i for i in at if everything[i].entity_class == label]
        self._asked[part, label] = _take(everything, pairs, mine)
    self._test = _take(everything, pairs, np.arange(cut, len(everything)))
    first = logits.argmax(axis=1)
    told = np.isin(first, sorted(self._beginnings.refusals)) == refused
    self.metric = {
      'what': 'logit of a first token of refusals less that of a first token '
      'of answers, before the soft cap, at the last token of the prompt',
      'refusals': self._spelled(self._beginnings.refusals),
      'answers': self._spelled(self._beginnings.answers),
      'first_token_tells': {'value': float(told.mean()), 'n': len(told)},
    }

  def _spelled(self, counts: Mapping[int, int]) -> dict[str, int]:
    tokens = sorted(counts, key=lambda token: -counts[token])
    spelled = self._subject.tokenizer.token_strings(tokens)
    return dict(zip(spelled, (counts[t] for t in tokens), strict=True))

  def causes(self) -> list[tuple]:
    """(Cause, class of entities asked about, controls, how much) of each."""
    subject, made = self._subject, []
    positions = subject.values.positions
    for label, target in subject.targets.items():
      if 'steer' in subject.values.causes:
        other = OPPOSITE[label]
        amount = self._amount(target, other)
        # Of one norm, whatever the rows' own.
        controls = [
          steered(
            dataclasses.replace(target, direction=row),
            amount['added_norm'] / float(np.linalg.norm(row)),
            positions,
          )
          for row in target.controls.values()
        ]
        cause = steered(target, amount['alpha'], positions)
        made.append((cause, other, controls, amount))
      if 'ablate' in subject.values.causes:
        ablate = lambda id, label=label: ablated(
          label, id, self._saes[label], positions
        )
        controls = [ablate(id) for id in target.controls]
        made.append((ablate(target.id), label, controls, None))
    return made

  def _amount(self, target, entity_class: str) -> dict:
    values, id = self._subject.values, target.id
    norm = stream_norms(
      self._model,
      self._asked['validation', entity_class].questions,
      id.site,
      [id.layer],
      values.positions,
      rows_per_batch=values.rows_per_batch,
    )[id.layer]
    alpha = getattr(values, f'alpha_{target.label}')
    if alpha is None:
      alpha = values.dose * norm.value / target.norm
    return {
      'alpha': alpha,
      'direction_norm': target.norm,
      'added_norm': alpha * target.norm,
      'stream_norm': norm.to_dict(),
      'dose': alpha * target.norm / norm.value,
    }

  def trace(self, cause, entity_class, controls, amount) -> dict:
    """Results of one cause, from its folder if they are there."""
    subject = self._subject
    choosing = self._asked['validation', entity_class]
    reporting = self._asked['test', entity_class]
    folder = subject.out / 'causes' / re.sub(r'\W+', '_', cause.name).strip('_')

    def make(partial: pathlib.Path):
      results, arrays = trace(
        self._model,
        subject.tokenizer,
        cause,
        choosing,
        reporting,
        self._settings,
        controls=controls,
      )
      outputs.write_results(partial, results | {'amount': amount})
      save_tensors(partial / 'effects.safetensors', arrays)

    identity = {
      'model': subject.about,
      'settings': dataclasses.asdict(self._settings),
      'cause': _digest([cause, *controls]),
      'asked': _digest_of_questions(choosing, reporting),
    }
    stage(folder, identity, make)
    for name, x in load_file(folder / 'effects.safetensors').items():
      self._arrays[f'{cause.name}/{name}'] = x
    return outputs.read_json(folder / outputs.RESULTS_FILE)

  def polarity(self, causes: Sequence[Mapping]) -> dict:
    """What the model does without evidence, and without its latents.

    Args:
      causes: What was traced, whose circuits' heads are cut too.
    """
    subject = self._subject
    ablate = lambda label, id: ablated(
      label, id, self._saes[label], 'entity_to_end'
    )
    ablations = {
      label: ablate(label, target.id)
      for label, target in subject.targets.items()
    }
    conditions = refusal_default.conditions(
      self._model.config,
      ablations,
      {
        label: [ablate(label, id).edit for id in target.controls]
        for label, target in subject.targets.items()
      },
      {
        Component(c['layer'], c['head'], c['tokens'])
        for cause in causes
        for c in cause.get('components', ())
        if c['in_circuit']
      },
    )
    readings = refusal_default.read_conditions(
      self._model,
      self._test.questions,
      self._beginnings,
      self._test.pairs,
      ablations,
      conditions,
      rows_per_batch=subject.values.rows_per_batch,
    )
    for name, reading in readings.items():
      self._arrays[f'polarity/{name}/metric'] = reading.metric
      self._arrays[f'polarity/{name}/refused'] = reading.refused
    return refusal_default.summarise(
      self._test.questions, conditions, readings, subject.values.seed
    )

  def write_arrays(self):
    """Writes effects.safetensors."""
    save_tensors(self._subject.out / 'effects.safetensors', self._arrays)


def _take(questions, pairs, at) -> Asked:
  return Asked(
    questions=[questions[i] for i in at],
    pairs=Pairs(refusal=pairs.refusal[at], answer=pairs.answer[at]),
  )


def _first_logits(model, questions, rows_per_batch) -> np.ndarray:
  """float32 [Q, V], what the model would say first."""
  found = []
  length = max(question.length for question in questions)
  B = min(rows_per_batch, len(questions))
  for start in range(0, len(questions), B):
    at = np.minimum(np.arange(start, start + B), len(questions) - 1)
    padded = gj.pad_rows(
      [questions[i].ids for i in at], model.config.fill_id, buckets=length
    )
    out = gj.run(model, *padded, logits_at='last').logits
    found.append(np.asarray(out)[: len(questions) - start, 0])
  return np.concatenate(found)


def _digest(causes: Sequence[LatentEdit]) -> str:
  """What tells edits from others."""
  said = hashlib.sha256()
  for cause in causes:
    said.update(f'{cause.name} {cause.id} {cause.positions}'.encode())
    for array in jax.tree.leaves(cause.edit):
      said.update(np.asarray(array).tobytes())
  return said.hexdigest()


def _digest_of_questions(*asked: Asked) -> str:
  said = [
    (q.ids, q.span, int(refusal), int(answer))
    for each in asked
    for q, refusal, answer in zip(
      each.questions, each.pairs.refusal, each.pairs.answer, strict=True
    )
  ]
  return hashlib.sha256(repr(said).encode()).hexdigest()
