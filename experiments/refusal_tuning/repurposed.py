"""Did tuning repurpose a mechanism of the base model, or make a new one?

Each rule asks one question of one number and its interval. It holds if the
whole interval is above the threshold, does not hold if all of it is below, and
else cannot be told; so it is without a number or an interval. Thresholds are
this project's: no paper states any.

  detected  the untuned model has a detector: the AUROC of the latent (or of the
            difference of means) is above .5
  kept      tuning has not undone it: the AUROC changes by more than -.1
  same      it says the same of each entity: Spearman's rho above .5
  causes    adding the unknown latent makes the tuned model refuse what it
            knows: beyond random latents, by more than .05 in probability
  new       it does so by more than .05 more than in the untuned model
  along     detector and controller of the tuned model agree: the cosine of
            the difference of means with the controller is above that of
            random directions, at the layer where the controller is most
            reliable; untold if two halves of the entities agree on it less
            than .5. A latent's row is one part of the detector, so that its
            cosine is shown and decides nothing
  above     the change above the detector's layer is needed: with untuned
            weights there, more than half is lost of what the tuned model
            does for refusing the unknown more than the known

'Repurposed' needs the first five to hold, and 'along' not to fail: an old
detector, kept, that now drives refusals. 'Made anew' is said if neither
'causes' nor 'along' holds, by their intervals: the detector does not drive
them. 'Partly' is said if one of these two holds, and some other of the six does
not hold. Anything else cannot be told. 'above' says where the change is, and
decides nothing.
"""

from collections.abc import Mapping
import dataclasses

HOLDS, FAILS, OPEN = 'holds', 'does not hold', 'cannot be told'
REPURPOSED, ANEW, PARTLY = 'repurposed', 'made anew', 'partly repurposed'
# Rules that must hold; 'along' must not fail.
_NEEDED = ('detected', 'kept', 'same', 'causes', 'new')
_LEAST_AUROC, _LOST, _ALIKE, _EFFECT, _HALF = 0.5, -0.1, 0.5, 0.05, 0.5
_RELIABLE = 0.5
# So many random latents must be matched, or all of them.
_RANDOM = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
  """One question and what the numbers say.

  Attributes:
    name: Name of the rule, as at the top of this file.
    question: In a sentence.
    number: What is looked at.
    estimate: Value, interval and n; None where it was not measured.
    threshold: The rule holds above it.
    verdict: HOLDS, FAILS or OPEN.
  """

  name: str
  question: str
  number: str
  estimate: Mapping | None
  threshold: float | None
  verdict: str


def judge(
  *,
  latents: Mapping | None = None,
  directions: list | None = None,
  steering: Mapping | None = None,
  controllers: Mapping | None = None,
  weights: Mapping | None = None,
  layer: int | None = None,
) -> dict:
  """Returns the rules, and the verdict in plain words.

  Args:
    latents: From `latents_before_after.compare_latents`: its first latent of
      unknown entities is the detector.
    directions: From `latents_before_after.compare_directions`, where there is
      no latent: the one of `layer` is.
    steering: From `unknown_latent.compare_steering`. The largest dose is read
      at which ten random latents, or all of fewer, are matched in both models.
    controllers: From `controllers.compare_directions`.
    weights: From `weight_patching.patch_weights`, with layers cut at the
      detector's.
    layer: The detector's, of resid_post; None is the latent's.

  Returns:
    'rules', 'verdict' and 'summary'.
  """
  detector = _detector(latents, directions, layer)
  if layer is None and detector:
    layer = detector['layer']
  rules = [
    *_kept(detector),
    *_driven(steering),
    _along(controllers, detector, layer),
    _above(weights, layer),
  ]
  verdicts = {rule.name: rule.verdict for rule in rules}
  verdict = _verdict(verdicts)
  return {
    'rules': [dataclasses.asdict(rule) for rule in rules],
    'verdict': verdict,
    'summary': _summary(verdict, rules),
  }


def _verdict(verdicts: Mapping[str, str]) -> str:
  needed = [verdicts[name] for name in _NEEDED]
  if verdicts['along'] != FAILS and all(each == HOLDS for each in needed):
    return REPURPOSED
  driven = verdicts['causes'], verdicts['along']
  if driven == (FAILS, FAILS):
    return ANEW
  if HOLDS in driven and FAILS in (*needed, verdicts['along']):
    return PARTLY
  return OPEN


