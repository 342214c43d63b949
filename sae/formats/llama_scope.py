"""Llama Scope's file format (arXiv 2410.20526): read, not written.

A folder such as Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L15R-8x has
`hyperparams.json` and `checkpoints/final.safetensors`. Activations are scaled
to an average norm of sqrt(D) before encoding; the one threshold for all latents
is in raw units, as SAELens reads it (`llama_scope_sae_huggingface_loader` of
6.54.12):

  s = sqrt(D) / average norm
  z = s * x @ W_enc + b_enc;  f = z where z > s * threshold
  y = (f @ W_dec + b_dec) / s

Here s is folded: latents are f / s, in raw units. The later SAEs of the
R1-distilled model have another form (`config.json`, `log_jumprelu_threshold`),
whose units no source we have states; they are not read.
"""

from collections.abc import Callable
import math
import os
import pathlib

import numpy as np

from sae.folding import fold
from sae.formats.fields import check_kind, refuse_misspelt
from sae.formats.folders import inside, read_json
from sae.formats.hooks import parse_hook
from sae.formats.tensor_files import TensorFile
from sae.jumprelu import WEIGHTS, Origin, Weights

CONFIG_FILE = 'hyperparams.json'
WEIGHTS_FILE = 'checkpoints/final.safetensors'
# What is read; the others say how it was trained.
_READ = (
  'hook_point_in',
  'hook_point_out',
  'act_fn',
  'norm_activation',
  'apply_decoder_bias_to_pre_encoder',
  'jump_relu_threshold',
  'dataset_average_activation_norm',
  'd_model',
  'd_sae',
)
_MODEL = 'meta-llama/Llama-3.1-8B'
_TENSORS = {
  'encoder.weight': 'FD',
  'encoder.bias': 'F',
  'decoder.weight': 'DF',
  'decoder.bias': 'D',
}
# R, A and M in the folders' names.
_SITES = ('resid_post', 'attn_out', 'mlp_out')


def read_llama_scope(
  folder: str | os.PathLike,
  *,
  place: Callable[[str, np.ndarray], object] = lambda name, array: array,
) -> tuple[Weights, Origin]:
  """Reads one SAE of Llama Scope.

  Args:
    folder: Has hyperparams.json and checkpoints/.
    place: Called with the name and the float32 array of each folded weight;
      what it returns is kept.

  Returns:
    Weights that act on raw activations, and their origin.

  Raises:
    FileNotFoundError: a file is absent.
    ValueError: it is a transcoder, is not normalised as above, or its files are
      damaged or do not belong together.
  """
  folder = pathlib.Path(folder).expanduser()
  path = inside(folder, CONFIG_FILE)
  config = read_json(path)
  refuse_misspelt(path, config, _READ)
  site, layer = _read_site(path, config)
  for key, want in {
    'act_fn': 'jumprelu',
    'norm_activation': 'dataset-wise',
    'apply_decoder_bias_to_pre_encoder': False,
  }.items():
    if config.get(key, want) != want:
      raise ValueError(
        f'{path}: {key} is {config[key]!r}, expected {want!r}, as all SAEs of '
        'Llama Scope have it.'
      )
  threshold = config.get('jump_relu_threshold')
  check_kind(path, 'jump_relu_threshold', threshold, float)
  norms = config.get('dataset_average_activation_norm')
  if not isinstance(norms, dict) or norms.get('out', norms.get('in')) != (
    norms.get('in')
  ):
    raise ValueError(
      f'{path}: dataset_average_activation_norm is {norms!r}, expected an '
      'object whose in and out are one number.'
    )
  norm = norms.get('in')
  check_kind(path, 'dataset_average_activation_norm.in', norm, float)
  if norm == 0:
    raise ValueError(f'{path}: the average activation norm is 0.')

  sizes = {}
  for letter, key in (('D', 'd_model'), ('F', 'd_sae')):
    if key in config:
      check_kind(path, key, config[key], int)
      sizes[letter] = config[key]
  file = TensorFile(
    inside(folder, WEIGHTS_FILE),
    _TENSORS,
    sizes=sizes,
    said_by=f'by {CONFIG_FILE}',
  )
  scale = math.sqrt(file.sizes['D']) / norm
  weights = fold(
    Weights(
      W_enc=file.read('encoder.weight').T,
      W_dec=file.read('decoder.weight').T,
      b_enc=file.read('encoder.bias'),
      b_dec=file.read('decoder.bias'),
      threshold=np.full(file.sizes['F'], scale * threshold),
    ),
    input_scale=scale,
  )
  origin = Origin(
    model=_MODEL,
    site=site,
    layer=layer,
    release=folder.absolute().parent.name or None,
    sae_id=folder.absolute().name,
  )
  return Weights(*map(place, WEIGHTS, weights)), origin


def _read_site(path, config) -> tuple[str, int]:
  reads, writes = config.get('hook_point_in'), config.get('hook_point_out')
  if writes not in (None, reads):
    raise ValueError(
      f'{path}: a transcoder (TC) from {reads} to {writes} reconstructs '
      'nothing, and is not read as an SAE. Take one of R, A or M.'
    )
  named = parse_hook(reads) if isinstance(reads, str) else None
  if named is None or named[0] not in _SITES:
    raise ValueError(
      f'{path}: hook_point_in is {reads!r}, expected one of '
      f'{", ".join(_SITES)}, such as blocks.15.hook_resid_post.'
    )
  return named
