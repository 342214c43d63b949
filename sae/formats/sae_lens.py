"""SAELens' file format: a folder with cfg.json and sae_weights.safetensors.

Read are the configurations of SAELens 6 and the flat ones before it, as SAELens
6.54.12 migrates them, and of architectures those that are a JumpReLU SAE:
'jumprelu', and 'standard', whose threshold is 0. What SAELens does to
activations first is folded into the weights: b_dec subtracted, and division by
their average norm. Latents then are in raw units. (SAELens folds the norm too,
but leaves latents in scaled units and changes the decoder's norms.)
"""

from collections.abc import Callable, Mapping
import os
import pathlib
import re
import shutil
import sys

import numpy as np
from safetensors.numpy import save_file

from sae.folding import fold
from sae.formats.fields import check_kind, refuse_misspelt
from sae.formats.folders import inside, new_folder, read_json, write_json
from sae.formats.hooks import hook_name, parse_hook
from sae.formats.tensor_files import TensorFile, host_weights
from sae.jumprelu import WEIGHTS, JumpReLUSAE, Origin, Weights

CONFIG_FILE = 'cfg.json'
WEIGHTS_FILE = 'sae_weights.safetensors'
SPARSITY_FILE = 'sparsity.safetensors'
# Training checkpoints hold weights that are not folded yet, and this.
SCALER_FILE = 'activation_scaler.json'
# The release whose format is written.
_VERSION = '6.54.12'

# Names in configurations before version 6 -> names since.
_RENAMED = {
  'hook_point': 'hook_name',
  'hook_point_head_index': 'hook_head_index',
  'activation_fn_str': 'activation_fn',
}
_NONE = type(None)
# What is read, and the types it may have. The first lines say what the SAE
# computes; SAELens looks for that beside the metadata only.
_COMPUTED = {
  'architecture': (str,),
  'activation_fn': (str,),
  'activation_fn_kwargs': (dict, _NONE),
  'apply_b_dec_to_input': (bool,),
  'normalize_activations': (str, bool, _NONE),
  'reshape_activations': (str,),
  'finetuning_scaling_factor': (bool, _NONE),
  'd_in': (int,),
  'd_sae': (int,),
}
_TOLD = {
  'model_name': (str, _NONE),
  'hook_name': (str, _NONE),
  'hook_head_index': (int, _NONE),
  'hook_name_out': (str, _NONE),
  'release': (str, _NONE),
  'sae_id': (str, _NONE),
  'l0': (float, _NONE),
}
# All others that SAELens has written, since version 0.2: how an SAE was
# trained, and how its model is run.
_INERT = frozenset(
  """
  dtype device metadata neuronpedia_id sae_lens_version
  sae_lens_training_version training_architecture training_architecture_details
  training model_class_name model_kwargs model_from_pretrained_kwargs
  hook_layer hook_point_layer hook_eval hook_point_eval hook_head_index_out
  hf_hook_name hf_hook_name_out
  dataset_path dataset_trust_remote_code is_dataset_tokenized streaming
  context_size prepend_bos seqpos_slice exclude_special_tokens
  use_chat_formatting disable_concat_sequences sequence_separator_token
  use_cached_activations cached_activations_path n_batches_in_buffer
  tokens_per_buffer store_batch_size store_batch_size_prompts
  activations_mixing_fraction act_store_device prefetch_llm_batches
  n_batches_for_norm_estimate llm_device
  expansion_factor from_pretrained_path b_dec_init_method
  normalize_sae_decoder noise_scale init_encoder_as_decoder_transpose
  decoder_orthogonal_init decoder_heuristic_init decoder_heuristic_init_norm
  decoder_init_norm
  l1_coefficient l1_warm_up_steps lp_norm l0_coefficient l0_warm_up_steps
  target_l0 use_ghost_grads mse_loss_normalization pre_act_loss_coefficient
  scale_sparsity_penalty_by_decoder_norm jumprelu_init_threshold
  jumprelu_bandwidth jumprelu_sparsity_loss_mode jumprelu_ste_to_input
  jumprelu_tanh_scale uses_scaling_factor finetuning_method finetuning_tokens
  training_tokens total_training_tokens train_batch_size
  train_batch_size_tokens adam_beta1 adam_beta2 lr lr_end lr_scheduler_name
  lr_warm_up_steps lr_decay_steps n_restart_cycles seed autocast autocast_lm
  compile_llm llm_compilation_mode compile_sae sae_compilation_mode
  feature_sampling_window feature_sampling_method feature_reinit_scale
  resample_batches dead_feature_window dead_feature_threshold
  dead_feature_estimation_method n_eval_batches eval_batch_size_prompts
  logger log_to_wandb log_activations_store_to_wandb
  log_optimizer_state_to_wandb log_weights_to_wandb wandb_project wandb_id
  wandb_entity wandb_log_frequency eval_every_n_wandb_logs run_name
  n_checkpoints checkpoint_path save_final_checkpoint output_path resume
  resume_from_checkpoint verbose
  """.split()
)
_TOP_K = 'which latents are active depends on the other latents'
_TRANSCODER = 'it reads one tensor and writes another'
_REFUSED = {
  'topk': _TOP_K,
  'abstopk': _TOP_K,
  'batchtopk': f'{_TOP_K}; SAELens saves trained ones as jumprelu',
  'matryoshka_batchtopk': f'{_TOP_K}; SAELens saves trained ones as jumprelu',
  'matching_pursuit': _TOP_K,
  'gated': 'its gates have weights of their own',
  'temporal': 'its latents depend on earlier tokens',
  'transcoder': _TRANSCODER,
  'skip_transcoder': _TRANSCODER,
  'jumprelu_transcoder': _TRANSCODER,
  'jumprelu_skip_transcoder': _TRANSCODER,
}
_PER_TOKEN = 'it differs from token to token, so no weights can hold it'
_UNFOLDABLE = {
  'layer_norm': _PER_TOKEN,
  'constant_norm_rescale': _PER_TOKEN,
  'covariance_whitening': (
    'whitening is not read here; SAELens folds it in at the end of training, '
    "and saves normalize_activations='none'"
  ),
}


