"""Divergences of all arms at once against PyTorch, one arm at a time."""

import dataclasses

import numpy as np
import pytest
import torch

from experiments.steering import arm_batches
from experiments.steering.arms import Arm, steered_positions
from experiments.steering.divergence import (
  measure_divergences,
  text_questions,
)
import gemma_jax as gj
from tests import tiny
from tests.experiments.steering import planted
from tests.experiments.steering.test_generation import (
  ARMS,
  LAYERS,
  NEW,
  QUESTIONS,
  answer,
  steering_hook,
)

OUT = Arm(
  name='taken out',
  kind='weight ablation',
  direction=np.random.default_rng(8).standard_normal(40).astype(np.float32),
  weights='exact',
)


@pytest.fixture(scope='module')
def model():
  return tiny.pair(**LAYERS)[1]


@pytest.fixture(scope='module')
def originals(model):
  """Ragged: 5, 2 and 1 tokens, the second ending with its stop token."""
  found = answer(model, QUESTIONS, ARMS[:1])[0]
  return [found[0], found[1], found[2][:1]]


def measure(model, originals, arms=ARMS, questions=QUESTIONS, **changes):
  options = {'stop_ids': (originals[1][1],), 'rows_per_batch': 7} | changes
  return measure_divergences(model, questions, arms, originals, **options)


@pytest.fixture(scope='module')
def together(model, originals):
  return measure(model, originals, [*ARMS, OUT])


def log_probabilities(hf, arm, question, answer):
  """[n, V] in float64, from one whole forward pass with a hook."""
  ids = [*question.ids, *answer]
  handles = steering_hook(hf, arm, question)
  with torch.no_grad():
    logits = hf(torch.tensor([ids]), use_cache=False).logits[0].double()
  for handle in handles:
    handle.remove()
  at = slice(question.length - 1, question.length - 1 + len(answer))
  return torch.log_softmax(logits[at], -1)


def test_equals_torch_with_a_hook(together, originals):
  """Sites, layers, modes, and steered generation, ragged answers."""
  hf, _ = tiny.pair(**LAYERS)
  stop = originals[1][1]
  for q, question in enumerate(QUESTIONS):
    answer = originals[q]
    if stop in answer:
      answer = answer[: answer.index(stop) + 1]
    p = log_probabilities(hf, ARMS[0], question, answer)
    for a, one in enumerate(ARMS):
      kl = torch.nn.functional.kl_div(
        log_probabilities(hf, one, question, answer),
        p,
        reduction='none',
        log_target=True,
      ).sum(-1)
      assert together[a, q, 0] == pytest.approx(float(kl.mean()), abs=2e-5)
      assert together[a, q, 1] == pytest.approx(float(kl[0]), abs=2e-5)
      want = float(kl[1:].mean()) if len(answer) > 1 else np.nan
      assert together[a, q, 2] == pytest.approx(want, abs=2e-5, nan_ok=True)
  assert (together[0, :, :2] == 0).all() and (together[1:, :, :2] > 1e-5).all()
  assert np.isnan(together[:, :, 3]).all(), 'no token begins refusals'
  assert len(originals[0]) == NEW > originals[1].index(stop) + 1


def test_a_direction_out_of_the_weights(model, together, originals):
  """As the edited model gives it, run by itself."""
  edited, everywhere = arm_batches.ablate_weights(model, OUT.direction, 'exact')
  question, answer = QUESTIONS[0], originals[0]
  ids = [[*question.ids, *answer]]
  p, q = (
    torch.log_softmax(torch.tensor(np.asarray(out.logits[0])).double(), -1)
    for out in (
      gj.run(model, ids, logits_at='all'),
      gj.run(edited, ids, logits_at='all', interventions=everywhere),
    )
  )
  kl = (p.exp() * (p - q)).sum(-1)[question.length - 1]
  assert together[-1, 0, 1] == pytest.approx(float(kl), abs=2e-5)


def test_does_not_depend_on_what_runs_beside_it(model, together, originals):
  alone = measure(
    model, originals[:1] + originals[1:2], ARMS[3:4], QUESTIONS[:2]
  )
  np.testing.assert_allclose(alone, together[3:4, :2], atol=1e-5)


def test_kept_chunks(model, together, originals, tmp_path):
  kept = {'folder': tmp_path / 'kl', 'identity': {'model': 'tiny'}}
  arms = [*ARMS, OUT]
  first = measure(model, originals, arms, **kept)
  files = sorted((tmp_path / 'kl').glob('0*.json'))
  assert len(files) == 4  # 18 rows of 7, and 3 of other weights
  np.testing.assert_array_equal(first, together)
  times = {file: file.stat().st_mtime_ns for file in files}
  files[1].unlink()  # as if killed there
  np.testing.assert_array_equal(measure(model, originals, arms, **kept), first)
  changed = [f for f in files if f.stat().st_mtime_ns != times[f]]
  assert changed == files[1:2]

  other = [dataclasses.replace(one, coefficient=7.0) for one in ARMS[:2]]
  with pytest.raises(ValueError, match='another run.*arms'):
    measure(model, originals, other, **kept)
  assert files[0].is_file()
  again = measure(model, originals, other, redo=True, **kept)
  assert not (again[1, :, 0] == first[1, :, 0]).all()
  assert len(list((tmp_path / 'kl').glob('0*.json'))) == 1


def test_probability_of_refusal_is_torchs(model, originals):
  """The log of the probability of some first tokens, arm by arm."""
  hf, _ = tiny.pair(**LAYERS)
  ids = [3, 17]
  found = measure(model, originals, refusal_ids=ids)
  for q, question in enumerate(QUESTIONS):
    for a, one in enumerate(ARMS):
      logp = log_probabilities(hf, one, question, originals[q])
      want = float(torch.logsumexp(logp[0, ids], -1))
      assert found[a, q, 3] == pytest.approx(want, abs=2e-5)


def test_text_is_cut_in_halves_and_steered_at_the_end_of_the_first():
  tokenizer = planted.tokenizer()
  text = 'the player Kim0 Lee0 the city Old1 Town1 the player Jon2 Doe2'
  pieces, following = text_questions(
    tokenizer, [text] * 5, QUESTIONS, ARMS, window=12, count=3
  )
  assert len(pieces) == len(following) == 3
  for piece, more in zip(pieces, following, strict=True):
    assert piece.length == 6 and len(more) == 6
    assert piece.ids[0] == tokenizer.bos_id
    first, stop = steered_positions('entity_last_to_end', piece)
    assert 0 < first < stop == piece.length
  # Documents follow each other, with the end of text between them.
  said = [
    i for p, m in zip(pieces, following, strict=True) for i in (*p.ids[1:], *m)
  ]
  whole = [*tokenizer.encode(text, bos=False), tokenizer.eos_id] * 5
  assert said == whole[: len(said)]
  assert text_questions(tokenizer, ['the'], QUESTIONS, ARMS) == ([], [])
