"""Names of published SAEs: Gemma Scope (arXiv 2408.05147).

Three spellings are understood:

  'gemma-scope-2b-pt-res', 'layer_12/width_16k/average_l0_82'   as on the hub
  'gemma-scope-2b-pt-res-canonical', 'layer_12/width_16k/canonical'   SAELens
  'gemma-2-2b/12-gemmascope-res-16k'                                Neuronpedia

Its three sites (paper, section 3.1): `res` is resid_post, `mlp` is mlp_out,
which is after the post-norm, and `att` is z, the heads' outputs side by side
before W_O.
"""

import dataclasses
import difflib
import functools
import os
import pathlib
import re

from sae.formats.gemma_scope_table import L0S
from sae.jumprelu import Origin

_SITES = {'res': 'resid_post', 'mlp': 'mlp_out', 'att': 'z'}
# Size of Gemma 2 -> layers, width of the residual stream, and heads times head
# size: config.json of google/gemma-2-*.
_MODELS = {
  '2b': (26, 2304, 8 * 256),
  '9b': (42, 3584, 16 * 256),
  '27b': (46, 4608, 32 * 128),
}
RELEASES = tuple(
  f'gemma-scope-{model}-{site}{suffix}'
  for model in ('2b-pt', '9b-pt', '9b-it', '27b-pt')
  for site in _SITES
  for suffix in ('', '-canonical')
)
PARAMS_FILE = 'params.npz'
_CANONICAL = 'canonical'
_SAE_ID = re.compile(
  r'layer_(\d+)/width_(\d+[km]?)/(?:average_l0_(\d+)|canonical)'
)


class UnknownSAE(KeyError, ValueError):
  """A release or an SAE that is not there.

  It is a ValueError too, so that a program can tell it from its own faults.
  """

  def __str__(self) -> str:
    return self.args[0]  # which a KeyError puts in quotes


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReleasedSAE:
  """Says where a published SAE is, and what it reads.

  Attributes:
    repo: On the hub, such as 'google/gemma-scope-2b-pt-res'.
    path: Folder in the repository; the file in it is `PARAMS_FILE`.
    origin: Origin; its l0 is that of the folder's name.
    d_in: D, the width of what it reads.
    width: F, its number of latents.
  """

  repo: str
  path: str
  origin: Origin
  d_in: int
  width: int


def resolve(release: str, sae_id: str | None = None) -> ReleasedSAE:
  """Finds a published SAE by name.

  Args:
    release: One of RELEASES, with or without 'google/', or a whole Neuronpedia
      id; with '__l0-22' at its end, such an id is not the canonical SAE.
    sae_id: 'layer_12/width_16k/average_l0_82', or with 'canonical' in place of
      the L0. None with a Neuronpedia id.

  Raises:
    UnknownSAE: there is no such release or SAE; the error suggests the nearest.
      Where no list of the L0s is known (27b-pt-att and -mlp, 9b-it-att and
      -mlp), any of them is taken.
    ValueError: it is published, but is no SAE of a layer's activations.
  """
  if (parts := _parse_neuronpedia(release, sae_id)) is not None:
    name, layer, label, l0 = parts
  else:
    name = release_name(release)
    if sae_id is None:
      raise UnknownSAE(
        f'{release!r} is a release; say which of its SAEs, such as '
        f'{_example(name)!r}.'
      )
    _refuse_others(sae_id)
    match = _SAE_ID.fullmatch(sae_id)
    if not match:
      raise UnknownSAE(
        f'{sae_id!r} is not the name of an SAE of {name}, expected the form of '
        f'{_example(name)!r}.{_suggest(sae_id, _all_ids(name))}'
      )
    layer, label, l0 = int(match[1]), match[2], match[3]
    l0 = None if l0 is None else int(l0)
  return _describe(name, layer, label, _known_l0(name, layer, label, l0))


def list_saes(release: str) -> list[str]:
  """Returns the ids of a release, by layer; of a '-canonical' one, the
  canonical ids.

  Raises:
    UnknownSAE: there is no such release, or no list of its SAEs is known.
    ValueError: as `resolve`.
  """
  name = release_name(release)
  ids = _all_ids(name)
  if not ids:
    raise UnknownSAE(
      f'No list of the SAEs of {name} is known here; see '
      f'https://huggingface.co/google/{name}/tree/main.'
    )
  canonical = release.endswith('-canonical')
  return [x for x in ids if x.endswith(f'/{_CANONICAL}') == canonical]


