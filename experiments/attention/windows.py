"""Where attention is cut: windows of layers, and sets of heads in them."""

from collections.abc import Sequence
import dataclasses
import re

import numpy as np

import gemma_jax as gj

FROM, ALL, EACH = 'from', 'all', 'each'
_HEAD = re.compile(r'(?:L(\d{1,4}))?H(\d{1,4})')


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
  """Some layers.

  Attributes:
    width: Number of layers around the centre, fewer at the model's ends; or
      'from', all layers from the centre on.
    centre: The layer that the window is named after.
    layers: bool [L], the layers of the window.
  """

  width: int | str
  centre: int
  layers: np.ndarray

  @property
  def first(self) -> int:
    """Returns the first of the layers."""
    return int(np.flatnonzero(self.layers)[0])


@dataclasses.dataclass(frozen=True, eq=False)
class HeadSet:
  """Some heads.

  Attributes:
    name: The heads as --heads spells them.
    heads: bool [L, N], the heads of the set.
  """

  name: str
  heads: np.ndarray


def parse_windows(
  widths: Sequence[int | str], config: gj.ModelConfig
) -> list[Window]:
  """Returns windows of each width around every layer.

  Args:
    widths: Numbers of layers; 'from' is all layers from each one on.
    config: The model's config.

  Raises:
    ValueError: a width is neither, or there is none.
  """
  L = config.num_layers
  windows = []
  for width in dict.fromkeys(widths):
    if width == FROM:
      masks = np.arange(L) >= np.arange(L)[:, None]
    elif isinstance(width, int) and 1 <= width <= L:
      windows_of = gj.layer_window(gj.per_row(np.arange(L)), width, L)
      masks = np.asarray(windows_of.gate(np.arange(L)[None])) > 0
    else:
      raise ValueError(
        f'A window of {width!r} layers? Give widths from 1 to {L}, or '
        f"'{FROM}' for all layers from each one on."
      )
    windows += [Window(width, i, mask) for i, mask in enumerate(masks)]
  if not windows:
    raise ValueError('Give at least one width of windows.')
  return windows


def parse_heads(texts: Sequence[str], config: gj.ModelConfig) -> list[HeadSet]:
  """Returns sets of heads.

  Args:
    texts: 'all'; 'each', which is a set for every number of a head; or heads
      joined by '+': H2 is head 2 of every layer of a window, L5H2 that of layer
      5, where a window has it.
    config: The model's config.

  Raises:
    ValueError: a text is none of these, the model has no such head, or there is
      no text.
  """
  L, N = config.num_layers, config.num_heads
  sets = []
  for text in dict.fromkeys(texts):
    if text == ALL:
      sets.append(HeadSet(ALL, np.ones((L, N), bool)))
      continue
    names = [f'H{n}' for n in range(N)] if text == EACH else [text]
    for name in names:
      heads = np.zeros((L, N), bool)
      for part in name.split('+'):
        match = _HEAD.fullmatch(part)
        layer = match and match[1] and int(match[1])
        if not match or int(match[2]) >= N or (layer or 0) >= L:
          raise ValueError(
            f"{part!r} of --heads names no head; expected '{ALL}', '{EACH}', "
            f'H0 to H{N - 1}, or with a layer L0H0 to L{L - 1}H{N - 1}.'
          )
        heads[slice(None) if layer is None else layer, int(match[2])] = True
      sets.append(HeadSet(name, heads))
  if not sets:
    raise ValueError(f"Give at least one set of heads, such as '{ALL}'.")
  return sets
