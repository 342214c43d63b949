"""What a family of decoders is: a few tables, and what does not fit in one."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

from gemma_jax.config import ModelConfig


class Stored(NamedTuple):
  """Says how a tensor of a checkpoint holds weights of ours.

  Attributes:
    weights: Names in `weights.LETTERS`. Several are fused: their outputs stand
      one after another.
    transposed: True if the tensor is [in, out]; ours are [out, in].
  """

  weights: tuple[str, ...]
  transposed: bool = False


def stored(weights: str, transposed: bool = False) -> Stored:
  """Names with spaces between them, as a `Stored`."""
  return Stored(tuple(weights.split()), transposed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """One architecture of Hugging Face transformers, as data.

  Attributes:
    model_type: What config.json calls it.
    architecture: HF's class, which `architectures` names.
    title: What people call it.
    defaults: Fields of ModelConfig that all its models share, and those that
      its config.json may leave out, with HF's defaults.
    fields: Field of config.json -> field of ModelConfig (several, with spaces
      between them, get the same value). One that has no default must be there.
    allowed: Field of config.json -> the values that this implementation does;
      the first of them is written.
    unwritten: Those of `allowed` that are read and not written.
    inert: Fields that say nothing about what the model computes.
    derive: Completes fields of ModelConfig from config.json, in place. It may
      raise ValueError, with a message that names the field.
    extra: Further fields to write, of a ModelConfig.
    rotary: True if config.json has rotary bases.
    layer_types: True if it says which layers are local.
    prefixes: What the names of tensors may begin with, for all but the
      unembedding; the first is written.
    tensors: Name of a tensor, without its prefix, `{}` being the layer -> what
      it holds. Rows whose weights a configuration lacks do not apply.
    buffers: Pattern of names that are no weights: they are passed over.
    other_towers: Pattern of names of other models beside the decoder: they are
      left out, and counted aloud.
    modules: Site -> module of a layer, with '.input' or '.output', that HF has
      there; names are relative to the layer.
    layers: The layers' module in HF's model.
    ambiguous: A module's '.input' or '.output' that is no site here, although
      it is one in other families -> what it is.
  """

  model_type: str
  architecture: str
  title: str
  defaults: Mapping[str, Any]
  fields: Mapping[str, str]
  allowed: Mapping[str, tuple]
  unwritten: frozenset[str] = frozenset()
  inert: frozenset[str] = frozenset()
  derive: Callable[[dict, Mapping], None] = lambda ours, hf: None
  extra: Callable[[ModelConfig], dict] = lambda config: {}
  rotary: bool = True
  layer_types: bool = False
  prefixes: tuple[str, ...] = ('model.',)
  tensors: Mapping[str, Stored]
  buffers: str = r'(?!)'
  other_towers: str = r'(?!)'
  modules: Mapping[str, str]
  layers: str = 'model.layers'
  ambiguous: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def config(self, **fields) -> ModelConfig:
    """Returns a model of this family, of the given sizes."""
    return ModelConfig(**{'family': self.model_type} | self.defaults | fields)


def split_heads(ours: dict, width: str, heads: str):
  """Sets head_dim to D / N.

  Args:
    ours: Fields of ModelConfig, completed in place.
    width, heads: What config.json calls D and N, for the message.

  Raises:
    ValueError: N does not divide D.
  """
  D, N = ours['d_model'], ours['num_heads']
  if D % N:
    raise ValueError(f'{width}={D} must be a multiple of {heads}={N}.')
  ours['head_dim'] = D // N


# What most families have in common: names of sizes, tensors and modules.
SIZES = {
  'num_hidden_layers': 'num_layers',
  'hidden_size': 'd_model',
  'intermediate_size': 'd_ff',
  'num_attention_heads': 'num_heads',
  'num_key_value_heads': 'num_kv_heads',
  'head_dim': 'head_dim',
  'vocab_size': 'vocab_size',
  'rms_norm_eps': 'norm_eps',
  'max_position_embeddings': 'max_positions',
  'tie_word_embeddings': 'tied',
  'pad_token_id': 'pad_id',
  'bos_token_id': 'bos_id',
}
TENSORS = {
  'embed_tokens.weight': stored('embed'),
  'norm.weight': stored('final_norm'),
  'layers.{}.input_layernorm.weight': stored('pre_attn_norm'),
  'layers.{}.self_attn.q_proj.weight': stored('wq'),
  'layers.{}.self_attn.k_proj.weight': stored('wk'),
  'layers.{}.self_attn.v_proj.weight': stored('wv'),
  'layers.{}.self_attn.o_proj.weight': stored('wo'),
  'layers.{}.self_attn.q_proj.bias': stored('bq'),
  'layers.{}.self_attn.k_proj.bias': stored('bk'),
  'layers.{}.self_attn.v_proj.bias': stored('bv'),
  'layers.{}.self_attn.o_proj.bias': stored('bo'),
  'layers.{}.self_attn.q_norm.weight': stored('q_norm'),
  'layers.{}.self_attn.k_norm.weight': stored('k_norm'),
  'layers.{}.mlp.gate_proj.weight': stored('gate'),
  'layers.{}.mlp.up_proj.weight': stored('up'),
  'layers.{}.mlp.down_proj.weight': stored('down'),
  'layers.{}.mlp.gate_proj.bias': stored('gate_b'),
  'layers.{}.mlp.up_proj.bias': stored('up_b'),
  'layers.{}.mlp.down_proj.bias': stored('down_b'),
}
MODULES = {
  'resid_pre': 'input',
  'z': 'self_attn.o_proj.input',
  'attn_out_raw': 'self_attn.output',
  'mlp_act': 'mlp.down_proj.input',
  'mlp_out_raw': 'mlp.output',
  'resid_post': 'output',
}
