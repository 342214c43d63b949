"""What every study stands on; it knows no science.

settings    flags from a study's dataclass
"""

from experiments.runs.settings import define_flags, read_flags
