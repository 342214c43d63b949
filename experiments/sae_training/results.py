"""What is kept of measured SAEs: entries of results.json, arrays, exports.

  gemma_scope/layer_L/width_X/average_l0_N/params.npz   Gemma Scope's format
  sae_lens/layer_L_width_X_l0_N/                        SAELens' format
  latents/layer_L_width_X_l0_N.safetensors              per latent and sequence

N is the measured L0, rounded. Where two SAEs of a layer round to the same, the
second goes to gemma_scope/same_l0_2/layer_L/... and sae_lens/..._N_2, and so
on, in the order of the sweep; results.json says where each one is.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import os
import pathlib

import numpy as np

from experiments.runs.outputs import replaced_folder
from experiments.sae_training.sae_evaluation import Spliced
from gemma_jax.whole_files import save_tensors
from sae.formats.gemma_scope import save_gemma_scope
from sae.formats.hooks import hook_name
from sae.formats.releases import width_label
from sae.formats.sae_lens import save_sae_lens
from sae.jumprelu import JumpReLUSAE
from sae.metrics.evaluation import Metrics
from sae.metrics.uniformity import Uniformity

DEFINITIONS = {
  'kept_tokens': 'all tokens but BOS, EOS and padding; metrics count these',
  'losses': (
    'next-token cross-entropy in nats, where the predicting and the predicted '
    'token are kept; kept tokens of the site are replaced, all others stay'
  ),
  'intervals': '95 %, with rows of tokens as the independent units',
  'uniformity': 'on one random kept token of each of the first rows',
}
# Added to frequencies before the logarithm, as SAELens does.
_NEVER = 1e-10


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
  """An SAE and what was found.

  Attributes:
    sae: The SAE; its origin has site and layer.
    name: Name that tells it from the others of a run.
    label: The part of the name that differs within a layer.
    training: What sets it apart in training, for JSON.
    metrics: Reconstruction and sparsity.
    spliced: What the model loses with it.
    uniformity: Uniformity of importance; None if it was not measured.
  """

  sae: JumpReLUSAE
  name: str
  label: str
  training: Mapping
  metrics: Metrics
  spliced: Spliced
  uniformity: Uniformity | None

  @property
  def folder(self) -> str:
    """Returns its name in exports, without what tells equal ones apart."""
    return (
      f'layer_{self.sae.origin.layer}_width_{width_label(self.sae.width)}_'
      f'l0_{self.metrics.l0:.0f}'
    )


def entry(measured: Measured) -> dict:
  """Returns the entry of results.json, without arrays."""
  origin = measured.sae.origin
  uniformity = measured.uniformity
  return {
    'name': measured.name,
    'label': measured.label,
    'model': origin.model,
    'site': origin.site,
    'layer': origin.layer,
    'width': measured.sae.width,
    'd_in': measured.sae.d_in,
    'training': dict(measured.training),
    'metrics': measured.metrics.to_dict(),
    'intervals': {
      'fvu': measured.spliced.fvu.to_dict(),
      'l0': measured.spliced.l0.to_dict(),
    },
    'fidelity': measured.spliced.fidelity.to_dict(),
    'uniformity': None if uniformity is None else uniformity.to_dict(),
  }


def in_words(measured: Measured, title: str) -> str:
  """Returns the main numbers of an SAE, after a title."""
  loss, label = measured.spliced.fidelity.delta_loss, measured.sae.origin.l0
  return (
    f'{title}, L0 {measured.metrics.l0:.1f}'
    f'{f" (label {label:g})" if label else ""}, '
    f'FVU {measured.metrics.fvu:.4f}, delta loss {loss.value:.4f} '
    f'[{loss.low:.4f}, {loss.high:.4f}], n = {measured.metrics.num_tokens:,}'
  )


def has_sae_lens_name(site: str) -> bool:
  """Returns True if SAELens has a name for a site, and a place for its SAEs."""
  try:
    hook_name(site, 0)
  except ValueError:
    return False
  return True


def unique_folders(found: Sequence[Measured]) -> Iterator[tuple[str, int]]:
  """Yields each folder, and the number of the SAE among those of the folder."""
  seen = {}
  for measured in found:
    seen[measured.folder] = seen.get(measured.folder, 0) + 1
    yield measured.folder, seen[measured.folder]


def write_latents(out: str | os.PathLike, found: Sequence[Measured]) -> list:
  """Writes the arrays of all SAEs; returns their paths from `out`."""
  out, paths = pathlib.Path(out), []
  with replaced_folder(out / 'latents') as folder:
    for measured, (name, number) in zip(
      found, unique_folders(found), strict=True
    ):
      metrics, fidelity = measured.metrics, measured.spliced.fidelity
      name = f'{_numbered(name, number)}.safetensors'
      arrays = {
        'frequency': metrics.frequency,
        'mean_activation': metrics.mean_activation,
        'max_activation': metrics.max_activation,
        'activations_per_sequence': metrics.activations_per_sequence,
        'mean': metrics.mean,
        'sequence_tokens': fidelity.tokens,
      } | {f'sequence_loss_{k}': v for k, v in fidelity.losses.items()}
      arrays = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
      save_tensors(folder / name, arrays)
      paths.append(f'latents/{name}')
  return paths


def export(
  out: str | os.PathLike,
  found: Sequence[Measured],
  *,
  context: int,
  dataset: str | None,
  metadata: Mapping,
) -> list[dict]:
  """Writes all SAEs in both formats, in place of earlier exports.

  Args:
    out: The run's folder.
    found: In the order of the sweep.
    context: Tokens per row in training.
    dataset: What they were trained on.
    metadata: How, for JSON.

  Returns:
    For each SAE, format -> path from `out`, or why it was not written.
  """
  out = pathlib.Path(out)
  files = [{} for _ in found]
  places = list(unique_folders(found))
  labelled = [_labelled(measured) for measured in found]
  with replaced_folder(out / 'gemma_scope') as folder:
    for file, measured, sae, (_, number) in zip(
      files, found, labelled, places, strict=True
    ):
      root = folder if number == 1 else folder / f'same_l0_{number}'
      path = save_gemma_scope(
        sae,
        root,
        l0=measured.metrics.l0,
        metadata={**metadata, **measured.training},
      )
      file['gemma_scope'] = f'gemma_scope/{path.relative_to(folder).as_posix()}'
  if not found or not has_sae_lens_name(found[0].sae.origin.site):
    for file in files:
      file['sae_lens'] = None
      file['sae_lens_skipped'] = 'SAELens has no name for this site'
    return files
  with replaced_folder(out / 'sae_lens') as folder:
    for file, measured, sae, (name, number) in zip(
      files, found, labelled, places, strict=True
    ):
      name = _numbered(name, number)
      save_sae_lens(
        sae,
        folder / name,
        context_size=context,
        dataset_path=dataset,
        sparsity=np.log10(measured.metrics.frequency + _NEVER),
        metadata={**metadata, **measured.training},
      )
      file['sae_lens'] = f'sae_lens/{name}'
  return files


def _labelled(measured: Measured) -> JumpReLUSAE:
  """Returns the SAE with its measured L0 and its name in its origin."""
  origin, metrics = measured.sae.origin, measured.metrics
  sae_id = (
    f'layer_{origin.layer}/width_{width_label(measured.sae.width)}/'
    f'average_l0_{metrics.l0:.0f}'
  )
  origin = dataclasses.replace(origin, sae_id=sae_id, l0=float(metrics.l0))
  return JumpReLUSAE(measured.sae.weights(), origin)


def _numbered(name: str, number: int) -> str:
  return name if number == 1 else f'{name}_{number}'
