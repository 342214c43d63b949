"""Is there enough device memory? Said before anything is loaded.

`memory_items.py` estimates what is needed. One program runs at a time, so that
only the largest counts. Every item names the flag that makes it smaller.
"""

import contextlib
import dataclasses

from experiments.runs import out_of_memory
from experiments.runs.out_of_memory import OutOfMemory

# Beyond so many times what there is, a run is refused; beyond the other, the
# user is warned.
_REFUSE = 1.2
_WARN = 0.85


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
  """Something in device memory.

  Attributes:
    stage: 'training' or 'evaluation', which follow each other.
    name: Name of what is held, or of the program.
    num_bytes: Size in bytes on each device.
    knob: The flags that make it smaller.
    program: True for what a program takes while it runs.
  """

  stage: str
  name: str
  num_bytes: int
  knob: str
  program: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
  """Holds the memory that a run needs.

  Attributes:
    items: Everything that is held, and all programs.
  """

  items: tuple[Item, ...]

  def at_peak(self, stage: str) -> list[Item]:
    """Returns what is held in a stage, and its largest program."""
    items = [item for item in self.items if item.stage == stage]
    programs = [item for item in items if item.program]
    largest = max(programs, key=lambda item: item.num_bytes, default=None)
    return [item for item in items if not item.program or item is largest]

  def total(self, stage: str) -> int:
    """Returns the bytes of a stage."""
    return sum(item.num_bytes for item in self.at_peak(stage))

  @property
  def stages(self) -> tuple[str, ...]:
    """Returns the stages, in order."""
    return tuple(dict.fromkeys(item.stage for item in self.items))

  @property
  def peak(self) -> int:
    """Returns the bytes of the larger stage."""
    return max(map(self.total, self.stages))

  def largest(self) -> Item:
    """Returns the largest item of the larger stage."""
    stage = max(self.stages, key=self.total)
    return max(self.at_peak(stage), key=lambda item: item.num_bytes)

  def table(self) -> str:
    """Returns a table for the terminal."""
    lines = [f'{"device memory":<48}{"MiB":>10}  made smaller by']
    for stage in self.stages:
      lines += [
        f'  {item.stage + ": " + item.name:<46}'
        f'{item.num_bytes / 2**20:>10,.1f}  {item.knob}'
        for item in self.items
        if item.stage == stage
      ]
      total = self.total(stage) / 2**20
      said = f'{stage} in all, one program at a time'
      lines.append(f'{said:<48}{total:>10,.1f}')
    return '\n'.join(lines)

  def to_dict(self) -> dict:
    """Returns what results.json has."""
    return {
      'items': [dataclasses.asdict(item) for item in self.items],
      'peak_bytes': self.peak,
    }


def check_memory(
  estimate: MemoryEstimate, available: int | None, *, refuse: bool = True
) -> str:
  """Compares an estimate with what there is; returns what to print.

  Raises:
    OutOfMemory: clearly too much is needed, and `refuse`.
  """
  if available is None:
    return f'{estimate.table()}\nThis device does not say how much it has.'
  needed, item = estimate.peak, estimate.largest()
  said = (
    f'{needed / 2**20:,.0f} MiB are needed at the peak, '
    f'{available / 2**20:,.0f} MiB are free on each device'
  )
  remedy = (
    f'The largest part is "{item.name}" in {item.stage}, '
    f'{item.num_bytes / 2**20:,.0f} MiB: make it smaller with {item.knob}'
  )
  if needed > _REFUSE * available and refuse:
    raise OutOfMemory(
      f'{estimate.table()}\n{said}. {remedy}; or pass --nocheck_memory to try.'
    )
  if needed > _WARN * available:
    return f'{estimate.table()}\n{said}: it will be tight. {remedy}.'
  return f'{estimate.table()}\n{said}.'


def explain_out_of_memory(
  estimate: MemoryEstimate, stage: str
) -> contextlib.AbstractContextManager[None]:
  """Returns a context whose errors of memory name the largest parts of a stage.

  Raises:
    OutOfMemory: the block ran out of memory.
  """
  items = [item for item in estimate.items if item.stage == stage]
  items.sort(key=lambda item: -item.num_bytes)
  return out_of_memory.explain_out_of_memory(
    f'The device ran out of memory in {stage}. The largest parts, as '
    'estimated:\n'
    + '\n'.join(
      f'  {item.name}, {item.num_bytes / 2**20:,.1f} MiB: {item.knob}'
      for item in items[:3]
    )
  )