def _summary(verdict: str, rules: list[Rule]) -> str:
  opening = {
    REPURPOSED: 'Repurposed: the untuned model had the detector, and tuning '
    'made it drive refusals.',
    ANEW: 'Made anew: tuning taught the model to refuse without the detector '
    'that was looked at.',
    PARTLY: 'Partly repurposed: some of what repurposing asks for holds, and '
    'some does not.',
    OPEN: 'It cannot be told whether the mechanism was repurposed.',
  }[verdict]
  said = [opening]
  for kind, words in (
    (HOLDS, 'Held'),
    (FAILS, 'Did not hold'),
    (OPEN, 'Could not be told'),
  ):
    names = [rule.question for rule in rules if rule.verdict == kind]
    if names:
      said.append(f'{words}: {" ".join(names)}')
  return ' '.join(said)


def _detector(latents, directions, layer) -> Mapping | None:
  """Returns what is compared as the detector."""
  of = [
    each
    for each in (latents or {}).get('latents', ())
    if each['label'] == 'unknown'
  ]
  if of:
    return of[0]
  some = [each for each in directions or () if layer in (None, each['layer'])]
  return some[0] if some else None


def _kept(detector) -> list[Rule]:
  auroc = (detector or {}).get('auroc', {})
  name = detector['name'] if detector else 'no detector'
  return [
    _rule(
      'detected',
      'The untuned model tells unknown entities from known ones.',
      f'AUROC of {name}, untuned',
      auroc.get('before'),
      _LEAST_AUROC,
    ),
    _rule(
      'kept',
      'Tuning has not undone the detector.',
      f'change of the AUROC of {name}',
      auroc.get('change'),
      _LOST,
    ),
    _rule(
      'same',
      'The detector says the same of each entity after tuning.',
      f"Spearman's rho of {name} in both models",
      (detector or {}).get('spearman'),
      _ALIKE,
    ),
  ]


def _driven(steering) -> list[Rule]:
  enough = min(_RANDOM, len((steering or {}).get('random', ())))
  doses = [
    each
    for each in (steering or {}).get('doses', ())
    if min(each[side]['matched'] for side in ('before', 'after')) >= enough
  ]
  chosen = doses[-1] if doses else None
  at = f' at dose {chosen["dose"]:g}' if chosen else ''
  random = chosen['after']['matched'] if chosen else 0
  what = (
    f'change of P(refusal begins){at}, less that of {random} random latents '
    'at the same divergence'
  )
  if chosen:
    what += f'; rank {chosen["after"]["rank"]} of {random + 1}'
  return [
    _rule(
      'causes',
      'Adding the unknown latent makes the tuned model refuse what it knows.',
      what,
      chosen and chosen['after']['refusal']['beyond'],
      _EFFECT,
    ),
    _rule(
      'new',
      'It does so more than in the untuned model.',
      f'the same, tuned less untuned model{at}',
      chosen and chosen['more']['refusal'],
      _EFFECT,
    ),
  ]


def _along(controllers, detector, layer) -> Rule:
  names = ['means.after', detector['name'] if detector else '']
  found = []
  for each in (controllers or {}).get('layers', ()):
    pairs = {
      pair['a']: pair | {'layer': each['layer']}
      for pair in each['cosines']
      if pair['b'] == 'controller.after'
    }
    name = next((name for name in names if name in pairs), None)
    if name and (layer is None or each['layer'] >= layer):
      found.append(pairs[name])
  best = max(found, key=_controller_reliability, default=None)
  reliable = best and _controller_reliability(best) >= _RELIABLE
  return _rule(
    'along',
    'Detector and controller of the tuned model agree.',
    f'cosine of {best["a"]} with the controller at resid_post.{best["layer"]}, '
    f'whose halves agree by {_controller_reliability(best):.2f}'
    if best
    else 'cosine of the two',
    best and best['cosine'],
    best['null'] if reliable else None,
  )


def _controller_reliability(pair) -> float:
  found = pair['reliability'][1]
  return -1.0 if found is None else found


def _above(weights, layer) -> Rule:
  found = None
  for each in (weights or {}).get('components', ()):
    if each['kind'] == 'layers' and each['layers'][0] == (layer or 0) + 1:
      found = (each['back'] or {}).get('apart', {}).get('share')
  return _rule(
    'above',
    "Changes above the detector's layer are needed.",
    'share of the change of log-odds, unknown less known entities, that is '
    f'lost with untuned layers above {"it" if layer is None else layer}',
    found,
    _HALF,
  )


def _rule(name, question, number, estimate, threshold) -> Rule:
  verdict = OPEN
  if estimate and threshold is not None and estimate['low'] is not None:
    if estimate['low'] > threshold:
      verdict = HOLDS
    elif estimate['high'] < threshold:
      verdict = FAILS
  return Rule(
    name=name,
    question=question,
    number=number,
    estimate=estimate,
    threshold=threshold,
    verdict=verdict,
  )
