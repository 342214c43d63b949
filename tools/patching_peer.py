"""TransformerLens with our weights, to time our patch sweep against."""

import importlib
import tempfile
import warnings

import numpy as np
import torch
import transformers

import gemma_jax as gj

# Family -> TransformerLens' module and function that convert HF's weights.
_CONVERTERS = {
  'gemma2': ('gemma', 'convert_gemma_weights'),
  'llama': ('llama', 'convert_llama_weights'),
}


class TransformerLens:
  """A HookedTransformer with our weights, by way of HF."""

  def __init__(self, model: gj.Decoder):
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions

    config = model.config
    if config.family not in _CONVERTERS or config.rope_scaling is not None:
      raise ValueError(
        f'A {config.family} model is not compared here; expected one of '
        f'{", ".join(_CONVERTERS)}, without scaled rotations. '
        '--peer=false times ours alone.'
      )
    acts = {'gelu_tanh': 'gelu_pytorch_tanh', 'silu': 'silu'}
    settings = HookedTransformerConfig(
      n_layers=config.num_layers,
      d_model=config.d_model,
      d_head=config.head_dim,
      n_heads=config.num_heads,
      n_key_value_heads=config.num_kv_heads,
      d_mlp=config.d_ff,
      d_vocab=config.vocab_size,
      n_ctx=64,
      eps=config.norm_eps,
      act_fn=acts[config.activation],
      normalization_type='RMS',
      positional_embedding_type='rotary',
      rotary_base=config.rope_theta,
      rotary_dim=config.head_dim,
      rotary_adjacent_pairs=False,
      attn_scale=config.query_pre_attn_scalar**0.5,
      use_local_attn=any(config.local_layers),
      window_size=config.window,
      attn_types=[
        'local' if local else 'global' for local in config.local_layers
      ],
      attn_scores_soft_cap=config.attn_softcap or -1.0,
      output_logits_soft_cap=config.final_softcap or -1.0,
      gated_mlp=config.gated,
      final_rms=True,
      use_normalization_before_and_after=config.post_norms,
      original_architecture=gj.FAMILIES[config.family].architecture,
      device='cpu',
    )
    with tempfile.TemporaryDirectory() as folder:
      gj.save_checkpoint(model, folder)
      hf = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', DeprecationWarning)
      self.model = HookedTransformer(settings).eval()
    module, function = _CONVERTERS[config.family]
    module = importlib.import_module(f'{weight_conversions.__name__}.{module}')
    # What it makes itself, masks and rotations, is not in the checkpoint.
    left = self.model.load_state_dict(
      getattr(module, function)(hf, settings), strict=False
    )
    made = ('mask', 'IGNORE', 'rotary_sin', 'rotary_cos')
    missing = [k for k in left.missing_keys if not k.endswith(made)]
    if missing or left.unexpected_keys:
      raise ValueError(f'Weights do not fit TransformerLens: {left}.')

  @torch.no_grad()
  def __call__(self, base, donor, answers) -> np.ndarray:
    """Returns mean differences of logits after each patch, [L, T]."""
    from transformer_lens import patching

    answers = torch.from_numpy(answers).long()

    def metric(logits):
      chosen = logits[:, -1].gather(1, answers)
      return (chosen[:, 0] - chosen[:, 1]).mean()

    _, cache = self.model.run_with_cache(torch.from_numpy(donor).long())
    found = patching.get_act_patch_resid_pre(
      self.model, torch.from_numpy(base).long(), cache, metric
    )
    return found.numpy()
