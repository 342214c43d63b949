"""Self-report of a model whose replies are planted, against single runs."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from experiments.self_report import (
  Replies,
  Wording,
  ask_about,
  ask_per_relation,
  figures,
  measure,
  self_report_arms,
  summarise,
)
from experiments.self_report.summary import expected, mean, sentences
from experiments.stats.intervals import Estimate, cluster_bootstrap_mean
from experiments.steering import make_questions, steered_positions
import gemma_jax as gj
from tests.experiments.steering import planted

WORDING = Wording(
  question='Where was born the {type} {name}?',
  prefix='',
  yes='Paris',
  no='sorry',
)
NORM = Estimate(value=5.0, low=5.0, high=5.0, n=1)
ALPHAS = {'known': 10.0, 'unknown': 12.0}  # rows of norm 0.5


def ask(maker=ask_about, **options):
  return maker(
    planted.tokenizer(),
    planted.entities(planted.KNOWN),
    planted.entities(planted.UNKNOWN),
    WORDING,
    **options,
  )


def make_arms(**options):
  targets = {label: planted.target(label) for label in ('known', 'unknown')}
  options = {
    'positions': 'entity_last_to_end',
    'num_random': 2,
    'sweep': (2.0,),
  } | options
  norms = dict.fromkeys(targets, NORM)
  return self_report_arms(targets, ALPHAS, norms, **options)


def as_written(results, metric='logit'):
  """Results as the binary writes them."""
  wording = dataclasses.asdict(WORDING)
  return results | {'wording': wording, 'metric': metric}


@pytest.fixture(scope='module')
def study(tmp_path_factory):
  """(questions, arms, replies, the folder that keeps them)."""
  questions, arms = ask(), make_arms()
  folder = tmp_path_factory.mktemp('replies')
  token_ids = WORDING.token_ids(planted.tokenizer())
  replies = measure(
    planted.model(),
    questions,
    arms,
    token_ids,
    rows_per_batch=32,
    folder=folder,
    identity={'model': 'planted'},
  )
  return questions, arms, replies, folder


@pytest.fixture(scope='module')
def results(study):
  questions, arms, replies, _ = study
  return summarise(questions, arms, replies)


def test_every_entity_once():
  questions = ask()
  named = [(q.entity_class, q.type, q.entity) for q in questions]
  assert len(named) == len(set(named)) == 22
  few = ask(per_class=2, seed=3)
  assert len(few) == 8
  assert {q.entity for q in few} < {q.entity for q in questions}
  with pytest.raises(ValueError, match='no unknown'):
    ask_about(planted.tokenizer(), planted.entities(planted.KNOWN), {}, WORDING)


def test_published_questions_repeat():
  """Once per relation drawn, in the order of the refusal experiment."""
  asked = make_questions(
    planted.tokenizer(),
    planted.entities(planted.KNOWN),
    planted.entities(planted.UNKNOWN),
  )
  got = ask(ask_per_relation)
  assert [(q.type, q.entity) for q in got] == [
    (q.type, q.entity) for q in asked
  ]


def test_replies_are_those_of_single_runs(study):
  questions, arms, replies, _ = study
  model, ids = planted.model(), WORDING.token_ids(planted.tokenizer())
  rng = np.random.default_rng(0)
  pairs = [
    (int(rng.integers(len(arms))), int(rng.integers(22))) for _ in range(6)
  ]
  for a, q in [(0, 0), (1, 15), *pairs]:
    arm, question = arms[a], questions[q]
    edits = []
    if arm.steers:
      edit = gj.steer(
        arm.site,
        arm.direction,
        layers=arm.layer,
        coefficient=arm.coefficient,
        positions=range(*steered_positions(arm.positions, question)),
      )
      edits = [edit]
    padded = gj.pad_rows([question.ids], 0)
    logits = gj.run(
      model,
      *padded,
      interventions=edits,
      logits_at=question.length - 1,
    ).logits[0, 0]
    logits = np.asarray(logits, np.float64)
    assert replies.logits[a, q] == pytest.approx(logits[list(ids)], abs=1e-5)
    p = np.exp(logits) / np.exp(logits).sum()
    assert replies.probabilities[a, q] == pytest.approx(p[list(ids)], abs=1e-6)
    # The metric is the difference of log-probabilities, too.
    assert replies.metric('logit')[a, q] == pytest.approx(
      np.log(p[ids[0]]) - np.log(p[ids[1]]), abs=1e-4
    )
    assert replies.metric('prob')[a, q] == pytest.approx(
      p[ids[0]] - p[ids[1]], abs=1e-6
    )


def test_kept_replies_are_found_again(study):
  questions, arms, replies, folder = study
  again = lambda **changes: measure(
    **{
      'model': None,  # nothing is run
      'questions': questions,
      'arms': arms,
      'token_ids': WORDING.token_ids(planted.tokenizer()),
      'rows_per_batch': 32,
      'folder': folder,
      'identity': {'model': 'planted'},
    }
    | changes
  )
  assert (again().logits == replies.logits).all()
  for changes in ({'token_ids': (3, 4)}, {'questions': questions[1:]}):
    with pytest.raises(ValueError, match='another run'):
      again(**changes)


def test_what_is_planted_is_found(results):
  assert results['knows']['logit']['all']['value'] == 1.0
  assert results['says_yes']['known']['all']['value'] == 1.0
  assert results['says_yes']['unknown']['all']['value'] == 0.0
  arms = {arm['name']: arm for arm in results['arms']}
  effect = lambda arm, name: arms[arm]['classes'][name]['all']['logit'][
    'effect'
  ]
  assert effect('+ unknown', 'known')['high'] < 0
  assert effect('+ known', 'unknown')['low'] > 0
  assert effect('- unknown', 'unknown')['low'] > 0
  for entry in results['controls']:
    other = 'unknown' if entry['target'] == 'known' else 'known'
    found = entry['classes'][other]['all']['logit']
    assert entry['expected'] == expected(entry['target'])
    assert found['rank'] == 1 and found['p'] == 1 / (1 + found['arms'])
    assert np.sign(found['excess']['value']) == entry['expected']


def test_numbers_are_scipys(study, results):
  questions, _, replies, _ = study
  at = [
    i
    for i, q in enumerate(questions)
    if (q.entity_class, q.type) == ('known', 'city')
  ]
  for number, arm in enumerate(results['arms']):
    for metric in ('logit', 'prob'):
      values = replies.metric(metric)[:, at]
      cell = arm['classes']['known']['city'][metric]
      assert cell['mean']['value'] == pytest.approx(values[number].mean())
      assert cell['mean']['n'] == len(at) == 5
      assert cell['sd'] == pytest.approx(values[number].std(ddof=1))
      if number and np.ptp(values[number] - values[0]) > 0:
        test = stats.ttest_rel(values[number], values[0])
        assert cell['effect']['p'] == pytest.approx(test.pvalue)
        bounds = test.confidence_interval()
        assert cell['effect']['low'] == pytest.approx(bounds.low)
        assert cell['effect']['high'] == pytest.approx(bounds.high)
  known = np.array([q.entity_class == 'known' for q in questions])
  assert results['knows']['prob']['all']['value'] == pytest.approx(
    metrics.roc_auc_score(known, replies.metric('prob')[0])
  )
  mass = replies.probabilities[0].sum(-1)
  assert results['mass']['known']['value'] == pytest.approx(mass[known].mean())


def test_questions_that_come_again_say_no_more(study, results):
  """Thrice all of them: every interval, p and q as of once."""
  questions, arms, replies, _ = study
  thrice = summarise(
    list(questions) * 3,
    arms,
    Replies(
      logits=np.tile(replies.logits, (1, 3, 1)),
      log_sum=np.tile(replies.log_sum, (1, 3)),
    ),
  )
  assert thrice['asked']['known']['all'] == 3 * results['asked']['known']['all']
  assert thrice['entities'] == results['entities'] == results['asked']

  def numbers(found):
    """All values, bounds, p and q below."""
    for key, one in found.items() if isinstance(found, dict) else ():
      if key in ('value', 'low', 'high', 'p', 'q'):
        yield one
      else:
        yield from numbers(one)

  for part in ('mass', 'says_yes'):
    assert list(numbers(thrice[part])) == pytest.approx(
      list(numbers(results[part]))
    )
  for part in ('arms', 'controls'):
    for mine, once in zip(thrice[part], results[part], strict=True):
      assert list(numbers(mine['classes'])) == pytest.approx(
        list(numbers(once['classes'])), abs=1e-9
      )
  said = '\n'.join(sentences(as_written(thrice)))
  assert 'about 11 of them' in said


def test_area_of_questions_that_come_again():
  """Its interval is as wide as that of questions that come once."""
  questions = ask()
  logits = np.random.default_rng(4).standard_normal((1, len(questions), 2))
  logits[0, :11, 0] += 1

  def width(times):
    found = summarise(
      questions * times,
      make_arms()[:1],
      Replies(
        logits=np.tile(logits, (1, times, 1)),
        log_sum=np.full((1, times * len(questions)), 5.0),
      ),
    )['knows']['logit']['all']
    return found['high'] - found['low']

  assert width(4) == pytest.approx(width(1), rel=0.2)


def test_noise_has_no_effect():
  """Of replies without any effect, few tests say there is one."""
  questions, arms = ask(), make_arms(num_random=10)
  rng = np.random.default_rng(0)
  found = []
  for _ in range(15):
    logits = rng.standard_normal((len(arms), len(questions), 2))
    made = summarise(
      questions,
      arms,
      Replies(logits=logits, log_sum=np.full(logits.shape[:2], 5.0)),
    )
    for entry in made['controls']:
      found.append(entry['classes']['known']['all']['logit']['p'])
    adjusted = [
      cell['logit']['effect']['q']
      for arm in made['arms']
      for scopes in arm['classes'].values()
      for scope, cell in scopes.items()
      if scope != 'all' and 'q' in cell['logit'].get('effect', {})
    ]
    assert len(adjusted) == 6 * 4  # of two latents: +, -, mean; 2 x 2 cells
    found.append(min(adjusted))
  # 75 p-values; under the null about 4 are below .05.
  assert len(found) == 75 and sum(p < 0.05 for p in found) <= 9


def test_mean_of_clusters():
  """The error is that of a regression with clustered errors, and resampled."""
  rng = np.random.default_rng(1)
  clusters = np.sort(rng.integers(0, 60, 200))
  values = rng.standard_normal(60)[clusters] + rng.standard_normal(200)
  found, _ = mean(values, clusters)
  meat = sum(
    (values - values.mean())[clusters == name].sum() ** 2
    for name in set(clusters)
  )
  count = len(set(clusters))
  error = math.sqrt(meat * count / (count - 1)) / 200
  reach = stats.t.ppf(0.975, count - 1) * error
  assert found.high - found.value == pytest.approx(reach)
  drawn = cluster_bootstrap_mean(values, clusters)
  assert found.low == pytest.approx(drawn.low, abs=0.05)
  assert found.high == pytest.approx(drawn.high, abs=0.05)


def test_mean():
  one, p = mean(np.array([3.0]))
  assert one.value == 3 and math.isnan(one.low) and math.isnan(p)
  same, p = mean(np.array([2.0, 2.0]))
  assert (same.low, same.high, p) == (2, 2, 0)


def test_published_arms():
  """One random latent, of the unknown latent's layer, for both."""
  arms = make_arms(mode='reference')
  assert [arm.kind for arm in arms] == [
    'original',
    *['steered'] * 2,
    *['random latent'] * 2,
  ]
  first = next(iter(planted.target('unknown').controls.values()))
  for arm in arms[3:]:
    assert (arm.direction == first).all()
    # The control has norm 1, the latents 0.5.
    assert arm.coefficient == ALPHAS[arm.target]
    assert arm.dose == pytest.approx(ALPHAS[arm.target] / NORM.value)
  assert len({arm.name for arm in arms}) == 5


