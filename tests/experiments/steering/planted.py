"""A model whose refusals are planted: it declines iff a direction is there.

Four features of the stream are made by hand. A token of an unknown entity's
name has feature N. The second layer's attention, uniform over all tokens, turns
any N before a place into S there, by its post-norm always as much: 4. At the
last token of a prompt 'Paris' is the most likely token, unless S is above 2:
then it is 'sorry'. After either comes the end of the turn.

So adding S makes the model refuse, taking S away makes it answer, and nothing
else does anything.
"""

import functools

import jax.numpy as jnp
import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from experiments import entities as entities_lib
from experiments.entities import Entity
from experiments.latents import LatentId, Target
import gemma_jax as gj

SPECIALS = ('<pad>', '<eos>', '<bos>', '<start_of_turn>', '<end_of_turn>')
ALL_KNOWN = {
  'player': [f'Kim{i} Lee{i}' for i in range(10)],
  'city': [f'Old{i} Town{i}' for i in range(10)],
}
ALL_UNKNOWN = {
  'player': [f'Jon{i} Doe{i}' for i in range(10)],
  'city': [f'New{i} Ville{i}' for i in range(10)],
}
KNOWN = {'player': ALL_KNOWN['player'][:6], 'city': ALL_KNOWN['city'][:5]}
UNKNOWN = {'player': ALL_UNKNOWN['player'][:5], 'city': ALL_UNKNOWN['city'][:6]}
ATTRIBUTE = {'player': 'place_birth', 'city': 'country'}
D = 16
S = np.eye(D, dtype=np.float32)[3]
# No token has these features, and nothing reads them.
NOTHING = np.eye(D, dtype=np.float32)[8:12]
# Where S is written.
LAYER = 1
# Of an SAE there: latent 0 makes the model refuse, latent 1 makes it answer.
ROWS = np.stack([S, -S, *NOTHING])


def entities(names: dict[str, list[str]]) -> dict[str, list[Entity]]:
  """The first of each type is of Rome, the others of Paris."""
  return {
    kind: [
      Entity(name, kind, {ATTRIBUTE[kind]: 'Paris' if i else 'Rome'})
      for i, name in enumerate(each)
    ]
    for kind, each in names.items()
  }


def target(label: str) -> Target:
  """+S makes the model refuse, and -S makes it answer; rows of norm 0.5."""
  sign = {'unknown': 0.5, 'known': -0.5}[label]
  return Target(
    label=label,
    id=LatentId('resid_post', LAYER, 3),
    direction=sign * S,
    controls={
      LatentId('resid_post', LAYER, 10 + i): (i + 1) * row
      for i, row in enumerate(NOTHING)
    },
    mean_difference=10 * sign * S + NOTHING[0],
  )


@functools.cache
def tokenizer() -> gj.Tokenizer:
  return gj.Tokenizer(backend())


def backend() -> tokenizers.Tokenizer:
  """One token per word, with the space before it."""
  words = {'user', 'model', '\n', '?', '▁the', 'sorry', 'Paris'}
  for prompt_type in entities_lib.PROMPT_TYPES.values():
    first, *others = (prompt_type.relation or 'x').split()
    words |= {first, f'▁{prompt_type.entity_type}'}
    words |= {f'▁{word}' for word in others}
  for names in (ALL_KNOWN, ALL_UNKNOWN):
    for each in names.values():
      words |= {f'▁{word}' for name in each for word in name.split()}
  vocab = {word: i for i, word in enumerate([*SPECIALS, *sorted(words)])}
  made = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token='<pad>'))
  made.normalizer = normalizers.Replace(' ', '▁')
  made.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split('▁', 'merged_with_next'),
      pre_tokenizers.Split('?', 'isolated'),
      pre_tokenizers.Split('\n', 'isolated'),
    ]
  )
  made.decoder = decoders.Sequence(
    [decoders.Replace('▁', ' '), decoders.Fuse()]
  )
  made.add_special_tokens(
    [tokenizers.AddedToken(t, normalized=False) for t in SPECIALS]
  )
  return made


@functools.cache
def model() -> gj.Decoder:
  tok = tokenizer()
  config = gj.FAMILIES['gemma2'].config(
    num_layers=2,
    local_layers=(True, False),
    d_model=D,
    d_ff=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    query_pre_attn_scalar=8,
    vocab_size=tok.vocab_size,
    eos_ids=tok.stop_ids,
  )
  L, N, K, H, F = 2, 2, 1, 8, 8
  shapes = {
    'pre_attn_norm': (L, D),
    'wq': (L, N, H, D),
    'wk': (L, K, H, D),
    'wv': (L, K, H, D),
    'wo': (L, D, N, H),
    'post_attn_norm': (L, D),
    'pre_mlp_norm': (L, D),
    'gate': (L, F, D),
    'up': (L, F, D),
    'down': (L, D, F),
    'post_mlp_norm': (L, D),
    'final_norm': (D,),
  }
  weights = {
    name: np.zeros(shape, np.float32) for name, shape in shapes.items()
  }
  # A gain of 0: sublayers add nothing, but the one that is planted.
  weights['post_attn_norm'][:] = -1
  weights['post_attn_norm'][LAYER] = 0
  weights['post_mlp_norm'][:] = -1
  weights['wv'][LAYER, 0, 0, 6] = 1  # reads N
  weights['wo'][LAYER, 3, 0, 0] = 1  # writes S
  weights['embed'] = _embeddings(tok)
  return gj.Decoder(
    config, {name: jnp.asarray(value) for name, value in weights.items()}
  )


def _embeddings(tok: gj.Tokenizer) -> np.ndarray:
  p, r, s, u, n = np.eye(D, dtype=np.float32)[[1, 2, 3, 4, 6]]
  embed = np.zeros((tok.vocab_size, D), np.float32)
  rng = np.random.default_rng(0)
  embed[:, 12:] = 0.3 * rng.standard_normal((tok.vocab_size, D - 12))
  special = {
    '\n': 0.5 * p,
    'Paris': p + r,
    'sorry': s + u,
    '<end_of_turn>': 3 * r + 4 * u,
  }
  for text, vector in special.items():
    (token,) = tok.encode(text, bos=False)
    embed[token] = vector
  for names in ALL_UNKNOWN.values():
    for name in names:
      last = tok.encode(f'{name}?', bos=False)[-2]
      embed[last] += n
  return embed
