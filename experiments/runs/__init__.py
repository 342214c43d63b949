"""What every study stands on; it knows no science.

settings    flags from a study's dataclass
compiled    programs kept between arms and runs
"""

from experiments.runs.compiled import keep_programs
from experiments.runs.settings import define_flags, read_flags
