"""What was found, claim by claim: a number, its interval, and a verdict.

The claims are those of arXiv 2403.19521 (section 1.1 of the recall
specification) and of arXiv 2304.14767. A verdict is read off an interval by a
rule that is written beside each claim: 'holds' if the whole interval is on the
claimed side, 'does not hold' if it is on the other side, else 'cannot be told'.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools

from experiments.factual_recall.dissection import ANSWER
from experiments.factual_recall.knowing import MECHANISM
from experiments.stats.intervals import wilson
from experiments.stats.ranks import spearman_of_means

HOLDS, FAILS, OPEN = 'holds', 'does not hold', 'cannot be told'
# The least rank correlation of senders' effects with and without
# demonstrations.
_ALIKE = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
  """One claim about one task and number of demonstrations.

  Attributes:
    number: As the specification counts them.
    claim: In a sentence.
    what: What the number is, with its unit.
    rule: When it holds.
    estimate: Value, interval and n, as in results.json.
    verdict: HOLDS, FAILS or OPEN.
    task: Name of the task.
    shots: Demonstrations.
  """

  number: int
  claim: str
  what: str
  rule: str
  estimate: Mapping
  verdict: str
  task: str
  shots: int


def claims(
  runs: Sequence[Mapping], likenesses: Sequence[Mapping]
) -> list[dict]:
  """Returns all claims about all runs, for results.json."""
  found = list(itertools.chain.from_iterable(map(_of_run, runs)))
  for each in likenesses:
    found.append(
      _claim(
        each,
        4,
        'The same mechanism is at work with demonstrations.',
        "Spearman's rho of all senders' total effects without and with them",
        f'rho above {_ALIKE}',
        each['spearman'],
        _ALIKE,
      )
    )
  found.sort(key=lambda each: each.number)
  return [dataclasses.asdict(each) for each in found]


def _of_run(run: Mapping) -> list[Claim]:
  """Returns the claims that one task and number of demonstrations decides."""
  found = []
  heads = run['movers']['heads']
  strongest = heads[0]
  found.append(
    _claim(
      run,
      1,
      'A head passes the argument: without it the answer falls.',
      'change of pi(Y) when the strongest head is replaced, in percent, the '
      'head being chosen on other subjects '
      f'({" and ".join(run["patching"]["held_out"]["chosen"])})',
      'below 0',
      run['patching']['held_out']['total'],
      0,
      below=True,
    )
  )
  found.append(
    _claim(
      run,
      1,
      'The strongest head attends to the subject.',
      f'attention of {strongest["name"]} to the subject, less the mean of all '
      'heads',
      'above 0',
      _shifted(strongest['attention'], run['movers']['mean_attention']),
      0,
    )
  )
  found.append(
    _claim(
      run,
      1,
      'It writes the subject the more, the more it attends to it.',
      f"Pearson's r of attention and write, {strongest['name']}",
      'above 0',
      strongest['correlation'],
      0,
    )
  )
  found += _mlp_claims(run)
  found += _last_layer_claims(run)
  if inside := run.get('inside'):
    found += _dissection_claims(run, inside)
  return found


def _mlp_claims(run) -> list[Claim]:
  """Activation (2) and function application (3)."""
  closely = [each for each in run['regression'] if 'function' in each]
  last = max(each['layer'] for each in run['regression'])
  found = []
  for layer in closely:
    if layer['layer'] == last and len(closely) > 1:
      continue
    name = f'MLP {layer["layer"]}'
    gains = [r for r in layer['regressors'] if r['name'] != 'other']
    moved = sum(r['verdict'] != 'neither' for r in gains)
    found.append(
      _claim(
        run,
        2,
        'The MLP erases or amplifies what heads wrote.',
        f'share of the {len(gains)} heads of layer {layer["layer"]} whose net '
        f'gain in {name} has an interval without 1',
        'above .05, which chance would give',
        wilson(moved, len(gains)).to_dict(),
        0.05,
      )
    )
    found.append(
      _claim(
        run,
        2,
        'Heads explain what the MLP writes, for unseen subjects too.',
        f'R2 by held-out subject, {name}',
        'above 0',
        layer['r2_held_out'],
        0,
      )
    )
    effects = layer['function']['effects']
    found.append(
      _claim(
        run,
        3,
        "The MLP's constant part raises the answer.",
        f'change of pi(Y) when the intercept of {name} is taken out',
        'below 0',
        effects['intercept']['removed']['answer'],
        0,
        below=True,
      )
    )
    found.append(
      _claim(
        run,
        3,
        "The MLP's constant part lowers the subject.",
        f'change of pi(N) when the intercept of {name} is taken out',
        'above 0',
        effects['intercept']['removed']['name'],
        0,
      )
    )
    found.append(
      _claim(
        run,
        3,
        'Control: the answer is in no subject-specific part of the MLP.',
        f'change of pi(Y) without what the MLP adds for each subject, {name}',
        'not below 0',
        effects['subject']['removed']['answer'],
        0,
      )
    )
  return found


def _last_layer_claims(run) -> list[Claim]:
  """Anti-overconfidence (5) and undoing it (6)."""
  last = run['trajectory']['last']
  found = [
    _claim(
      run,
      5,
      'The last layer holds the answer back.',
      'change of pi(Y) over the last block',
      'below 0',
      last['pi']['block'],
      0,
      below=True,
    ),
    _claim(
      run,
      5,
      'The last layer holds the answer back.',
      'change of log P(answer) over the last block, in nats',
      'below 0',
      last['log_prob']['block'],
      0,
      below=True,
    ),
  ]
  found.append(
    _claim(
      run,
      5,
      'The heads of the last layer write frequent tokens.',
      "Spearman's rho of what they write together and log frequency",
      'above 0',
      run['last_writes']['layers'][-1]['frequency']['attn'],
      0,
    )
  )
  arms = run['mitigation']['arms']
  for arm, said in (
    ('mask', 'Masking the last layer'),
    ('intercept', 'Taking out its intercept'),
    ('both', 'Both'),
  ):
    found.append(
      _claim(
        run,
        6,
        f'{said} brings the answer back.',
        'change of P(answer), intercept fitted on other subjects',
        'above 0',
        arms[arm]['change']['prob'],
        0,
      )
    )
  return found


def _dissection_claims(run, inside) -> list[Claim]:
  """Geva et al. (7), and the link to knowing (8)."""
  found = []
  if strongest := inside.get('subject_less_non_subject'):
    found.append(
      _claim(
        run,
        7,
        'The last token needs its view of the subject more than of the rest.',
        'change of P in percent without the subject, less that without all '
        'else but the first token; windows around layers '
        f'{strongest["layers"]}',
        'below 0',
        strongest['estimate'],
        0,
        below=True,
      )
    )
  if others := inside.get('not_held'):
    rates = inside['extraction']['rates']
    for name in ('attn_out', 'mlp_out'):
      unknown = others[name]
      known = rates[name]['raw'][ANSWER]['any']
      found.append(
        _claim(
          run,
          7,
          'What the training text does not hold is not extracted.',
          f'rate at which {name} extracts the true answer of such facts, in '
          f'any layer; {known["value"]:.0%} of those that it holds',
          'below what it is for facts that are held, interval by interval',
          unknown,
          known['low'],
          below=True,
        )
      )
  if known := inside.get('known_and_unknown'):
    for row in known['signals']:
      if row['name'] not in MECHANISM:
        continue
      side = _side(row['auroc'], 0.5)
      found.append(
        _claim(
          run,
          8,
          f'{row["name"][0].upper()}{row["name"][1:]} differs between known '
          'and unknown subjects.',
          'AUROC, above one half where known subjects are higher',
          'the interval leaves one half out',
          row['auroc'],
          0.5,
          OPEN if side == OPEN else HOLDS,
        )
      )
  return found


def likeness(prompts: Mapping, arrays: Mapping, seed: int) -> list[dict]:
  """Returns how alike all senders' total effects are, without and with
  demonstrations.

  Spearman's rho over senders of mean effects, resampling subjects.

  Args:
    prompts: Task and demonstrations -> prompts.
    arrays: The same -> arrays, of which 'total_by_subject' [U, L, N + 1].
    seed: Random seed of the resamples.
  """
  found = []
  for task, shots in prompts:
    if not shots or (task, 0) not in prompts:
      continue
    pair = [arrays[task, k]['total_by_subject'] for k in (0, shots)]
    pair = [x.reshape(len(x), -1) for x in pair]
    rho = spearman_of_means(*pair, seed, resamples=500)
    found.append(
      {
        'task': task,
        'shots': shots,
        'senders': pair[0].shape[1],
        'spearman': rho.to_dict(),
      }
    )
  return found


def table_rows(runs: Sequence[Mapping]) -> list[dict]:
  """Returns the table task x demonstrations, for results.json."""
  rows = []
  for run in runs:
    arms = run['mitigation']['arms']
    rows.append(
      {
        'task': run['task'],
        'shots': run['shots'],
        'prompts': run['first']['prompts'],
        'studied': run['studied'],
        # From here on, only the prompts that are studied count.
        'p_answer': arms['none']['mean']['prob'],
        'top1': arms['none']['mean']['top1'],
        'pi_answer': run['first']['pi_answer'],
        'pi_subject': run['first']['pi_subject'],
        'strongest_head': run['movers']['heads'][0]['name'],
        'correlation': run['movers']['heads'][0]['correlation'],
        'last_block': run['trajectory']['last']['pi']['block'],
        'p_mask': arms['mask']['mean']['prob'],
        'p_both': arms['both']['mean']['prob'],
        'p_both_in_sample': arms['both_in_sample']['mean']['prob'],
        'top1_both': arms['both']['mean']['top1'],
      }
    )
  return rows


def _claim(
  run, number, claim, what, rule, found, bound, verdict=None, below=False
) -> Claim:
  side = _side(found, bound)
  if verdict:
    said = verdict
  elif side == OPEN:
    said = OPEN
  else:
    said = HOLDS if (side == 'below') == below else FAILS
  return Claim(
    number=number,
    claim=claim,
    what=what,
    rule=rule,
    estimate=found,
    verdict=said,
    task=run['task'],
    shots=run['shots'],
  )


def _side(found: Mapping, bound: float) -> str:
  """Returns 'above' or 'below' if the whole interval is there, else OPEN."""
  low, high = found.get('low'), found.get('high')
  if low is None or high is None:
    return OPEN
  if low > bound:
    return 'above'
  return 'below' if high < bound else OPEN


def _shifted(found: Mapping, by: float) -> dict:
  """Returns an estimate less a number."""
  return dict(found) | {
    key: None if found[key] is None else found[key] - by
    for key in ('value', 'low', 'high')
  }
