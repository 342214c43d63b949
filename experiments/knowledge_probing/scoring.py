"""What the answers to a question amount to: shares, a category, entropies."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from experiments.knowledge_probing.clustering import (
  Alike,
  clusters,
  normal_alike,
)
from experiments.knowledge_probing.judging import JudgeSettings, judge
from experiments.knowledge_probing.probe_records import (
  Category,
  Question,
  Sampled,
  Score,
  Verdict,
)
from experiments.stats.intervals import wilson


def score(
  question: Question,
  sampled: Sampled,
  settings: JudgeSettings,
  others: tuple[str, ...] = (),
  *,
  alike: Alike = normal_alike,
  verdicts: Mapping[str, Verdict] | None = None,
) -> Score:
  """Judges all answers to a question and sums them up.

  Args:
    question: With its right answers.
    sampled: What was said, at least one greedy answer and one sample.
    settings: How answers are judged.
    others: Other answers of the relation, from `others_of`.
    alike: Says of two texts if they mean the same.
    verdicts: Text -> verdict of another judge, which goes before.

  Raises:
    ValueError: the answers are another question's, there are none, or their
      log-probabilities are not finite.
  """
  if sampled.id != question.id:
    raise ValueError(
      f'The answers are those to {sampled.id!r}, not to {question.id!r}.'
    )
  if not sampled.greedy or not sampled.samples:
    raise ValueError(
      f'Question {question.id!r} has {len(sampled.greedy)} greedy answers and '
      f'{len(sampled.samples)} samples, expected one of each at least. Ask it '
      'again.'
    )
  found = dict(verdicts or {})
  for said in (*sampled.greedy, *sampled.samples):
    if said.text not in found:
      found[said.text] = judge(question, said.text, settings, others)
  greedy = tuple(found[said.text] for said in sampled.greedy)
  samples = tuple(found[said.text] for said in sampled.samples)
  right, n = sum(verdict.correct for verdict in samples), len(samples)
  right_greedy = sum(verdict.correct for verdict in greedy) / len(greedy)
  interval = wilson(right, n)
  cluster = clusters([said.text for said in sampled.samples], alike)
  semantic, discrete, naive = entropies(
    [said.logprob / max(said.ntok, 1) for said in sampled.samples],
    cluster,
    question.id,
  )
  return Score(
    id=question.id,
    greedy=greedy,
    samples=samples,
    cluster=cluster,
    p_correct_greedy=right_greedy,
    p_correct=right / n,
    p_correct_interval=(interval.low, interval.high),
    semantic_entropy=semantic,
    discrete_entropy=discrete,
    naive_entropy=naive,
    n=n,
    category=categorise(right_greedy, right / n),
  )


def categorise(p_greedy: float, p_sampled: float) -> Category:
  """SliCK's category (Gekhman et al. 2024, table 1).

  Args:
    p_greedy: Share of greedy answers that are right, over prompts.
    p_sampled: Share of samples that are.
  """
  if p_greedy == 1:
    return 'HighlyKnown'
  if p_greedy > 0:
    return 'MaybeKnown'
  return 'WeaklyKnown' if p_sampled > 0 else 'Unknown'


def entropies(
  mean_logprobs: Sequence[float],
  cluster: Sequence[int],
  name: str = '',
) -> tuple[float, float, float]:
  """Semantic, discrete semantic and naive entropy of samples, in nats.

  With l_i the mean log-probability of sample i's tokens, cluster c has
  p(c) = sum of exp(l_i) in c / sum of all exp(l_i), and the semantic entropy is
  -sum p(c) log p(c), the Rao-Blackwellised form of the code of Farquhar et al.
  2024. The discrete one has n_c / n for p(c); the naive one is -mean l_i.

  Args:
    mean_logprobs: [n], l_i.
    cluster: [n], number of each sample's cluster.
    name: Whose they are, for the error.

  Raises:
    ValueError: there are none, or a log-probability is not finite.
  """
  values = np.asarray(mean_logprobs, float)
  if not values.size or not np.isfinite(values).all():
    raise ValueError(
      f'The mean log-probabilities{name and f" of {name!r}"} are '
      f'{values.tolist()}, expected finite numbers, at least one. Sample '
      'again; NaN comes from weights or activations that overflow.'
    )
  weights = np.bincount(cluster, weights=np.exp(values - values.max()))
  counts = np.bincount(cluster)
  return (
    float(special.entr(weights / weights.sum()).sum()),
    float(special.entr(counts / counts.sum()).sum()),
    float(-values.mean()),
  )


def upper_bound(n: int) -> float:
  """Upper 95 % bound of a share of which n samples show nothing.

  What n samples cannot tell from 0: (1 - p)^n = .05, so 17 % for 16 samples.

  Raises:
    ValueError: there is no sample.
  """
  if n < 1:
    raise ValueError(f'n is {n}, expected at least one sample.')
  return 1 - 0.05 ** (1 / n)
