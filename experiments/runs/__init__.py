"""What every study stands on; it knows no science.

binary      flags to settings, errors to exit codes
settings    flags from a study's dataclass
numbers     numbers in flags, and their bounds
compiled    programs kept between arms and runs
"""

from experiments.runs.binary import KeepFlags, start
from experiments.runs.compiled import keep_programs
from experiments.runs.numbers import (
  FEW,
  LAYER,
  MANY,
  POSITIVE,
  SEED,
  SHARE,
  SIGNED,
  Count,
  Few,
  Layer,
  Many,
  Number,
  Positive,
  Seed,
  Share,
  define_number,
  define_numbers,
  real,
  whole,
)
from experiments.runs.settings import check_numbers, define_flags, read_flags
