"""What is true of a subject, as tokens, and how much of it a stream holds.

A stream is multiplied with the *input* embedding, without a norm, and the K
tokens with the largest products are taken, K being the number of the subject's
attribute tokens. The attributes rate is the share of these that are among them.
Of the published measure, which counts words of Wikipedia paragraphs, this is
the version whose truth is known: MiniWorld has all attributes of an entity. The
same for another subject's attributes says what the kind of subject gives away.
(Section 2.1 of the recall specification.)
"""

from collections.abc import Sequence
import contextlib
import dataclasses

import numpy as np

from experiments.factual_recall.task_prompts import Prompts, _pieces
from experiments.factual_recall.vocabulary_ranks import ranks
from experiments.stats.resampling import cluster_bootstrap_means
import gemma_jax as gj

OWN, CONTROL, DIFFERENCE = 'own', 'control', 'difference'


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Attributes:
  """Attribute tokens of n prompts' subjects, and of others.

  Attributes:
    own: int [n, k], -1 fills up.
    control: int [n, c], those of another subject that are not its own; -1
      fills up.
  """

  own: np.ndarray
  control: np.ndarray

  @classmethod
  def of(
    cls, prompts: Prompts, tokens: Sequence[Sequence[int]], seed: int
  ) -> 'Attributes':
    """Returns them with every subject's control drawn.

    A random cycle through all subjects gives each the attributes of the next,
    so that each serves once and none itself.

    Raises:
      ValueError: there is not one list per prompt.
    """
    if len(tokens) != len(prompts):
      raise ValueError(
        f'There are {len(tokens)} lists of attribute tokens for {len(prompts)} '
        'prompts; give one for each.'
      )
    subjects, first = np.unique(prompts.subjects, return_index=True)
    cycle = np.random.default_rng(seed).permutation(len(subjects))
    other = dict(zip(cycle.tolist(), np.roll(cycle, -1).tolist(), strict=True))
    own = [list(dict.fromkeys(each)) for each in tokens]
    control = []
    for row, subject in enumerate(prompts.subjects):
      of_other = own[first[other[int(np.searchsorted(subjects, subject))]]]
      control.append([each for each in of_other if each not in own[row]])
    return cls(own=_filled(own), control=_filled(control))

  @property
  def size(self) -> np.ndarray:
    """int [n], K: how many tokens each subject has of its own."""
    return (self.own >= 0).sum(1)

  def rates(
    self,
    model: gj.Decoder,
    streams: np.ndarray,
    rows: np.ndarray,
    tops: Sequence[int | None] = (None,),
  ) -> np.ndarray:
    """Returns attributes rates float64 [..., len(tops), 2], own and control.

    Args:
      model: The model, whose embedding is used.
      streams: [..., D].
      rows: int [...], the prompt that each is of.
      tops: How many tokens count as near; None is K, the subject's own number.

    Returns:
      NaN where the subject, or its control, has no token.
    """
    of = rows.reshape(-1)
    tokens = np.concatenate([self.own, self.control], axis=1)[of]
    size, k = self.size[of], self.own.shape[1]
    near = [size if top is None else np.full(len(of), top) for top in tops]
    near = np.stack(near, axis=1)  # [m, tops]
    found = ranks(
      model.embed[...],
      streams.reshape(len(of), -1),
      tokens,
      limit=int(near.max(initial=1)),
    )
    there = tokens >= 0
    hit = (found[:, None] < near[:, :, None]) & there[:, None]
    pairs = [
      _share(hit[..., part], there[:, None, part] & (size > 0)[:, None, None])
      for part in (slice(k), slice(k, None))
    ]
    return np.stack(pairs, axis=-1).reshape(*rows.shape, len(tops), 2)


def attribute_tokens(
  tokenizer: gj.Tokenizer, prompts: Prompts
) -> list[list[int]]:
  """Returns what is true of each prompt's subject, as first tokens.

  These are the task's answer and attributes, each token once. Values that the
  vocabulary cannot spell are left out.
  """
  found = []
  for i in prompts.subjects:
    fact = prompts.task.facts[i]
    first = []
    for value in (fact.answer, *fact.attributes):
      with contextlib.suppress(ValueError):
        first.append(_pieces(tokenizer, prompts.task, value)[0])
    found.append(list(dict.fromkeys(first)))
  return found


def estimate_rates(rates: np.ndarray, units: Sequence[str], seed: int) -> dict:
  """Returns own, control and their difference, [m] estimates each.

  Args:
    rates: [m, n, 2], own and control; prompts without a number are left out.
    units: Units of n prompts.
    seed: Random seed of the resamples.
  """
  own, control = np.moveaxis(rates, -1, 0)
  columns = {OWN: own, CONTROL: control, DIFFERENCE: own - control}
  found = {}
  for name, values in columns.items():
    rows = np.flatnonzero(np.isfinite(values).all(0))
    of = [units[row] for row in rows]
    means = cluster_bootstrap_means(values[:, rows].T, of, seed) if of else []
    found[name] = [each.to_dict() for each in means]
  return found


def _share(hit, there) -> np.ndarray:
  """float64 [m, t]: of those that are there, how many hit; NaN of none."""
  count = np.broadcast_to(there.sum(-1), hit.shape[:-1])
  share = np.full(count.shape, np.nan)
  return np.divide(hit.sum(-1), count, out=share, where=count > 0)


def _filled(lists) -> np.ndarray:
  """int [n, k] of n lists, -1 filling up."""
  longest = max(1, *map(len, lists)) if lists else 1
  return np.array([[*e, *[-1] * (longest - len(e))] for e in lists], np.int32)
