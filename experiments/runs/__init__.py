"""What every study stands on; it knows no science.

binary      flags to settings, errors to exit codes
settings    flags from a study's dataclass
numbers     bounds of numbers in flags
compiled    programs kept between arms and runs
"""

from experiments.runs.binary import KeepFlags, start
from experiments.runs.compiled import keep_programs
from experiments.runs.numbers import (
  Count,
  Few,
  Layer,
  Many,
  Number,
  Positive,
  Seed,
  Share,
  Signed,
  real,
  whole,
)
from experiments.runs.settings import check_numbers, define_flags, read_flags
