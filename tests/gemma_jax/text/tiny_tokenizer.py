"""A tokenizer built like Gemma's, trained here in a moment.

BPE over U+2581-marked words with byte fallback; the special tokens and the 256
bytes have fixed ids, and a few ordinary pieces are added tokens, as Gemma's
runs of newlines and HTML tags are. Only the words are fewer.
"""

import functools
import json
import pathlib
import random
import tempfile

import tokenizers
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
  trainers,
)
import transformers

from gemma_jax.text.tokenizer import Tokenizer

SPECIALS = (
  '<pad>',
  '<eos>',
  '<bos>',
  '<unk>',
  '<mask>',
  '<start_of_turn>',
  '<end_of_turn>',
)
ADDED = ('\n\n', '\n\n\n', '<table>')
CONFIG = {
  'tokenizer_class': 'GemmaTokenizer',
  'bos_token': '<bos>',
  'eos_token': {'content': '<eos>', 'special': True, '__type': 'AddedToken'},
  'pad_token': '<pad>',
  'unk_token': '<unk>',
  'clean_up_tokenization_spaces': False,
}
_CORPUS = (
  'Are you sure you know the player Kawhi Leonard? Answer yes or no.',
  'Are you sure you know the movie Party Animals? Answer yes or no.',
  'The art of the party started in Paris, and the partner of art was late.',
  'The city Paris is in Texas; Parisians, too, go to art parties there.',
  'model\nuser\nmodel\nuser\nmodel\nuser\nmodel',
  'The system, user, assistant and model: system café naïve Zoë crème brûlée',
  'The player was born in the city of San Diego in 1991, 1992 or 2003.',
)

# What tokenizers stumble over.
HOSTILE = (
  '',
  ' ',
  'Paris',
  ' Paris',
  '  two  spaces  ',
  'The movie Party Animals is art.',
  'naïve café, Zoë & crème brûlée',
  'cafe\u0301 e\u0301\u0323 combining',
  '😀🙂 emoji 👩‍👩‍👧‍👦 and 🇫🇷',
  '日本語のテキスト 中文 한국어',
  'עברית العربية',
  'nul\0inside\0',
  'tab\tand\r\nlines\n\nand\n\n\nmore\n\n\n\n',
  'already ▁ marked▁spaces',
  '<bos>literal at the start',
  '<bos><bos>twice',
  ' <bos>not at the start',
  'inside <bos> and <eos>, <pad>, <unk>',
  '<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n',
  '<table>html</table>',
  '<0x41><0xF0> spelled-out bytes',
  '<bos',
  'bos>',
  '\ufeffBOM and \u200bzero width \u00a0space',
  '\ufffd replacement \ufffd',
  'ﬁ ligature ½ Å Å',
  'a' * 300,
)


def random_texts(count: int, seed: int) -> list[str]:
  """Texts glued together from hostile pieces."""
  rng = random.Random(seed)
  pieces = [
    *'aé日😀 \n\0▁',
    *SPECIALS,
    *ADDED,
    ' art',
    'party',
    ' Paris',
    'e\u0301',
  ]
  return [
    ''.join(rng.choices(pieces, k=rng.randrange(1, 20))) for _ in range(count)
  ]


def train(vocab_size: int = 300) -> tokenizers.Tokenizer:
  """A fresh tokenizer; `vocab_size` counts learned pieces."""
  learner = tokenizers.Tokenizer(models.BPE())
  learner.normalizer = normalizers.Replace(' ', '▁')
  learner.pre_tokenizer = pre_tokenizers.Split('▁', 'merged_with_next')
  learner.train_from_iterator(
    _CORPUS * 3,
    trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False),
  )
  learned = json.loads(learner.to_str())['model']
  pieces = [*SPECIALS, '\n', *ADDED]
  pieces += [f'<0x{byte:02X}>' for byte in range(256)]
  pieces += sorted(learned['vocab'], key=learned['vocab'].get)
  vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}

  tokenizer = tokenizers.Tokenizer(
    models.BPE(
      vocab=vocab,
      merges=[tuple(merge) for merge in learned['merges']],
      unk_token='<unk>',
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  tokenizer.normalizer = normalizers.Replace(' ', '▁')
  tokenizer.pre_tokenizer = pre_tokenizers.Split(' ', 'merged_with_previous')
  tokenizer.decoder = decoders.Sequence(
    [decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()]
  )
  tokenizer.post_processor = processors.TemplateProcessing(
    single='<bos> $A',
    pair='<bos> $A <bos> $B',
    special_tokens=[('<bos>', vocab['<bos>'])],
  )
  tokenizer.add_special_tokens(
    [tokenizers.AddedToken(t, normalized=False) for t in SPECIALS]
  )
  tokenizer.add_tokens(
    [tokenizers.AddedToken(t, normalized=False) for t in ADDED]
  )
  return tokenizer


def save(folder: pathlib.Path, **config) -> pathlib.Path:
  """Writes a model's tokenizer files; `config` adds to CONFIG."""
  folder.mkdir(parents=True, exist_ok=True)
  train().save(str(folder / 'tokenizer.json'))
  (folder / 'tokenizer_config.json').write_text(json.dumps(CONFIG | config))
  return folder


@functools.cache
def ours() -> Tokenizer:
  with tempfile.TemporaryDirectory() as folder:
    return Tokenizer.from_pretrained(save(pathlib.Path(folder)))


@functools.cache
def hf(kind: str = 'fast') -> transformers.PreTrainedTokenizerFast:
  """HF's reading of the same files, by its general or its Gemma class."""
  with tempfile.TemporaryDirectory() as folder:
    save(pathlib.Path(folder))
    if kind == 'gemma':
      return transformers.GemmaTokenizer.from_pretrained(folder)
    return transformers.PreTrainedTokenizerFast(
      tokenizer_file=f'{folder}/tokenizer.json',
      bos_token='<bos>',
      eos_token='<eos>',
      pad_token='<pad>',
      unk_token='<unk>',
      padding_side='left',
      clean_up_tokenization_spaces=False,
    )
