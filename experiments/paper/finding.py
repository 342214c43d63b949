"""A value in results.json, by its path."""

from collections.abc import Mapping, Sequence
import re

_SELECTOR = re.compile(r'\[(.*)\]')


def find(results: Mapping, path: str):
  """Follows a path such as 'arms/[kind=steered,target=known]/dose'.

  Steps are keys of mappings; '[2]' is an element of a list; '[name=value,...]'
  its first element whose entries read so.

  Args:
    results: As results.json has them.
    path: Steps with '/' between them.

  Raises:
    KeyError: a step leads nowhere; says which, and what there is.
  """
  here, walked = results, []
  for step in path.split('/'):
    selector = _SELECTOR.fullmatch(step)
    if selector:
      here = _element(here, selector[1], '/'.join(walked) or 'results')
    elif isinstance(here, Mapping) and step in here:
      here = here[step]
    else:
      there = list(here)[:12] if isinstance(here, Mapping) else type(here)
      raise KeyError(
        f'{path}: no {step!r} in {"/".join(walked) or "results"}, which has '
        f'{there}.'
      )
    walked.append(step)
  return here


def _element(found, selector: str, where: str):
  if not isinstance(found, Sequence) or isinstance(found, str):
    raise KeyError(f'{where} is no list: [{selector}] selects nothing.')
  if selector.lstrip('-').isdecimal():
    if not -len(found) <= int(selector) < len(found):
      raise KeyError(f'{where} has {len(found)} elements, no [{selector}].')
    return found[int(selector)]
  wanted = dict(part.split('=', 1) for part in selector.split(','))
  for element in found:
    if isinstance(element, Mapping) and all(
      key in element and str(element[key]) == value
      for key, value in wanted.items()
    ):
      return element
  raise KeyError(f'{where} has no element with {selector}.')
