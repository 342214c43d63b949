"""Which SAEs an experiment reads: chosen by name, loaded, told apart."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import re

import numpy as np

from experiments.inputs.models import BUNDLED, SAES
from experiments.runs.stages import digest
import gemma_jax as gj
from sae.formats.loading import load_sae
from sae.formats.releases import PARAMS_FILE, list_saes, resolve, width_label
from sae.jumprelu import JumpReLUSAE, Origin

_SAE_ID = re.compile(r'layer_(\d+)/width_(\w+)/(?:average_l0_(\d+)|canonical)')


@dataclasses.dataclass(frozen=True, kw_only=True)
class SAESpec:
  """An SAE that was chosen and not yet read.

  Attributes:
    source: A folder or a release.
    sae_id: Name of the SAE there.
    layer: Layer that it reads.
  """

  source: str
  sae_id: str
  layer: int

  def load(self, reader: gj.CheckpointReader) -> JumpReLUSAE:
    """Reads the SAE.

    Raises:
      ValueError: it is of another width than the model, or of a site that has
        no such width; or see `load_sae`.
    """
    if not pathlib.Path(self.source).expanduser().exists():
      released = resolve(self.source, self.sae_id)  # before any download
      _check_width(released.origin, released.d_in, reader)
    sae = load_sae(self.source, self.sae_id)
    site = sae.origin.site
    if site is None:
      raise ValueError(
        f'{self.source}/{self.sae_id} does not say which site it reads.'
      )
    sae.check_reads(site, self.layer)
    _check_width(sae.origin, sae.d_in, reader)
    return sae


def sae_fingerprint(sae: JumpReLUSAE) -> str:
  """Returns a hash in hex of where an SAE reads and of all its weights."""
  at = f'{sae.origin.site}.{sae.origin.layer}'.encode()
  return digest(np.frombuffer(at, np.uint8), list(sae.weights()))


def sae_fingerprints(
  saes: Mapping[int, SAESpec], reader: gj.CheckpointReader
) -> dict[str, str]:
  """Returns what tells SAEs apart, layer by layer; each is read and let go."""
  return {
    str(layer): sae_fingerprint(each.load(reader))
    for layer, each in saes.items()
  }


def _check_width(origin: Origin, d_in: int, reader: gj.CheckpointReader):
  width = gj.site_width(reader.config, origin.site)
  if d_in != width:
    raise ValueError(
      f'{origin} reads vectors of {d_in}; {origin.site} of {reader.folder} has '
      f'{width}. It is of another model.'
    )


def choose_saes(
  source: str,
  config: gj.ModelConfig,
  *,
  layers: Sequence[int] | None = None,
  width: str | None = None,
  l0: float | None = None,
) -> list[SAESpec]:
  """Returns one SAE per layer, by names alone.

  Args:
    source: As --sae, after `resolve_path`.
    config: Configuration of the model.
    layers: As the flag.
    width: As the flag.
    l0: As the flag.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: there is no such release or SAE, a layer is not one of the
      model's, or a choice is not unique.
  """
  folder = pathlib.Path(source).expanduser()
  ids = _ids_in(folder) if folder.is_dir() else list_saes(source)
  found = {}
  for sae_id in ids:
    layer, label, its_l0 = _SAE_ID.fullmatch(sae_id).groups()
    found.setdefault(int(layer), {}).setdefault(label, {})[its_l0] = sae_id
  if layers is None:
    wanted = sorted(set(found) & set(range(config.num_layers - 1)))
  else:
    wanted = _layers(layers, config)
  missing = sorted(set(wanted) - set(found))
  if missing or not wanted:
    raise ValueError(
      f'{source} has no SAE of layer {", ".join(map(str, missing)) or "any"}; '
      f'it has layers {", ".join(map(str, sorted(found)))}, the model '
      f'{config.num_layers} of them.'
    )
  return [
    SAESpec(
      source=source,
      sae_id=_one(source, layer, found[layer], width, l0),
      layer=layer,
    )
    for layer in wanted
  ]


def saes_by_layer(
  source: str | None,
  model: str,
  config: gj.ModelConfig,
  layers: Sequence[int] | None = None,
) -> dict[int, SAESpec]:
  """Returns the SAEs that --sae names, one per layer; {} for none.

  Args:
    source: A release or a folder. None is none, but the bundled model's own for
      that.
    model: What --model names.
    config: Configuration of the model.
    layers: Layers to take; None for all.

  Raises:
    FileNotFoundError, ValueError: see `choose_saes`.
  """
  if source is None and model == BUNDLED:
    source = str(SAES)
  if source is None:
    return {}
  chosen = choose_saes(source, config, layers=layers)
  return {each.layer: each for each in chosen}


def _ids_in(folder: pathlib.Path) -> list[str]:
  ids = [
    file.parent.relative_to(folder).as_posix()
    for file in folder.glob(f'layer_*/width_*/*/{PARAMS_FILE}')
  ]
  ids = sorted(sae_id for sae_id in ids if _SAE_ID.fullmatch(sae_id))
  if not ids:
    raise FileNotFoundError(
      f'{folder} has no layer_*/width_*/average_l0_*/{PARAMS_FILE}; expected '
      'the layout of Gemma Scope.'
    )
  return ids


def _layers(given: Sequence[int], config: gj.ModelConfig) -> list[int]:
  layers = sorted(set(given))
  if not all(0 <= layer < config.num_layers for layer in layers):
    raise ValueError(
      f'--layers={",".join(map(str, given))} must be layers from 0 to '
      f'{config.num_layers - 1}.'
    )
  return layers


def _one(source, layer, widths, width, l0) -> str:
  """Returns the id of the SAE that is meant, of those of a layer."""
  label = width or (next(iter(widths)) if len(widths) == 1 else '16k')
  if re.fullmatch(r'\d{1,9}', label):
    label = width_label(int(label))
  if label not in widths:
    raise ValueError(
      f'{source} has no SAE of layer {layer} and width {label}; it has '
      f'{", ".join(widths)}. Pass --width.'
    )
  choices = dict(widths[label])
  canonical = choices.pop(None, None)
  if l0 is not None and choices:
    return choices[min(choices, key=lambda each: abs(int(each) - l0))]
  if len(choices) == 1:
    return next(iter(choices.values()))
  # A folder says nothing of which is canonical; the release that it is named
  # after does, and load_sae knows it.
  return canonical or f'layer_{layer}/width_{label}/canonical'
