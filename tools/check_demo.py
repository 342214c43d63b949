"""Holds the results of `make demo` to loose bounds; exit code 1 outside.

  python -m tools.check_demo --run=out/demo

What the bundled world must show whatever the machine: other processors round
differently, so single answers may change, and these bounds are wide. What was
measured is in the README.
"""

import dataclasses
import pathlib

from experiments.latents import CLASSES
from experiments.runs import KeepFlags, outputs, start

# What -> (least, most).
BOUNDS = {
  'known entities': (800, 900),
  'unknown entities': (780, 900),
  'AUROC of the known latent': (0.8, 1.0),
  'AUROC of the unknown latent': (0.9, 1.0),
  'AUROC of the linear probe': (0.93, 1.0),
  'AUROC of name tokens': (0.4, 0.6),
  'known, refused': (0.0, 0.15),
  'known, refused with the unknown latent': (0.6, 1.0),
  'unknown, refused': (0.7, 1.0),
  'unknown, refused with the known latent': (0.0, 0.3),
  'unknown, refused without the unknown latent': (0.0, 0.4),
  'specific doses of the known latent': (1, 6),
  'specific doses of the unknown latent': (1, 6),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Says which run is checked.

  Attributes:
    run: Folder of the run.
  """

  run: str = 'out/demo'


def measured(results: dict) -> dict[str, float]:
  """Returns the numbers that BOUNDS are about."""
  latents, steering = results['latents'], results['steering']
  counts = results['labels']['types'].values()

  def auroc(kind):
    found = [
      d['mean']['value'] for d in latents['detectors'] if d['kind'] == kind
    ]
    return max(found, default=float('nan'))

  def refused(kind, target, entity_class):
    (arm,) = (
      a for a in steering['arms'] if (a['kind'], a['target']) == (kind, target)
    )
    return arm['counts'][entity_class]['all']['refusal']['value']

  best = {label: latents['chosen'][label][0] for label in CLASSES}
  return {
    'known entities': sum(c['known'] for c in counts),
    'unknown entities': sum(c['unknown'] for c in counts),
    **{
      f'AUROC of the {label} latent': best[label]['auroc']['mean']['value']
      for label in CLASSES
    },
    'AUROC of the linear probe': auroc('linear probe'),
    'AUROC of name tokens': auroc('name tokens'),
    'known, refused': refused('original', '', 'known'),
    'known, refused with the unknown latent': refused(
      'steered', 'unknown', 'known'
    ),
    'unknown, refused': refused('original', '', 'unknown'),
    'unknown, refused with the known latent': refused(
      'steered', 'known', 'unknown'
    ),
    'unknown, refused without the unknown latent': refused(
      'wrong sign', 'unknown', 'unknown'
    ),
    **{
      f'specific doses of the {one["target"]} latent': len(
        one['specific_doses']
      )
      for one in steering['specificity']
    },
  }


def work(settings: Settings, keep_flags: KeepFlags) -> int:
  """Prints whether numbers are within their bounds; returns the exit code."""
  del keep_flags
  folder = pathlib.Path(settings.run)
  for name in (outputs.RESULTS_FILE, outputs.REPORT_FILE):
    if not (folder / name).is_file():
      raise FileNotFoundError(f'There is no {folder / name}; run `make demo`.')
  found = measured(outputs.read_json(folder / outputs.RESULTS_FILE))
  outside = 0
  for name, (least, most) in BOUNDS.items():
    inside = least <= found[name] <= most  # False for NaN
    outside += not inside
    word = 'PASS' if inside else 'FAIL'
    print(f'{word}  {name:40} {found[name]:.3f}  [{least:g}, {most:g}]')
  return 1 if outside else 0


if __name__ == '__main__':
  start(Settings, work)
