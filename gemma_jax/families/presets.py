"""The public sizes, by the last part of their hub ids.

Parameter counts are those of HF transformers 5.23 on the meta device, which
are the published ones; the tests compare with them.
"""

from gemma_jax.config import ModelConfig, RopeScaling
from gemma_jax.families.gemma import GEMMA, GEMMA2, GEMMA3
from gemma_jax.families.gpt2 import GPT2
from gemma_jax.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from gemma_jax.families.opt import OPT


def _gemma(family, L, D, F, N, K, H, **more):
  sizes = dict(num_layers=L, d_model=D, d_ff=F, num_heads=N, num_kv_heads=K)
  return family.config(head_dim=H, **{'vocab_size': 256_000} | sizes | more)


def _gemma3(L, D, F, N, K, H=256, **more):
  local = tuple(bool((i + 1) % 6) for i in range(L))
  more = {'query_pre_attn_scalar': 256, 'local_layers': local} | more
  return _gemma(GEMMA3, L, D, F, N, K, H, **{'vocab_size': 262_144} | more)


def _gemma2(L, D, F, N, K, H, scalar):
  even = tuple(i % 2 == 0 for i in range(L))
  return _gemma(
    GEMMA2, L, D, F, N, K, H, query_pre_attn_scalar=scalar, local_layers=even
  )


def _llama(L, D, F, N, K, H, V, family=LLAMA, **more):
  sizes = dict(num_layers=L, d_model=D, d_ff=F, num_heads=N, num_kv_heads=K)
  return family.config(head_dim=H, vocab_size=V, **sizes, **more)


def _llama3(L, D, F, N, K, H, factor=None, tied=False):
  """Llama 3 (no factor) and 3.1 to 3.3."""
  scaling = factor and RopeScaling(
    factor=factor,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_positions=8192,
  )
  return _llama(
    *(L, D, F, N, K, H, 128_256),
    rope_theta=500_000.0,
    rope_scaling=scaling,
    norm_eps=1e-5,
    max_positions=131_072 if factor else 8192,
    tied=tied,
    bos_id=128_000,
    eos_ids=(128_001,),
  )


def _smollm2(L, D, F, N, K, theta=100_000.0):
  return _llama(
    *(L, D, F, N, K, 64, 49_152),
    rope_theta=theta,
    norm_eps=1e-5,
    max_positions=8192,
    tied=True,
    bos_id=0,
    eos_ids=(0,),
  )


def _plain(family, L, D, N, **more):
  """GPT-2 and OPT: heads of D / N, and an MLP of 4 D."""
  return family.config(
    num_layers=L,
    d_model=D,
    d_ff=4 * D,
    num_heads=N,
    num_kv_heads=N,
    head_dim=D // N,
    **more,
  )


def _gpt2(L, D, N):
  return _plain(GPT2, L, D, N, position_rows=1024)


def _opt(L, D, N):
  rows = {'position_rows': 2050, 'position_offset': 2}
  return _plain(OPT, L, D, N, vocab_size=50_272, **rows)


_QWEN = {'rope_theta': 1_000_000.0, 'window': None}
_LINEAR8 = {'rope_scaling': RopeScaling(factor=8.0)}
PRESETS: dict[str, ModelConfig] = {
  'gemma-2b': _gemma(GEMMA, 18, 2048, 16_384, 8, 1, 256),
  'gemma-7b': _gemma(GEMMA, 28, 3072, 24_576, 16, 16, 256),
  'gemma-2-2b': _gemma2(26, 2304, 9216, 8, 4, 256, 256),
  'gemma-2-9b': _gemma2(42, 3584, 14_336, 16, 8, 256, 256),
  # The scalar is d_model / num_heads, not head_dim.
  'gemma-2-27b': _gemma2(46, 4608, 36_864, 32, 16, 128, 144),
  'gemma-3-270m': _gemma3(
    18, 640, 2048, 4, 1, window=512, max_positions=32_768
  ),
  'gemma-3-1b': _gemma3(26, 1152, 6912, 4, 1, window=512, max_positions=32_768),
  'gemma-3-4b': _gemma3(
    34, 2560, 10_240, 8, 4, window=1024, vocab_size=262_208, **_LINEAR8
  ),
  'gemma-3-12b': _gemma3(
    48, 3840, 15_360, 16, 8, window=1024, vocab_size=262_208, **_LINEAR8
  ),
  'gemma-3-27b': _gemma3(
    *(62, 5376, 21_504, 32, 16, 128),
    window=1024,
    vocab_size=262_208,
    query_pre_attn_scalar=168,
    **_LINEAR8,
  ),
  'llama-2-7b': _llama(
    32, 4096, 11_008, 32, 32, 128, 32_000, norm_eps=1e-5, max_positions=4096
  ),
  'llama-3-8b': _llama3(32, 4096, 14_336, 32, 8, 128),
  'llama-3.1-8b': _llama3(32, 4096, 14_336, 32, 8, 128, factor=8.0),
  'llama-3.1-70b': _llama3(80, 8192, 28_672, 64, 8, 128, factor=8.0),
  'llama-3.3-70b': _llama3(80, 8192, 28_672, 64, 8, 128, factor=8.0),
  'llama-3.2-1b': _llama3(16, 2048, 8192, 32, 8, 64, factor=32.0, tied=True),
  'llama-3.2-3b': _llama3(28, 3072, 8192, 24, 8, 128, factor=32.0, tied=True),
  'smollm2-135m': _smollm2(30, 576, 1536, 9, 3),
  'smollm2-360m': _smollm2(32, 960, 2560, 15, 5),
  'smollm2-1.7b': _smollm2(24, 2048, 8192, 32, 32, theta=130_000.0),
  'mistral-7b-v0.1': _llama(
    *(32, 4096, 14_336, 32, 8, 128, 32_000, MISTRAL),
    norm_eps=1e-5,
    max_positions=32_768,
    local_layers=(True,) * 32,
  ),
  'qwen2.5-0.5b': _llama(
    24, 896, 4864, 14, 2, 64, 151_936, QWEN2, tied=True, **_QWEN
  ),
  'qwen3-0.6b': _llama(
    *(28, 1024, 3072, 16, 8, 128, 151_936, QWEN3),
    tied=True,
    **_QWEN | {'max_positions': 40_960},
  ),
  'gpt2': _gpt2(12, 768, 12),
  'gpt2-medium': _gpt2(24, 1024, 16),
  'gpt2-large': _gpt2(36, 1280, 20),
  'gpt2-xl': _gpt2(48, 1600, 25),
  'opt-125m': _opt(12, 768, 12),
  'opt-1.3b': _opt(24, 2048, 32),
  'opt-2.7b': _opt(32, 2560, 32),
  'opt-6.7b': _opt(32, 4096, 32),
  'opt-13b': _opt(40, 5120, 40),
  'opt-30b': _opt(48, 7168, 56),
  'opt-66b': _opt(64, 9216, 72),
}


def preset(name: str) -> ModelConfig:
  """Returns the configuration of a public size.

  Args:
    name: Such as 'gemma-2-2b' or 'gpt2'; a hub id ('google/gemma-2-2b-it') and
      the endings of tuned models are understood.

  Raises:
    KeyError: it is not known; the error lists those that are.
  """
  short = name.rpartition('/')[2].lower()
  for ending in ('', '-it', '-pt', '-instruct', '-hf', '-base'):
    if short.removesuffix(ending) in PRESETS:
      return PRESETS[short.removesuffix(ending)]
  raise KeyError(
    f'{name!r} is not a known size. Known are {", ".join(PRESETS)}; for '
    'another, read its config.json with read_config.'
  )
