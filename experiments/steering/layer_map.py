"""Every layer and dose: where does a direction act, and what does it break?

What is read best in a layer need not be what acts there: a chat model that has
read the entity already does not look again.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from experiments.inputs.recognition_run import RecognitionFindings
from experiments.latents import CLASSES, LatentId
from experiments.stats.intervals import Estimate
from experiments.stats.resampling import cluster_bootstrap_means
from experiments.steering.arms import MEAN_DIFFERENCE, ORIGINAL, STEERED, Arm
from experiments.steering.doses import OPPOSITE
from experiments.steering.outcomes import BROKEN, REFUSAL, by_arm
from experiments.steering.questions import Question
from sae.jumprelu import JumpReLUSAE


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Place:
  """A direction of one layer.

  Attributes:
    label: 'known' or 'unknown', what it stands for.
    kind: arms.STEERED for the layer's best latent, or arms.MEAN_DIFFERENCE.
    id: Site and layer, and the latent (of a mean difference, -1).
    direction: float [D].
  """

  label: str
  kind: str
  id: LatentId
  direction: np.ndarray

  @property
  def name(self) -> str:
    """The name of the place, which no other has."""
    what = 'latent' if self.kind == STEERED else 'mean difference'
    at = str(self.id) if self.kind == STEERED else '.'.join(map(str, self.at))
    return f'{what} {at} to {self.label}'

  @property
  def at(self) -> tuple[str, int]:
    """Site and layer."""
    return self.id.site, self.id.layer


def places(
  findings: RecognitionFindings, saes: Sequence[JumpReLUSAE]
) -> list[Place]:
  """Returns the best latent and the difference of means of each SAE's layer.

  Args:
    findings: Findings of a recognition run: the best latent of each layer is
      the one with the layer's highest MaxMin on train.
    saes: SAEs of the run.

  Raises:
    ValueError: the run has not looked at an SAE's layer.
  """
  found = []
  for sae in saes:
    site, layer = sae.origin.site, sae.origin.layer
    for label in CLASSES:
      best = [
        each['latent']
        for each in findings.latents['layers'][label]
        if (each['site'], each['layer']) == (site, layer)
      ]
      difference = findings.mean_difference(label, LatentId(site, layer, -1))
      if not best or difference is None:
        raise ValueError(
          f'The run has not harvested {site} of layer {layer}. Give the run '
          'of these SAEs, or choose from its layers by --layers.'
        )
      latent = LatentId(site, layer, best[0])
      row = np.asarray(sae.W_dec[...][best[0]], np.float64)
      found += [
        Place(label=label, kind=STEERED, id=latent, direction=row),
        Place(
          label=label,
          kind=MEAN_DIFFERENCE,
          id=LatentId(site, layer, -1),
          direction=difference,
        ),
      ]
  return found


def map_arms(
  found: Sequence[Place],
  streams: Mapping[int, Estimate],
  doses: Sequence[float],
  positions: str,
) -> dict[str, list[Arm]]:
  """Label -> the original, and every place of it at every dose.

  Args:
    found: Found of one site.
    streams: Layer -> mean norm of the stream there.
    doses: In units of that norm.
    positions: Which tokens are steered.
  """
  arms = {label: [Arm(name='original', kind=ORIGINAL)] for label in CLASSES}
  for place in found:
    norm = float(np.linalg.norm(place.direction))
    for dose in doses:
      arms[place.label].append(
        Arm(
          name=f'{place.name} at dose {dose:g}',
          kind=place.kind,
          target=place.label,
          direction=np.asarray(place.direction, np.float32),
          site=place.id.site,
          layer=place.id.layer,
          coefficient=dose * streams[place.id.layer].value / norm,
          dose=dose,
          positions=positions,
        )
      )
  return arms


def asked_of(questions: Sequence[Question], label: str) -> list[Question]:
  """Returns questions about the class whose refusals a label is to change."""
  return [q for q in questions if q.entity_class == OPPOSITE[label]]


def describe(
  found: Sequence[Place],
  arms: Mapping[str, Sequence[Arm]],
  examples: Mapping[str, Sequence[Mapping]],
) -> list[dict]:
  """Returns a record per place and dose.

  Args:
    found: As `map_arms` got them.
    arms: As it gave them.
    examples: Label -> answers with their divergences (`make_examples`).

  Returns:
    'refused', 'change' of it, 'broken' (answers of no answer's form) and 'kl',
    each with an interval that resamples entities with all their questions.
  """
  latents = {
    (place.label, place.id.layer): str(place.id)
    for place in found
    if place.kind == STEERED
  }
  records = []
  for label, of_label in arms.items():
    by_name = by_arm(examples[label])
    before = _are(by_name[of_label[0].name], REFUSAL)
    for arm in of_label[1:]:
      answers = by_name[arm.name]
      after = _are(answers, REFUSAL)
      measured = {
        'refused': after,
        'change': after - before,
        'broken': _are(answers, BROKEN),
        'kl': np.array([a['kl'] for a in answers]),
      }
      estimates = cluster_bootstrap_means(
        np.stack(list(measured.values()), axis=1),
        [f'{a["type"]}/{a["entity"]}' for a in answers],
      )
      records.append(
        {
          'label': label,
          'kind': arm.kind,
          'site': arm.site,
          'layer': arm.layer,
          'latent': latents.get((label, arm.layer))
          if arm.kind == STEERED
          else None,
          'dose': arm.dose,
          'asked_about': OPPOSITE[label],
        }
        | {
          name: estimate.to_dict()
          for name, estimate in zip(measured, estimates, strict=True)
        }
      )
  return records


def _are(answers: Sequence[Mapping], outcome: str) -> np.ndarray:
  return np.array([float(answer['outcome'] == outcome) for answer in answers])