def test_words_and_figures(study, results):
  questions, arms, replies, _ = study
  # Where the two words are all that the model would say.
  all_of_it = Replies(
    logits=replies.logits,
    log_sum=np.logaddexp(*np.moveaxis(replies.logits, -1, 0)),
  )
  sure = summarise(questions, arms, all_of_it)
  said = '\n'.join(sentences(as_written(sure | {'ordinary': sure})))
  assert said.count('AUROC 1.000') == 2 and 'ordinary question' in said
  assert 'AUROC 1.000' in said and 'expected down' in said
  assert 'are not reported' not in said
  small = Replies(logits=replies.logits - 20, log_sum=replies.log_sum)
  said = sentences(as_written(summarise(questions, arms, small), 'prob'))
  assert 'is no self-report' in said[-1] and 'expected' not in said[-1]
  values = {name: replies.metric(name) for name in ('logit', 'prob')}
  examples = [
    {
      'entity': '<b>x</b>',
      'type': q.type,
      'class': q.entity_class,
      'question': q.text,
      'arms': {
        arm.name: {name: float(v[a, i]) for name, v in values.items()}
        for a, arm in enumerate(arms)
      },
    }
    for i, q in enumerate(questions)
  ]
  sections = figures.sections(
    as_written(json.loads(json.dumps(results))), examples
  )
  assert len(sections) == 4
  drawn = [figure for section in sections for figure in section.figures]
  assert len(drawn) == 3
  assert all('<b>' not in figure.to_json() for figure in drawn)
  # Every question is a faint dot of the original, and every type a mean.
  conditions, *_ = drawn
  original = [trace for trace in conditions.data if trace.name == 'original']
  faint = [trace for trace in original if trace.opacity < 1]
  assert sum(len(trace.x) for trace in faint) == len(questions)
  assert sum(len(trace.x) for trace in original) == len(questions) + 2 * 2
