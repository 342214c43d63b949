"""Damage to the content of files, drawn from a seeded generator."""

import json
import struct
from typing import NamedTuple

import numpy as np

# JSON texts that take the place of values. The last four are numbers that JSON
# or Python does not have, and nesting that no file has.
VALUES = (
  'null',
  'true',
  '"x"',
  '""',
  '[]',
  '{}',
  '-1',
  '0.5',
  str(2**31),
  str(10**30),
  'NaN',
  '1e400',
  '9' * 5000,
  '[' * 100_000 + ']' * 100_000,
)
_HOLE = '@hole@'


class Damage(NamedTuple):
  """One damaged file.

  Attributes:
    content: What it holds now.
    what: What was done to it.
    field: The JSON field that was changed; None for bytes.
  """

  content: bytes
  what: str
  field: str | None = None


def damage(name: str, content: bytes, rng: np.random.Generator) -> Damage:
  """Damages a file: half of those that hold JSON as JSON, others as bytes."""
  if rng.random() < 0.5:
    if name.endswith('.json'):
      return _damage_json(content, rng)
    if name.endswith('.jsonl'):
      lines = content.splitlines(keepends=True)
      i = int(rng.integers(len(lines)))
      one = _damage_json(lines[i], rng)
      lines[i] = one.content + b'\n'
      return one._replace(content=b''.join(lines), what=f'line {i}: {one.what}')
    if name.endswith('.safetensors'):
      end = 8 + struct.unpack('<Q', content[:8])[0]
      one = _damage_json(content[8:end], rng)
      packed = struct.pack('<Q', len(one.content)) + one.content + content[end:]
      return one._replace(content=packed)
  return _damage_bytes(content, rng)


def _damage_bytes(content: bytes, rng: np.random.Generator) -> Damage:
  size = len(content)
  start, stop = sorted(rng.integers(0, size + 1, 2).tolist())
  stop = min(stop, start + int(rng.integers(1, 64)))
  piece = content[start:stop]
  noise = rng.bytes(int(rng.integers(1, 32)))
  kind = int(rng.integers(8))
  if kind < 2:
    flipped = bytearray(content)
    places = rng.integers(0, size, int(rng.integers(1, 5))).tolist()
    for at in places:
      flipped[at] ^= 1 << int(rng.integers(8))
    return Damage(bytes(flipped), f'bits flipped at {places}')
  return (
    Damage(content[:start], f'cut at {start} of {size}'),
    Damage(content[stop:], f'first {stop} bytes of {size} cut'),
    Damage(content[:stop] + content[start:], f'{start}:{stop} twice'),
    Damage(
      content[:start] + bytes(len(piece)) + content[stop:],
      f'{start}:{stop} zeroed',
    ),
    Damage(content[:start] + noise + content[start:], f'noise at {start}'),
    Damage(content + noise, 'noise at the end'),
  )[kind - 2]


def _damage_json(content: bytes, rng: np.random.Generator) -> Damage:
  tree = json.loads(content)
  # Every (container, key) in it.
  places, todo = [], [tree]
  while todo:
    node = todo.pop()
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(items):
      places.append((node, key))
      if isinstance(value, dict | list):
        todo.append(value)
  if not places:
    return _damage_bytes(content, rng)
  node, key = places[int(rng.integers(len(places)))]
  text = VALUES[int(rng.integers(len(VALUES)))]
  kind = rng.choice(['replace', 'replace', 'replace', 'drop', 'twice'])
  if kind == 'drop':
    del node[key]
    text = ''
  elif kind == 'twice' and isinstance(node, dict):
    node[_HOLE] = node[key]
    text = json.dumps(key)
  else:
    kind, node[key] = 'replace', _HOLE
  made = json.dumps(tree).replace(json.dumps(_HOLE), text)
  what = f'{key!r}: {kind} {text[:12]}'
  return Damage(made.encode(), what, str(key))
