"""How much memory the host has left."""

import os
import pathlib


def available_memory() -> int:
  """Bytes that this process can still take, by the system or its cgroup."""
  try:
    with open('/proc/meminfo', encoding='ascii') as file:
      fields = dict(line.split(':', 1) for line in file)
    free = int(fields['MemAvailable'].split()[0]) * 1024
  except (OSError, KeyError):  # not Linux
    free = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  group = pathlib.Path('/sys/fs/cgroup')
  try:
    limit = int((group / 'memory.max').read_text())
    free = min(free, limit - int((group / 'memory.current').read_text()))
  except (OSError, ValueError):  # no cgroup, or no limit ('max')
    pass
  return free