def read_sae_lens(
  folder: str | os.PathLike,
  *,
  site: str | None = None,
  layer: int | None = None,
  place: Callable[[str, np.ndarray], object] = lambda name, array: array,
) -> tuple[Weights, Origin]:
  """Reads an SAE that SAELens saved, of version 6 or before.

  Args:
    folder: Has cfg.json and sae_weights.safetensors.
    site: Overrides nothing; it is needed, with `layer`, where the hook's name
      is not one tensor's.
    layer: As `site`.
    place: Called with the name and the float32 array of each folded weight;
      what it returns is kept.

  Returns:
    Weights that act on raw activations, and their origin.

  Raises:
    FileNotFoundError: a file is absent.
    ValueError: it is no JumpReLU or ReLU SAE, cannot be folded, names an
      unknown hook, has a field that is unknown or of a wrong type, or its files
      are damaged, do not belong together, or are links out of the folder.
  """
  folder = pathlib.Path(folder).expanduser()
  config = _read_config(inside(folder, CONFIG_FILE))
  origin = _origin(folder / CONFIG_FILE, config, site, layer)
  scale = _input_scale(folder, config)
  expected = WEIGHTS | {'log_threshold': 'F', 'scaling_factor': ''}
  optional = ['log_threshold', 'scaling_factor', 'threshold']
  if config['architecture'] == 'standard':
    del expected['threshold'], expected['log_threshold']
  sizes = {}
  for letter, key in (('D', 'd_in'), ('F', 'd_sae')):
    if key in config:
      sizes[letter] = config[key]
  file = TensorFile(
    inside(folder, WEIGHTS_FILE),
    expected,
    optional=optional,
    sizes=sizes,
    said_by=f'by {CONFIG_FILE}',
  )
  threshold = _read_threshold(file, config)
  if 'scaling_factor' in file.names:
    # Older versions wrote ones, whether or not latents were rescaled.
    if not np.allclose(file.read('scaling_factor'), 1):
      raise ValueError(
        f'{file.path}: tensor scaling_factor is not all ones. SAEs whose '
        'latents were rescaled by fine-tuning are not read.'
      )
  arrays = {name: file.read(name) for name in WEIGHTS if name != 'threshold'}
  arrays['threshold'] = threshold
  weights = fold(
    Weights(**arrays),
    input_scale=scale,
    subtract_b_dec=config['apply_b_dec_to_input'],
  )
  del arrays
  return Weights(*map(place, WEIGHTS, weights)), origin


def read_sparsity(folder: str | os.PathLike) -> np.ndarray:
  """float32 [F], log10 of how often each latent fires; from SPARSITY_FILE.

  Raises:
    FileNotFoundError, ValueError: the file is absent, or not as expected.
  """
  path = inside(pathlib.Path(folder).expanduser(), SPARSITY_FILE)
  return TensorFile(path, {'sparsity': 'F'}).read('sparsity')


