"""Two behaviours: the right one, and the published one.

'default' is what paper results should have been measured with. 'reference'
repeats the code of arXiv 2411.14257, defects included, so that numbers can be
compared with published ones.
"""

MODES = ('default', 'reference')


def is_reference(mode: str) -> bool:
  """Returns True for 'reference'; ValueError if it is not one of MODES."""
  if mode not in MODES:
    raise ValueError(f'mode is {mode!r}, expected one of {MODES}.')
  return mode == 'reference'