def release_name(release: str) -> str:
  """Returns the name of a Gemma Scope release without 'google/' and
  '-canonical'.

  Raises:
    UnknownSAE: there is none of that name; the error suggests the nearest.
    ValueError: as `resolve`.
  """
  _refuse_others(release)
  name = release.removeprefix('google/')
  if name not in RELEASES:
    raise UnknownSAE(
      f'{release!r} is not a known release of SAEs.{_suggest(name, RELEASES)} '
      f'Known are {", ".join(RELEASES[::2])}, with -canonical too, and '
      'Neuronpedia ids such as gemma-2-2b/12-gemmascope-res-16k.'
    )
  return name.removesuffix('-canonical')


def released_at(folder: str | os.PathLike) -> ReleasedSAE | None:
  """Returns what the path of a folder says, whether it is in the tables or not.

  Args:
    folder: Such as '.../gemma-scope-2b-pt-res/layer_0/width_16k/average_l0_13';
      the hub's cache ('models--google--gemma-scope-2b-pt-res/snapshots/...')
      is understood.

  Returns:
    None if the path names no release, or no SAE of it.

  Raises:
    ValueError: as `resolve`.
  """
  parts = [
    part.rpartition('--')[2]
    for part in pathlib.PurePath(os.path.abspath(folder)).parts
  ]
  named = [i for i, x in enumerate(parts) if x.startswith('gemma-scope-')]
  if not named:
    return None
  _refuse_others('/'.join(parts[named[-1] :]))
  name = parts[named[-1]]
  match = _SAE_ID.fullmatch('/'.join(parts[-3:]))
  if name not in RELEASES or not match or match[3] is None:
    return None
  name = name.removesuffix('-canonical')
  return _describe(name, int(match[1]), match[2], int(match[3]))


def width_label(width: int) -> str:
  """Returns what folders call a number of latents.

  Powers of two from 1,024 on are counted in thousands or millions, rounded
  down: 1k, 2k, 4k, 8k, 16k, 32k, 65k, 131k, 262k, 524k, 1m, 2m. Others are
  written out.
  """
  if width < 1024 or width & (width - 1):
    return str(width)
  return f'{width // 1000}k' if width < 2**20 else f'{width // 10**6}m'


def parse_width_label(label: str) -> int:
  """Returns the number of latents; ValueError if no width is called that."""
  if label.isdecimal():
    return int(label)
  for power in range(10, 40):
    if width_label(2**power) == label:
      return 2**power
  raise ValueError(
    f'{label!r} is not a width; expected a number such as 1536, or a power of '
    'two such as 1k, 16k, 65k or 1m.'
  )


@functools.cache
def _table(name: str) -> dict[tuple[int, str], tuple[list[int], int | None]]:
  """(layer, width label) -> its L0s, the canonical one."""
  table = {}
  for (release, label), text in L0S.items():
    if f'gemma-scope-{release}' != name:
      continue
    for entry in text.split(';'):
      layer, _, options = entry.partition(':')
      l0s = [int(l0.rstrip('*')) for l0 in options.split()]
      canonical = [l0 for l0 in options.split() if l0.endswith('*')]
      canonical = int(canonical[0][:-1]) if canonical else None
      table[int(layer), label] = l0s, canonical
  return table


