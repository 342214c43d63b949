"""Small tokenizers of each decoder family, and HF's reading of each.

They are cut as the real ones are (regular expressions, normalizers, special
tokens, post-processors); only the words are fewer.
"""

from collections.abc import Callable
import dataclasses
import functools
import json
import tempfile

import tokenizers
from tokenizers import (
  AddedToken,
  Regex,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
  trainers,
)
import transformers

from gemma_jax.text.tokenizer import Tokenizer
from tests.gemma_jax.text import tiny_tokenizer

_CORPUS = (
  'The art of the party started in Paris, and the partner of art was late.',
  "Who's the player? I don't know: 12345 or 2024, naïve café Zoë Zoë Zoë.",
  'user\nassistant\nsystem\n\n  if x:\n    return y\n日本 日本語 日本 😀😀',
)
_LLAMA3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
  r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_QWEN = _LLAMA3.replace('{1,3}', '')


def _byte_level(specials, *, cut=None, before=(), normalizer=None):
  """Byte-level BPE; `cut` is a regular expression, else GPT-2's."""
  made = tokenizers.Tokenizer(models.BPE())
  if normalizer:
    made.normalizer = normalizer
  split = [pre_tokenizers.Split(Regex(cut), 'isolated')] if cut else []
  made.pre_tokenizer = pre_tokenizers.Sequence(
    [
      *before,
      *split,
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not cut),
    ]
  )
  made.decoder = decoders.ByteLevel()
  made.train_from_iterator(
    _CORPUS * 3,
    trainers.BpeTrainer(
      vocab_size=400,
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  made.add_special_tokens([AddedToken(t, normalized=False) for t in specials])
  made.post_processor = processors.ByteLevel(trim_offsets=True)
  return made


def gpt2():
  return _byte_level(['<|endoftext|>'])


def llama3():
  specials = ['begin_of_text', 'end_of_text', 'start_header_id']
  specials += ['end_header_id', 'eot_id']
  made = _byte_level([f'<|{name}|>' for name in specials], cut=_LLAMA3)
  bos = '<|begin_of_text|>'
  made.post_processor = processors.Sequence(
    [
      processors.ByteLevel(trim_offsets=True),
      processors.TemplateProcessing(
        single=f'{bos} $A',
        pair=f'{bos} $A {bos} $B',
        special_tokens=[(bos, made.token_to_id(bos))],
      ),
    ]
  )
  return made


def qwen():
  return _byte_level(
    ['<|endoftext|>', '<|im_start|>', '<|im_end|>'],
    cut=_QWEN,
    normalizer=normalizers.NFC(),
  )


def smollm2():
  return _byte_level(
    ['<|endoftext|>', '<|im_start|>', '<|im_end|>'],
    before=[pre_tokenizers.Digits(individual_digits=True)],
  )


def _sentencepiece(**parts):
  """The tiny Gemma's pieces, with Llama's special tokens, cut by `parts`."""
  text = tiny_tokenizer.train().to_str()
  made = json.loads(text.replace('<bos>', '<s>').replace('<eos>', '</s>'))
  made['added_tokens'] = [t for t in made['added_tokens'] if t['special']]
  made = tokenizers.Tokenizer.from_str(json.dumps(made))
  made.normalizer = parts.get('normalizer', normalizers.Sequence([]))
  made.pre_tokenizer = parts.get('pre_tokenizer', pre_tokenizers.Sequence([]))
  made.decoder = decoders.Sequence(
    [
      decoders.Replace('▁', ' '),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(' ', 1, 0),
    ]
  )
  return made


def llama2():
  return _sentencepiece(
    normalizer=normalizers.Sequence(
      [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
    )
  )


def mistral():
  return _sentencepiece(
    pre_tokenizer=pre_tokenizers.Metaspace('▁', 'first', split=False)
  )


_INST = """{{ bos_token }}{% for turn in messages %}
{%- if turn.role == 'user' %}{{ '[INST] ' ~ turn.content ~ ' [/INST]' }}
{%- else %}{{ ' ' ~ turn.content ~ ' ' ~ eos_token }}{% endif %}
{%- endfor %}"""
_CHATML = """{%- if tools %}
{{- '<|im_start|>system\\n' }}{% for tool in tools %}
{{- tool | tojson ~ '\\n' }}{% endfor %}{{ '<|im_end|>\\n' }}
{%- endif %}
{%- for turn in messages %}
{{- '<|im_start|>' ~ turn.role ~ '\\n' ~ turn.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
_HEADERS = """{{- bos_token }}
{%- if not date_string is defined %}
  {%- if strftime_now is defined %}
    {%- set date_string = strftime_now('%d %b %Y') %}
  {%- else %}{%- set date_string = 'long ago' %}{%- endif %}
{%- endif %}
{%- macro say(role, text) %}
{{- '<|start_header_id|>' ~ role ~ '<|end_header_id|>\\n\\n' ~ text }}
{%- endmacro %}
{{- say('system', 'Today: ' ~ date_string) ~ '<|eot_id|>' }}
{%- for turn in messages %}
  {{- say(turn.role, turn.content | trim) ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ say('assistant', '') }}{% endif %}"""


@dataclasses.dataclass(frozen=True)
class Family:
  """How to build a tokenizer, its config, and what must come out."""

  build: Callable[[], tokenizers.Tokenizer]
  config: dict
  bos: str | None  # that is added
  end_of_turn: str | None = None
  byte_level: bool = True


_CHATML_CONFIG = {'eos_token': '<|im_end|>', 'chat_template': _CHATML}
_LLAMA_CONFIG = {'bos_token': '<s>', 'eos_token': '</s>'}
FAMILIES = {
  'gpt2': Family(gpt2, {'eos_token': '<|endoftext|>'}, None),
  'llama3': Family(
    llama3,
    {
      'bos_token': '<|begin_of_text|>',
      'eos_token': '<|end_of_text|>',
      'chat_template': _HEADERS,
    },
    '<|begin_of_text|>',
    '<|eot_id|>',
  ),
  'qwen': Family(
    qwen,
    _CHATML_CONFIG | {'bos_token': None, 'pad_token': '<|endoftext|>'},
    None,
    '<|im_end|>',
  ),
  'smollm2': Family(
    smollm2, _CHATML_CONFIG | {'bos_token': '<|im_start|>'}, None, '<|im_end|>'
  ),
  'llama2': Family(
    llama2,
    _LLAMA_CONFIG | {'chat_template': _INST},
    '<s>',
    '</s>',
    byte_level=False,
  ),
  'mistral': Family(
    mistral,
    _LLAMA_CONFIG | {'chat_template': _INST, 'add_bos_token': True},
    '<s>',
    '</s>',
    byte_level=False,
  ),
}


@functools.cache
def files(name: str) -> dict[str, str]:
  family = FAMILIES[name]
  return {
    'tokenizer.json': family.build().to_str(),
    'tokenizer_config.json': json.dumps(family.config),
  }


@functools.cache
def ours(name: str) -> Tokenizer:
  return Tokenizer.from_files(files(name), name)


@functools.cache
def hf(name: str) -> transformers.PreTrainedTokenizerFast:
  config = dict(FAMILIES[name].config)
  config.pop('add_bos_token', None)  # as HF does with a tokenizer.json
  with tempfile.NamedTemporaryFile('w', suffix='.json') as file:
    file.write(files(name)['tokenizer.json'])
    file.flush()
    return transformers.PreTrainedTokenizerFast(
      tokenizer_file=file.name, clean_up_tokenization_spaces=False, **config
    )
