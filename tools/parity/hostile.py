"""Texts that tokenizers stumble over, and the comparison with HF's on them.

    for text, ours, theirs in compare(tokenizer, hf_tokenizer): ...

One kind of difference is meant: this project merges BOS tokens that a text
spells out at its start into its own BOS, and HF puts a second one.
"""

import random
import unicodedata

from gemma_jax.text.tokenizer import Tokenizer

_SPECIALS = (
  '<bos>',
  '<eos>',
  '<pad>',
  '<unk>',
  '<s>',
  '</s>',
  '<start_of_turn>',
  '<end_of_turn>',
  '<|endoftext|>',
  '<|im_start|>',
  '<|im_end|>',
  '<|begin_of_text|>',
  '<|start_header_id|>',
  '<|eot_id|>',
  '[INST]',
  '<0x41>',
)
_WORDS = (
  'Paris',
  'naïve café, crème brûlée',
  'Łódź Škoda Ørsted Þingvellir',
  'ΑΒΓ αβγ Ελλάδα',
  'Москва и Київ',
  '日本語のテキスト',
  '中文沒有空格',
  '한국어 띄어쓰기',
  'עברית עם ניקוד: שָׁלוֹם',
  'العربيّة مع تشكيل',
  'हिन्दी में लिखा',
  'ภาษาไทยไม่มีเว้นวรรค',
  'தமிழ் እማርኛ ქართული',
  'Straße STRASSE ẞ',
  'İstanbul ıssız',
  'ﬁ ﬂ ½ ² ℌ Å Å',
  '𝔐𝔞𝔱𝔥 𝟘𝟙𝟚 𓀀 𐍈',
)
_SIGNS = (
  '😀',
  '😀🙂🙃',
  '👩‍👩‍👧‍👦',
  '👍🏽👍🏿',
  '🇫🇷🇯🇵🇨',
  '❤️ ❤',
  '1️⃣',
  '🏴󠁧󠁢󠁥󠁮󠁧󠁿',
  '→←↔ ∀x∈ℝ: x²≥0',
  '“curly” ‘quotes’ – — … «»',
  '€£¥₹ 5€ $5.00',
  '\u2581',
  'a\u2581b',
  '\u2581\u2581 \u2581',
  'Ġ Ċ Ã©',
  '##ing ▁the',
)
_INVISIBLE = (
  '\0',
  'a\0b\0',
  '\x01\x02\x1b[31mred\x1b[0m',
  '\x7f\x80\x9f',
  '\u00a0',
  'a\u00a0b',
  'a\u00adb',
  'a\u200bb\u200cc\u200dd',
  '\u200e\u200fa\u202eb\u202c',
  '\u2028line\u2029paragraph',
  '\u3000wide\u3000',
  '\ufeff',
  '\ufeffBOM',
  '\ufe0f',
  '\ufffd\ufffd',
  '\uffff\U0010ffff',
  '\ue000private',
  '\u0301',
  ' \u0301a',
  'a' + '\u0301' * 5,
  'e\u0323\u0301 e\u0301\u0323',
)
_CODE = (
  'def f(x):\n    return x ** 2  # squared\n',
  '\tif (a && b || !c) {\n\t\treturn x->y[0]++;\n\t}\n',
  '<table>\n  <tr><td class="a">&nbsp;</td></tr>\n</table>',
  '{"key": [1, 2.5e-10, null], "é": "\\u00e9"}',
  "SELECT * FROM t WHERE a != 'it''s';",
  r'\frac{1}{2} \\ C:\new\table',
  'https://example.org/a_b-c?d=e%20f&g#h',
  'user.name+tag@example.co.uk',
  '$ ls -la | grep "^d" > /dev/null 2>&1',
  '#!/bin/sh\r\necho $((1+1))\r\n',
  '```python\nprint("hi")\n```',
  'snake_case camelCase PascalCase SCREAMING_CASE kebab-case',
)
_WRITING = (
  "I'm you're he's we've they'll I'd don't o'clock",
  "I'M YOU'RE HE'S WE'VE THEY'LL I'D",
  "I’m ’tis rock ’n’ roll ''''",
  'Hello,world!No spaces.After marks?Yes',
  'Wait... what?!?! (yes) [no] {maybe} <so>',
  'A.B.C. U.S.A. e.g. i.e. Ph.D.',
  'ALL CAPS aLtErNaTiNg lower',
  '3rd 21st 4x4 x2y3z 10km 5pm',
  '3.14 1,000,000 1_000 1e-9 0xFF 50% 12:30 2024-01-31',
  '٣٤٥ ४५६ ①②③ Ⅳ ⅷ ½¾',
  'word ' * 50,
  'x-' * 40,
  '!' * 33,
  '=' * 80,
)


def _texts():
  yield ''
  yield from _WORDS + _SIGNS + _INVISIBLE + _CODE + _WRITING
  for size in (*range(1, 13), 16, 33, 64):
    yield ('1234567890' * 7)[:size]
  for blank in (' ', '\n', '\t', '\r\n', '\n '):
    for count in (1, 2, 3, 4, 7, 16, 31, 33):
      yield blank * count
      yield f'a{blank * count}b'
  for text in ('Paris', '7', 'é', '日', '😀', '.', "'s"):
    yield f' {text}'
    yield f'{text} '
    yield f'  {text}\n {text}\t'
  for special in _SPECIALS:
    yield special
    yield f' {special} '
    yield f'a{special}b {special}\n'
    yield special[:-1]
  yield '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n'
  yield '<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n'
  for char in 'aé日😀':
    yield char * 300
  yield 'Donaudampfschifffahrtselektrizitäten' * 5
  for text in _WORDS:
    for form in ('NFC', 'NFD', 'NFKC'):
      yield unicodedata.normalize(form, text)
  rng = random.Random(0)
  pieces = [*_WORDS, *_SIGNS, *_INVISIBLE, *_SPECIALS, *' \n\t07aZ.', '  ']
  for _ in range(60):
    yield ''.join(rng.choices(pieces, k=rng.randrange(2, 12)))


# Over 300 different texts, the same ones at every start.
HOSTILE = tuple(dict.fromkeys(_texts()))


def compare(
  tokenizer: Tokenizer, hf_tokenizer, texts=HOSTILE
) -> list[tuple[str, list[int], list[int]]]:
  """Returns the texts whose ids differ: (text, our ids, HF's ids).

  Args:
    tokenizer: Ours.
    hf_tokenizer: HF's for the same model; it adds the special tokens that it
      adds by default.
    texts: What to compare on.
  """
  pairs = (
    (t, tokenizer.encode(t), hf_tokenizer(t)['input_ids']) for t in texts
  )
  return [(t, ours, theirs) for t, ours, theirs in pairs if ours != theirs]
