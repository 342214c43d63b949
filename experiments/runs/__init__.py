"""What every study stands on; it knows no science.

binary      flags to settings, errors to exit codes
settings    flags from a study's dataclass
compiled    programs kept between arms and runs
"""

from experiments.runs.binary import start
from experiments.runs.compiled import keep_programs
from experiments.runs.settings import (
  check_at_least,
  define_flags,
  read_flags,
)
