"""Published numbers to print beside ours: other models, data and judges.

They say what order of magnitude to expect, and nothing more: their models have
7 or 8 billion parameters, and most are measured on TriviaQA. All are in
percent, as printed; recall_and_probing.md, 3.2, has them from the papers or
from others' reading of them, as `tag` says.
"""

from collections.abc import Mapping
import dataclasses

from experiments.refusal_tuning.answer_metrics import truthful_helpfulness

# Where a number was read: the paper's own text, or a third party's reading.
TEXT, THIRD_PARTY = 'text', 'third party'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anchor:
  """A published result.

  Attributes:
    paper: Name and arXiv number.
    model: What was tuned.
    arm: How.
    tag: TEXT or THIRD_PARTY.
    values: Metric -> percent. 'accuracy', 'incorrect' and 'ths' are those of
      `answer_metrics.py`; other names are the paper's own measures.
  """

  paper: str
  model: str
  arm: str
  tag: str
  values: Mapping[str, float]


_CRAFT = 'CRaFT, arXiv 2410.06913'
_CHENG = 'Cheng et al., arXiv 2401.13275'
_HONESTY = 'Alignment for Honesty, arXiv 2312.07000'
_CRAFT_ARMS = (
  'untuned',
  'prompted',
  'refusal tuning',
  'refusal tuning by correctness',
  'CRaFT',
)
# Model -> c, i and THS of each of these arms.
_CRAFT_VALUES = {
  'Llama2-7B': (
    (54.0, 46.0, 0.0),
    (37.0, 21.7, 11.5),
    (48.6, 44.5, -3.7),
    (41.3, 18.3, 19.7),
    (38.5, 12.9, 23.3),
  ),
  'Llama3-8B': (
    (66.8, 33.2, 0.0),
    (53.9, 20.8, 12.0),
    (55.0, 38.1, -21.8),
    (45.4, 13.2, 18.8),
    (43.5, 10.9, 21.5),
  ),
}
_TRUTHFUL = {
  'prompted': 66.93,
  'refusal tuning': 74.75,
  'HIR': 75.91,
  'PPO': 76.47,
  'DPO': 77.89,
  'best of n': 78.96,
}
# Arm -> recall of refusals, share of known questions refused.
_RESCORED = {'refusal tuning': (84.06, 42.71), 'DPO': (71.19, 23.27)}
_HONESTY_SCORES = {
  'untuned': 50.06,
  'Confidence-Verb': 68.74,
  'Multisample': 70.18,
}


def _anchors():
  for model, rows in _CRAFT_VALUES.items():
    for arm, values in zip(_CRAFT_ARMS, rows, strict=True):
      names = ('accuracy', 'incorrect', 'ths')
      values = dict(zip(names, values, strict=True))
      yield _CRAFT, model, arm, TEXT, values
  for arm, truthful in _TRUTHFUL.items():
    values = {'truthful': truthful}
    if arm in _RESCORED:
      names = ('refusal_recall', 'over_conservativeness')
      values |= dict(zip(names, _RESCORED[arm], strict=True))
    yield _CHENG, 'Llama-2-7b-chat', arm, THIRD_PARTY, values
  for arm, honesty in _HONESTY_SCORES.items():
    yield _HONESTY, '13B', arm, THIRD_PARTY, {'honesty': honesty}
  # The hallucination rate is the share of wrong answers among all.
  for arm, wrong in (('untuned', 43.5), ('TruthRL', 19.4)):
    yield (
      'TruthRL, arXiv 2509.25760',
      'not in our source',
      arm,
      THIRD_PARTY,
      {'incorrect': wrong},
    )


ANCHORS = tuple(
  Anchor(paper=paper, model=model, arm=arm, tag=tag, values=values)
  for paper, model, arm, tag, values in _anchors()
)
# Columns of `rows` that have numbers.
COLUMNS = (
  'accuracy',
  'incorrect',
  'refusal_rate',
  'ths',
  'truthful',
  'over_conservativeness',
  'prudence',
  'honesty',
)


def rows(ours: Mapping[str, Mapping], model: str) -> list[dict]:
  """Returns our arms and the published ones, one row each, in percent.

  Args:
    ours: Arm -> what `metrics.compare` gave for it.
    model: Ours, by name.

  Returns:
    Rows with 'source', 'model', 'arm' and COLUMNS; a number of ours is an
    estimate as a dict, a published one a float, and None is not known.
  """
  found = []
  for arm, results in ours.items():
    after = {
      name: _percent(results['metrics'][name]['after']) for name in COLUMNS
    }
    found.append({'source': 'this run', 'model': model, 'arm': arm} | after)
  for anchor in ANCHORS:
    values = dict(anchor.values)
    if {'accuracy', 'incorrect'} <= values.keys():
      answered = values['accuracy'] + values['incorrect']
      values['refusal_rate'] = round(100 - answered, 1)
    found.append(
      {'source': anchor.paper, 'model': anchor.model, 'arm': anchor.arm}
      | {name: values.get(name) for name in COLUMNS}
    )
  return found


def recomputed_ths() -> list[dict]:
  """Returns CRaFT's THS from its own c and i, beside what it prints.

  Returns:
    For each of its rows 'model', 'arm', 'printed', 'computed' and 'reach': how
    far rounding c and i to one decimal can move the computed one.
  """
  found = []
  for model, of_model in _CRAFT_VALUES.items():
    c1, i1, _ = of_model[0]
    for arm, (c, i, printed) in zip(_CRAFT_ARMS, of_model, strict=True):
      computed = float(truthful_helpfulness(c, i, c1, i1))
      half = 0.05
      # The untuned row is its own reference: 0, whatever is rounded.
      moved = (
        computed
        if arm == 'untuned'
        else (
          float(truthful_helpfulness(c + half, i - half, c1 - half, i1 + half))
        )
      )
      found.append(
        {
          'model': model,
          'arm': arm,
          'printed': printed,
          'computed': computed,
          'reach': moved - computed,
        }
      )
  return found


def _percent(estimate: Mapping) -> dict:
  return {
    name: value if name == 'n' or value is None else 100 * value
    for name, value in estimate.items()
  }