def save_sae_lens(
  sae: JumpReLUSAE,
  folder: str | os.PathLike,
  *,
  context_size: int | None = None,
  dataset_path: str | None = None,
  prepend_bos: bool = True,
  sparsity: np.ndarray | None = None,
  metadata: Mapping | None = None,
):
  """Writes an SAE that `sae_lens.SAE.load_from_disk` reads.

  The folder appears when it is complete. Weights are float32, whatever the
  SAE's dtype: SAELens has one dtype for all of them, and would round the
  thresholds. An SAE of site z expects activations [..., N, H] there.

  Args:
    sae: Its origin has site and layer.
    folder: New or empty.
    context_size: Tokens per sequence in training.
    dataset_path: What it was trained on.
    prepend_bos: True if sequences began with <bos>.
    sparsity: [F], log10 of how often each latent fires.
    metadata: How it was trained; becomes `metadata.training`.

  Raises:
    FileExistsError: the folder exists and is not empty.
    ValueError: site or layer are unknown or have no name in SAELens, a weight
      is not finite, `sparsity` has another shape, or `metadata` is not JSON.
  """
  origin = sae.origin
  if origin.site is None or origin.layer is None:
    raise ValueError(
      f'{origin} does not say which site and layer it reads. Give it an Origin '
      'with both, or nobody can use the files.'
    )
  if sparsity is not None and np.shape(sparsity) != (sae.width,):
    raise ValueError(
      f'sparsity has shape {np.shape(sparsity)}, expected [F] = [{sae.width}].'
    )
  weights = host_weights(sae)
  told = {
    'model_name': re.sub(r'^google/(?=gemma)', '', origin.model or '') or None,
    'hook_name': hook_name(origin.site, origin.layer),
    'hook_head_index': None,
    'prepend_bos': prepend_bos,
    'context_size': context_size,
    'dataset_path': dataset_path,
    'sae_lens_version': _VERSION,
    'sae_lens_training_version': None,
    'release': origin.release,
    'sae_id': origin.sae_id,
    'l0': origin.l0,
    'training': dict(metadata or {}),
  }
  config = {
    'architecture': 'jumprelu',
    'd_in': sae.d_in,
    'd_sae': sae.width,
    'dtype': 'float32',
    'device': 'cpu',
    'apply_b_dec_to_input': False,
    'normalize_activations': 'none',
    'reshape_activations': 'hook_z' if origin.site == 'z' else 'none',
    'metadata': told,
  }
  with new_folder(folder) as partial:
    write_json(partial / CONFIG_FILE, config)
    files = {WEIGHTS_FILE: weights._asdict()}
    if sparsity is not None:
      files[SPARSITY_FILE] = {'sparsity': np.asarray(sparsity, np.float32)}
    for name, arrays in files.items():
      arrays = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
      save_file(arrays, partial / name, metadata={'format': 'pt'})
      # The library keeps its files from everybody else.
      shutil.copymode(partial / CONFIG_FILE, partial / name)


