"""All signals of a probe, fitted on train and judged on test questions."""

from collections.abc import Callable

import numpy as np
from scipy import stats

from experiments import inputs
from experiments.inputs.sae_fit import check_fit
from experiments.knowledge_probing import knowledge_signals as lib
from experiments.knowledge_probing.candidate_ranking import rank_candidates
from experiments.knowledge_probing.opening import Study
from experiments.knowledge_probing.p_true import p_true
from experiments.knowledge_probing.probed import Probed
from experiments.knowledge_probing.readers import entity_probe, p_ik, text_only
from experiments.knowledge_probing.rules import is_right
from experiments.knowledge_probing.streams import hidden_states
from experiments.latents import LatentId

# Layers that probes read, spread evenly over the model.
_LAYERS = 6


def detectors(study: Study, probed: Probed) -> tuple[list[dict], list[str]]:
  """Returns the table of `signal_table`, and why a signal is not in it."""
  asked = probed.asked
  splits = np.array([probed.splits[q.id] for q in asked])
  train, validation, test = (
    splits == name for name in ('train', 'validation', 'test')
  )
  sampled = [probed.sampled[q.id] for q in asked]
  scores = [probed.scores[q.id] for q in asked]
  right = np.array([is_right(score) for score in scores])
  p_correct = np.array([score.p_correct for score in scores])
  for name, mask in (('validation', validation), ('test', test)):
    if len(set(right[mask])) < 2:
      return [], [
        f'No signal is judged: of {mask.sum()} {name} questions, '
        f'{(right & mask).sum()} are answered right; both right and wrong '
        'answers are needed.'
      ]
  found, left_out = lib.answer_signals(sampled, scores), []

  def attempt(name: str, make: Callable[[], lib.Signal | list[lib.Signal]]):
    try:
      made = make()
    except ValueError as error:
      left_out.append(f'Left out: {name}. {error}')
      return
    found.extend(made if isinstance(made, list) else [made])

  attempt(
    'question alone',
    lambda: text_only(
      [q.question for q in asked], p_correct, train, validation
    ),
  )
  named = inputs.saes_by_layer(
    study.settings.sae, study.settings.model, study.reader.config
  )
  saes = {layer: each.load(study.reader) for layer, each in named.items()}
  check_fit(
    study.model,
    study.format.tokenizer,
    list(saes.values()),
    [q.question for q in asked],
    str(study.reader.folder),
  )
  spread = np.linspace(0, study.reader.config.num_layers - 1, _LAYERS).round()
  layers = sorted({*spread.astype(int).tolist(), *saes})
  with_entity = all(q.entity and q.entity in q.question for q in asked)
  places = ('entity', 'last') if with_entity else ('last',)
  states = hidden_states(study.model, study.format, asked, layers, places)
  by_layer = {
    place: dict(zip(layers, each, strict=True))
    for place, each in states.items()
  }
  attempt('P(IK)', lambda: p_ik(by_layer['last'], p_correct, train, validation))
  if with_entity:
    attempt(
      'entity probe',
      lambda: entity_probe(
        by_layer['entity'],
        p_correct,
        asked,
        train,
        validation,
        test,
        study.settings.seed,
      )[0],
    )
    if saes:
      attempt(
        'SAE latents',
        lambda: latents(saes, by_layer['entity'], right, train),
      )
  if study.settings.p_true:
    attempt(
      'P(True)',
      lambda: lib.p_true_signal(
        p_true(study.model, study.format, asked, sampled)[:, 0]
      ),
    )
  if study.settings.rank:
    attempt('ranked answers', lambda: _ranked(study, probed, asked))
  table = lib.signal_table(
    found,
    right,
    [q.cluster for q in asked],
    test,
    validation=validation,
    seed=study.settings.seed,
  )
  return table, left_out


def _ranked(study: Study, probed: Probed, asked) -> lib.Signal:
  """Returns the probability of the right answer among all of its relation."""
  candidates = {}  # in order, each once
  for q in probed.questions:
    candidates.setdefault(q.relation, {})[q.answers[0]] = None
  ranked = rank_candidates(
    study.model,
    study.format,
    asked,
    {relation: list(names) for relation, names in candidates.items()},
  )
  p = np.array([each.p_right for each in ranked])
  return lib.Signal(
    name='probability of the right answer among candidates',
    kind=lib.ANSWERS,
    scores=p,
    probabilities=p,
    about={
      'knows_the_answer': True,
      'likeliest_is_right': float(np.mean([each.correct for each in ranked])),
    },
  )


def latents(saes, streams, right, train) -> list[lib.Signal]:
  """Finds the latents that tell right from wrong best on train.

  Args:
    saes: Layer -> SAE.
    streams: Layer -> float [n, D] at the entity's last token.
    right: bool [n].
    train: bool [n], on which latents are chosen.

  Returns:
    One signal of a latent that fires where answers are right, and one of a
    latent that fires where they are wrong.
  """
  best = {}
  m, n = right[train].sum(), (~right[train]).sum()
  for layer, sae in saes.items():
    activations = np.asarray(sae.encode(streams[layer]), np.float64)
    ranks = stats.rankdata(activations[train], axis=0)[right[train]]
    areas = (ranks.sum(0) - m * (m + 1) / 2) / (m * n)  # Mann-Whitney's U
    for label, found in (('known', areas), ('unknown', 1 - areas)):
      latent = int(found.argmax())
      if label not in best or found[latent] > best[label][0]:
        best[label] = found[latent], layer, latent, activations[:, latent]
  return [
    lib.latent_signal(
      f'{label} latent {LatentId("resid_post", layer, latent)}',
      x,
      label,
      {'layer': layer, 'latent': latent, 'train_auroc': float(area)},
    )
    for label, (area, layer, latent, x) in best.items()
  ]
