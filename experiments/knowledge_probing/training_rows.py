"""From a probe to training rows: one rule's decisions, balanced, as texts."""

from collections.abc import Mapping

from experiments.knowledge_probing.balance import balance
from experiments.knowledge_probing.decision_rows import Row, make_rows
from experiments.knowledge_probing.probe_records import Decision
from experiments.knowledge_probing.probed import Probed


def training_rows(
  probed: Probed,
  rule: str,
  *,
  decisions: Mapping[str, Decision] | None = None,
  split: str = 'train',
  text: str | None = None,
  written: Mapping[str, str] | None = None,
  max_refusal_share: float = 0.5,
  seed: int = 0,
) -> list[Row]:
  """Makes the rows that a rule gives of one split.

  Args:
    probed: A probe.
    rule: One of RULES.
    decisions: Id -> decision, in place of the probe's.
    split: Whose questions are taken.
    text: The one refusal for all questions; None is a pool of texts.
    written: Id -> a refusal that the model wrote.
    max_refusal_share: Largest share of refusals.
    seed: Random seed of the choices.

  Raises:
    ValueError: the split has no questions, or the rule leaves a class empty.
  """
  questions = [q for q in probed.asked if probed.splits[q.id] == split]
  if not questions:
    raise ValueError(
      f'There are no {split} questions to make rows of; splits are '
      f'{", ".join(sorted(set(probed.splits.values())))}.'
    )
  decisions = probed.decisions[rule] if decisions is None else decisions
  p_correct = None
  if rule == 'honesty_multisample':  # it says both, of what is unsure
    p_correct = {q.id: probed.scores[q.id].p_correct for q in questions}
  ids = balance(
    questions,
    decisions,
    rule=rule,
    max_refusal_share=max_refusal_share,
    p_correct=p_correct,
    seed=seed,
  )
  return make_rows(
    questions,
    probed.sampled,
    probed.scores,
    decisions,
    ids,
    text=text,
    written=written,
    seed=seed,
  )