def _read_config(path) -> dict:
  """Returns the configuration, flat and with its defaults, and checked."""
  content = read_json(path)
  metadata = content.get('metadata') or {}
  check_kind(path, 'metadata', metadata, dict)
  if misplaced := sorted(_COMPUTED.keys() & metadata.keys()):
    raise ValueError(
      f'{path}: {misplaced[0]} is part of metadata, where SAELens does not '
      'look for it. Move it beside metadata.'
    )
  told = {**_COMPUTED, **_TOLD}
  refuse_misspelt(path, metadata, told, _INERT)
  config = {k: v for k, v in metadata.items() if k in _TOLD} | content
  for old, new in _RENAMED.items():
    if old in config and config.setdefault(new, config[old]) != config[old]:
      raise ValueError(
        f'{path}: {old} is {config[old]!r}, and {new}, another name of it, is '
        f'{config[new]!r}. Remove one of them.'
      )
    config.pop(old, None)
  for key, kinds in told.items():
    if key in config:
      check_kind(path, key, config[key], *kinds)
  for key, value in {
    'architecture': 'standard',
    'apply_b_dec_to_input': True,
    'normalize_activations': None,
    'hook_name': None,
    'hook_head_index': None,
  }.items():
    config.setdefault(key, value)
  # Before it had names, normalisation was on or off.
  named = {None: 'none', False: 'none', True: 'expected_average_only_in'}
  normalise = config['normalize_activations']
  if normalise is None or isinstance(normalise, bool):
    config['normalize_activations'] = named[normalise]

  architecture = config['architecture']
  if config.get('activation_fn', 'relu') != 'relu':
    architecture = config['activation_fn']
  if architecture not in ('jumprelu', 'standard'):
    raise ValueError(
      f'{path}: an SAE of architecture {architecture!r} is not read: '
      f'{_REFUSED.get(architecture, "it is unknown")}. Expected jumprelu or '
      'standard (with the activation_fn relu).'
    )
  if config['hook_head_index'] is not None:
    raise ValueError(
      f'{path}: hook_head_index is {config["hook_head_index"]!r}: it reads one '
      'attention head, and sites hold all heads.'
    )
  if config.get('hook_name_out') not in (None, config['hook_name']):
    raise ValueError(
      f'{path}: hook_name_out is {config["hook_name_out"]!r}: {_TRANSCODER}.'
    )
  if config.get('reshape_activations', 'none') not in ('none', 'hook_z'):
    raise ValueError(
      f'{path}: reshape_activations is {config["reshape_activations"]!r}, '
      'expected none or hook_z.'
    )
  if kwargs := config.get('activation_fn_kwargs'):
    raise ValueError(
      f'{path}: activation_fn_kwargs is {kwargs!r}, expected none for relu.'
    )
  if unknown := sorted(config.keys() - told.keys() - _INERT):
    refuse_misspelt(path, unknown, told)
    raise ValueError(
      f'{path}: unknown field {unknown[0]}={config[unknown[0]]!r:.80}'
      f'{f" (and {unknown[1:]})" if unknown[1:] else ""}. A field that might '
      'change what the SAE computes is not ignored. If it does not, move it '
      'into metadata.'
    )
  return config


def _input_scale(folder, config) -> float:
  """Returns what activations were multiplied by before they were encoded."""
  normalise = config['normalize_activations']
  if normalise == 'none':
    return 1.0
  path = folder / CONFIG_FILE
  if normalise != 'expected_average_only_in':
    raise ValueError(
      f'{path}: normalize_activations is {normalise!r}, which cannot be folded '
      f'into the weights: {_UNFOLDABLE.get(normalise, "it is unknown")}. '
      'Expected none or expected_average_only_in.'
    )
  scaler = inside(folder, SCALER_FILE)
  told = read_json(scaler) if scaler.is_file() else {}
  if told.get('has_whitening', False) is not False:
    raise ValueError(
      f'{scaler}: has_whitening is {told["has_whitening"]!r}, expected false: '
      f'{_UNFOLDABLE["covariance_whitening"]}.'
    )
  factor = told.get('scaling_factor')
  if type(factor) not in (int, float) or not 0 < factor <= sys.float_info.max:
    raise ValueError(
      f'{path}: normalize_activations is {normalise!r}, and the factor is not '
      f'known: {scaler} '
      + (f'has scaling_factor {factor!r}' if scaler.is_file() else 'is absent')
      + '. Without it all latents would be wrong. If you know it (sqrt(d_in) '
      'over the mean norm of activations), write {"scaling_factor": ...} into '
      'that file.'
    )
  return float(factor)


def _read_threshold(file, config) -> np.ndarray:
  """Returns the thresholds; training may leave some below 0, which act as 0."""
  if config['architecture'] == 'standard':
    return np.zeros(file.sizes['F'], np.float32)
  there = [x for x in ('threshold', 'log_threshold') if x in file.names]
  if len(there) != 1:
    raise ValueError(
      f'{file.path}: tensor threshold is missing; expected it, or '
      f'log_threshold as in older checkpoints, got {there or "neither"}.'
    )
  values = file.read(there[0])
  return values if there[0] == 'threshold' else np.exp(values)


def _origin(path, config, site, layer) -> Origin:
  named = parse_hook(config['hook_name'])
  if named is None and (site is None or layer is None):
    raise ValueError(
      f'{path}: the hook {config["hook_name"]!r} does not name one tensor of a '
      'layer. Say which one it reads, with site= and layer=.'
    )
  site, layer = named or (site, layer)
  model = config.get('model_name')
  if model and re.fullmatch(r'gemma-2-(2b|9b|27b)(-it)?', model):
    model = f'google/{model}'
  l0 = config.get('l0')
  return Origin(
    model=model,
    site=site,
    layer=layer,
    release=config.get('release'),
    sae_id=config.get('sae_id'),
    l0=None if l0 is None else float(l0),
  )
