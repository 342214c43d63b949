"""All edits of a study: what is done to its latents, in which questions.

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
from experiments.circuits.circuit_results import Asked
from experiments.circuits.components import Component
from experiments.circuits.metric import Pairs, choose_pairs, find_beginnings
from experiments.circuits.study import TracingOptions, trace
from experiments.circuits.tracing import LatentEdit, ablated, steered
from experiments.inputs.study_inputs import StudyInputs
from experiments.latents import CLASSES
from experiments.runs import outputs
from experiments.runs.checksums import of_value
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


def tracing_options(settings) -> TracingOptions:
  """Returns what `trace` takes of the study's settings.

  Raises:
    ValueError: no circuit could reach the goal.
  """
  return TracingOptions(
    goal=settings.goal,
    smallest_effect=settings.smallest_effect,
    graph_nodes=settings.graph_nodes,
    num_random=settings.num_random,
    mode=settings.mode,
    rows_per_batch=settings.rows_per_batch,
    seed=settings.seed,
  )


class CircuitStudy:
  """One model, its questions, and all that is traced.

  Attributes:
    metric: What is measured, in words and tokens; see results.json.
    examples: The model's own answers.
  """

  def __init__(
    self,
    given: StudyInputs,
    model: gj.Decoder,
    splits: Mapping[str, Sequence[Question]],
    saes: Mapping[str, JumpReLUSAE],
  ):
    """Asks the questions, to see how the model's answers begin.

    Args:
      given: What the study works on; its folder keeps what is done.
      model: The chat model.
      splits: 'validation' and 'test' -> questions.
      saes: Label -> the SAE of its latent.

    Raises:
      ValueError: refusals and answers do not begin differently.
    """
    self._given, self._model, self._saes = given, model, saes
    self._settings, self._arrays = given.settings, {}
    settings = given.settings
    everything = [*splits['validation'], *splits['test']]
    answers = generate_answers(
      model,
      everything,
      [Arm(name=ORIGINAL, kind=ORIGINAL)],
      stop_ids=given.tokenizer.stop_ids,
      max_new_tokens=settings.max_new_tokens,
      rows_per_batch=settings.rows_per_batch,
      folder=given.out / 'answers',
      identity=given.about,
      redo=True,
    )
    self.examples = make_examples(
      given.tokenizer,
      everything,
      [Arm(name=ORIGINAL, kind=ORIGINAL)],
      answers,
      Rules.of_mode(settings.mode),
    )
    refused = [each['outcome'] == REFUSAL for each in self.examples]
    self._beginnings = find_beginnings(answers[0], refused)
    logits = _first_logits(model, everything, settings.rows_per_batch)
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
    spelled = self._given.tokenizer.token_strings(tokens)
    return dict(zip(spelled, (counts[t] for t in tokens), strict=True))

  def edits(self) -> list[tuple]:
    """Returns what `trace` takes of each edit.

    Returns:
      Tuples of the edit, the class of entities that is asked about, edits of
      random latents, and how much is added, None for an ablation.
    """
    settings, made = self._settings, []
    positions = settings.positions
    for label, target in self._given.targets.items():
      if 'steer' in settings.causes:
        other = OPPOSITE[label]
        amount = self._amount(target, other)
        # All have the norm of the latent's edit, whatever that of their rows.
        controls = [
          steered(
            dataclasses.replace(target, direction=row),
            amount['added_norm'] / float(np.linalg.norm(row)),
            positions,
          )
          for row in target.controls.values()
        ]
        edit = steered(target, amount['alpha'], positions)
        made.append((edit, other, controls, amount))
      if 'ablate' in settings.causes:
        ablate = lambda id, label=label: ablated(
          label, id, self._saes[label], positions
        )
        controls = [ablate(id) for id in target.controls]
        made.append((ablate(target.id), label, controls, None))
    return made

  def _amount(self, target, entity_class: str) -> dict:
    settings, id = self._settings, target.id
    norm = stream_norms(
      self._model,
      self._asked['validation', entity_class].questions,
      id.site,
      [id.layer],
      settings.positions,
      rows_per_batch=settings.rows_per_batch,
    )[id.layer]
    alpha = getattr(settings, f'alpha_{target.label}')
    if alpha is None:
      alpha = settings.dose * norm.value / target.norm
    return {
      'alpha': alpha,
      'direction_norm': target.norm,
      'added_norm': alpha * target.norm,
      'stream_norm': norm.to_dict(),
      'dose': alpha * target.norm / norm.value,
    }

  def trace(self, edit, entity_class, controls, amount) -> dict:
    """Returns results of one edit, from its folder if they are there."""
    given, options = self._given, tracing_options(self._settings)
    choosing = self._asked['validation', entity_class]
    reporting = self._asked['test', entity_class]
    folder = given.out / 'causes' / re.sub(r'\W+', '_', edit.name).strip('_')

    def make(partial: pathlib.Path):
      results, arrays = trace(
        self._model,
        given.tokenizer,
        edit,
        choosing,
        reporting,
        options,
        controls=controls,
      )
      outputs.write_results(partial, results | {'amount': amount})
      save_tensors(partial / 'effects.safetensors', arrays)

    identity = {
      'model': given.about,
      'settings': dataclasses.asdict(options),
      'cause': _digest([edit, *controls]),
      'asked': _digest_of_questions(choosing, reporting),
    }
    stage(folder, identity, make)
    for name, x in load_file(folder / 'effects.safetensors').items():
      self._arrays[f'{edit.name}/{name}'] = x
    return outputs.read_json(folder / outputs.RESULTS_FILE)

  def polarity(self, traced: Sequence[Mapping]) -> dict:
    """Measures what the model does without evidence, and without its latents.

    Args:
      traced: What `trace` returned; heads of the circuits are cut too.
    """
    given = self._given
    ablate = lambda label, id: ablated(
      label, id, self._saes[label], 'entity_to_end'
    )
    ablations = {
      label: ablate(label, target.id) for label, target in given.targets.items()
    }
    conditions = refusal_default.conditions(
      self._model.config,
      ablations,
      {
        label: [ablate(label, id).change for id in target.controls]
        for label, target in given.targets.items()
      },
      {
        Component(c['layer'], c['head'], c['tokens'])
        for edit in traced
        for c in edit.get('components', ())
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
      rows_per_batch=self._settings.rows_per_batch,
    )
    for name, reading in readings.items():
      self._arrays[f'polarity/{name}/metric'] = reading.metric
      self._arrays[f'polarity/{name}/refused'] = reading.refused
    return refusal_default.summarise(
      self._test.questions, conditions, readings, self._settings.seed
    )

  def write_arrays(self):
    """Writes effects.safetensors."""
    save_tensors(self._given.out / 'effects.safetensors', self._arrays)


def _take(questions, pairs, at) -> Asked:
  return Asked(
    questions=[questions[i] for i in at],
    pairs=Pairs(refusal=pairs.refusal[at], answer=pairs.answer[at]),
  )


def _first_logits(model, questions, rows_per_batch) -> np.ndarray:
  """Returns the logits of each answer's first token, float32 [Q, V]."""
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


def _digest(edits: Sequence[LatentEdit]) -> str:
  """Returns what tells edits from others."""
  said = hashlib.sha256()
  for edit in edits:
    said.update(f'{edit.name} {edit.id} {edit.positions}'.encode())
    for array in jax.tree.leaves(edit.change):
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
  return of_value(said)
