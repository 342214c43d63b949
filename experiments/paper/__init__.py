"""The paper as a list of numbers, and ours beside each.

claims/      one file per model family: what was published, or what a world
             with ground truth must show; where it is from; where ours is found
claims.py    reading and checking them
finding.py   a number in results.json, by its path
comparing.py inside or outside
programs.py  which binaries make the numbers, with which flags
"""

from experiments.paper.claims import (
  FAMILIES,
  KINDS,
  PENDING,
  RESULT,
  WORLD,
  Claim,
  read_claims,
)
from experiments.paper.comparing import (
  INSIDE,
  MISSING,
  OUTSIDE,
  UNJUDGED,
  Compared,
  compare,
)
from experiments.paper.finding import find
from experiments.paper.programs import Program, programs
