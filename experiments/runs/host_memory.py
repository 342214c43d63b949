"""How much memory the host and its devices have left."""

import os
import pathlib

import jax


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


def available_bytes() -> int | None:
  """Returns the bytes left on the smallest device; None if it does not say.

  On a CPU these are the bytes that the host has left.
  """
  limits = []
  for device in jax.local_devices():
    stats = device.memory_stats() or {}
    if 'bytes_limit' in stats:
      limits.append(stats['bytes_limit'] - stats.get('bytes_in_use', 0))
  if limits:
    return min(limits)
  if jax.default_backend() != 'cpu':
    return None
  return available_memory()