def _known_l0(name, layer, label, l0):
  """Returns the L0 that is meant (None is canonical), or raises UnknownSAE."""
  table = _table(name)
  what = f'layer_{layer}/width_{label}'
  num_layers = _MODELS[name.split('-')[2]][0]
  layers = sorted({layer for layer, _ in table}) or list(range(num_layers))
  if layer not in layers:
    near = sorted(layers, key=lambda x: abs(x - layer))[:4]
    raise UnknownSAE(
      f'{name} has no SAE of layer {layer}; it has '
      + (f'layers 0 to {layers[-1]}' if len(layers) > 9 else f'layers {layers}')
      + f'. Nearest: {", ".join(f"layer_{x}" for x in sorted(near))}.'
    )
  if not table:
    if l0 is None:
      raise UnknownSAE(
        f'{name}: which SAE of {what} is canonical is not known. Name its L0: '
        f'{what}/average_l0_...; see https://huggingface.co/google/{name}.'
      )
    return l0
  if (layer, label) not in table:
    widths = [label for at, label in table if at == layer]
    raise UnknownSAE(
      f'{name} has no width {label} at layer {layer}; there it has '
      f'{", ".join(widths)}. Nearest: layer_{layer}/width_'
      f'{min(widths, key=lambda x: _distance(x, label))}.'
    )
  l0s, canonical = table[layer, label]
  ids = [
    f'{what}/average_l0_{x}'
    for x in sorted(l0s, key=lambda x: abs(x - (l0 or 100)))
  ]
  if l0 is None and canonical is None:
    raise UnknownSAE(
      f'{name}: none of {what} is called canonical. Name its L0: '
      f'{", ".join(ids)}.'
    )
  if l0 is not None and l0 not in l0s:
    raise UnknownSAE(
      f'{name} has no {what}/average_l0_{l0}. Nearest: {", ".join(ids[:3])}. '
      f'Its L0s there are {", ".join(map(str, l0s))}. If you have its folder, '
      'pass the path.'
    )
  return canonical if l0 is None else l0


def _distance(one, other):
  try:
    return abs(parse_width_label(one) - parse_width_label(other))
  except ValueError:
    return 0


def _describe(name, layer, label, l0) -> ReleasedSAE:
  _, _, size, training, site = name.split('-')
  _, d_model, d_heads = _MODELS[size]
  path = f'layer_{layer}/width_{label}/average_l0_{l0}'
  return ReleasedSAE(
    repo=f'google/{name}',
    path=path,
    origin=Origin(
      model=f'google/gemma-2-{size}' + ('-it' if training == 'it' else ''),
      site=_SITES[site],
      layer=layer,
      release=name,
      sae_id=path,
      l0=float(l0),
    ),
    d_in=d_heads if site == 'att' else d_model,
    width=parse_width_label(label),
  )


def _parse_neuronpedia(release, sae_id):
  """(release, layer, width label, L0 or None); None if it is no such id."""
  whole = release if sae_id is None else f'{release}/{sae_id}'
  match = re.fullmatch(
    r'gemma-2-(2b|9b|27b)(-it)?/(\d+)-gemmascope-(\w+?)-(\d+[km]?)(?:__l0-(\d+))?',
    whole,
  )
  if not match:
    return None
  size, chat, layer, site, label, l0 = match.groups()
  name = f'gemma-scope-{size}-{"it" if chat else "pt"}-{site}'
  return release_name(name), int(layer), label, None if l0 is None else int(l0)


def _refuse_others(name: str):
  """Raises for what is published under such names and is not read here."""
  if 'transcoder' in name:
    raise ValueError(
      f'{name}: a transcoder reads one tensor and writes another, so it '
      'reconstructs nothing and is not loaded as an SAE. The MLP outputs have '
      'SAEs, in gemma-scope-2b-pt-mlp.'
    )
  if 'embedding' in name.split('/'):
    raise ValueError(
      f'{name}: SAEs of the token embedding read no site of a layer, and are '
      'not loaded.'
    )
  if re.search(r'gemma-scope-2-', name):
    raise ValueError(
      f'{name}: Gemma Scope 2 is for Gemma 3. The SAEs of Gemma 2 are those of '
      'Gemma Scope, such as gemma-scope-2b-pt-res.'
    )


def _all_ids(name) -> list[str]:
  ids = []
  for (layer, label), (l0s, canonical) in sorted(
    _table(name).items(), key=lambda x: (x[0][0], parse_width_label(x[0][1]))
  ):
    what = f'layer_{layer}/width_{label}'
    ids += [f'{what}/average_l0_{l0}' for l0 in l0s]
    ids += [f'{what}/{_CANONICAL}'] if canonical is not None else []
  return ids


def _example(name):
  ids = [x for x in _all_ids(name) if x.endswith(_CANONICAL)]
  return ids[-1] if ids else 'layer_10/width_131k/average_l0_70'


def _suggest(name, known) -> str:
  near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
  return f' Did you mean {" or ".join(near)}?' if near else ''
