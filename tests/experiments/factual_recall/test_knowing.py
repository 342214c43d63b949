"""Known against unknown: planted differences are found, and no others."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from experiments.factual_recall import knowing
from experiments.factual_recall.tasks import Fact
from tests.experiments.factual_recall import random_prompts

U, TEMPLATES = 40, 3


def prompts_of(known=None):
  """Prompts of U subjects; `known` is what the task says of them."""
  prompts = random_prompts.make(subjects=U, templates=TEMPLATES)
  if known is None:
    return prompts
  facts = tuple(
    Fact(subject=f.subject, answer=f.answer, known=bool(k))
    for f, k in zip(prompts.task.facts, known, strict=True)
  )
  task = dataclasses.replace(prompts.task, facts=facts)
  return dataclasses.replace(prompts, task=task)


KNOWN = np.arange(U) % 2 == 0


def test_the_truth_decides_where_there_is_one():
  prompts = prompts_of(KNOWN)
  found = knowing.classes(prompts, np.zeros(len(prompts), bool))
  assert found.by == 'truth' and (found.known == KNOWN).all()


def test_else_most_answers_do():
  prompts = prompts_of()
  says = np.zeros((U, TEMPLATES), bool)
  says[:9, :2] = True  # two of three
  says[9:20, 0] = True  # one of three
  found = knowing.classes(prompts, says.reshape(-1))
  assert found.by == 'answers' and found.known.sum() == 9 and found.enough
  few = knowing.classes(prompts, np.zeros(len(prompts), bool))
  assert not few.enough


def streams_with(direction, strength, seed=0, layer=1):
  rng = np.random.default_rng(seed)
  streams = rng.standard_normal((3, U * TEMPLATES, 16))
  of_prompt = np.repeat(KNOWN, TEMPLATES)
  streams[layer] += strength * of_prompt[:, None] * direction
  return streams.astype(np.float32)


def test_a_planted_direction_is_found_on_other_subjects():
  direction = np.eye(16)[3]
  prompts = prompts_of(KNOWN)
  sorts = knowing.classes(prompts, np.zeros(len(prompts), bool))
  scores, chosen = knowing.detectors(
    streams_with(direction, 6), prompts, sorts, {}, seed=0
  )
  area = metrics.roc_auc_score(KNOWN, scores['difference of means'])
  assert area > 0.95
  assert chosen['difference of means'] == 'resid_post 1 and resid_post 1'


def test_noise_is_no_detector():
  """A score never saw the half that it scores: on noise it is chance."""
  prompts = prompts_of(KNOWN)
  sorts = knowing.classes(prompts, np.zeros(len(prompts), bool))
  areas = []
  for seed in range(30):
    scores, _ = knowing.detectors(
      streams_with(0, 0, seed), prompts, sorts, {}, seed
    )
    areas.append(metrics.roc_auc_score(KNOWN, scores['difference of means']))
  assert abs(np.mean(areas) - 0.5) < 4 * np.std(areas) / np.sqrt(30)


def test_latents_are_chosen_by_sign():
  """Latent 5 of layer 1 fires on known subjects, latent 7 on unknown ones."""
  prompts = prompts_of(KNOWN)
  sorts = knowing.classes(prompts, np.zeros(len(prompts), bool))
  streams = streams_with(np.eye(16)[5] - np.eye(16)[7], 8)

  class Identity:
    def encode(self, x):
      return x

  scores, chosen = knowing.detectors(
    streams, prompts, sorts, {1: Identity()}, seed=0
  )
  assert chosen['SAE latent, known'] == 'latent 1/5 and latent 1/5'
  assert chosen['SAE latent, unknown'] == 'latent 1/7 and latent 1/7'
  for name in ('SAE latent, known', 'SAE latent, unknown'):
    assert metrics.roc_auc_score(KNOWN, scores[name]) > 0.9


def test_comparison_is_sklearns_and_scipys():
  prompts = prompts_of(KNOWN)
  sorts = knowing.classes(prompts, np.zeros(len(prompts), bool))
  rng = np.random.default_rng(1)
  signal = rng.standard_normal(len(prompts)) + np.repeat(KNOWN, TEMPLATES)
  score = rng.standard_normal(U) + KNOWN
  found = knowing.compare(
    {'signal': signal}, {'score': score}, prompts, sorts, seed=0
  )
  by_subject = signal.reshape(U, TEMPLATES).mean(1)
  area = metrics.roc_auc_score(KNOWN, by_subject)
  assert found['signals'][0]['auroc']['value'] == pytest.approx(area)
  rho = stats.spearmanr(score, by_subject).statistic
  estimate = found['predicted'][0]['spearman']
  assert estimate['value'] == pytest.approx(rho)
  assert estimate['low'] < rho < estimate['high']
  assert (found['known'], found['unknown']) == (20, 20)
