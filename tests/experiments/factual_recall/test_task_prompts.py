"""Prompts against the tokenizers' own encoding and decoding of whole texts."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from experiments.factual_recall.task_prompts import corrupt, make_prompts
from experiments.factual_recall.tasks import Fact, Task, read_task
from experiments.inputs import BASE
import gemma_jax as gj
from tests.gemma_jax.text import families, tiny_tokenizer

# Subjects with spaces, an apostrophe, accents, digits and emoji.
FACTS = {
  'France': 'Paris',
  'Germany': 'Berlin',
  "Côte d'Ivoire": 'Yamoussoukro',
  "N'Djamena": 'Chad',
  'Boeing 747': '1969',
  '7': 'seven',
  'São Tomé and Príncipe': 'São Tomé',
  '日本': '東京',
  'Paris 😀': 'yes',
}
SHOTS = {'Peru': 'Lima', "O'Neill": 'Cork', 'Zoë 2': 'Zürich', 'B': 'b'}
TEMPLATES = (
  'The capital of {subject} is',
  '{subject} has the capital',  # begins the text
  "It's said: the capital of {subject}",  # ends it
  "They say '{subject}' is in",
  "{subject}'s capital is",
  'Of ({subject}):',
)
CORPUS = (
  'The capital of France is Paris. The capital of Peru is Lima.\n',
  "It's said: France's capital is Paris. They say 'France' is in Paris.\n",
  'Germany has the capital Berlin.\nFrance has the capital Paris.\n',
)


def task(**changes):
  def facts(pairs):
    return tuple(Fact(subject=s, answer=a) for s, a in pairs.items())

  made = Task(
    name='mine',
    source='',
    templates=TEMPLATES,
    facts=facts(FACTS),
    shot="{subject}'s capital: {answer}.",
    shots=facts(SHOTS),
  )
  return dataclasses.replace(made, **changes)


def of_backend(backend, **config):
  files = {
    'tokenizer.json': backend.to_str(),
    'tokenizer_config.json': json.dumps(config),
  }
  return gj.Tokenizer.from_files(files, 'tiny')


def byte_level(use_regex=True, **options):
  made = tokenizers.Tokenizer(models.BPE(**options))
  made.pre_tokenizer = pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=use_regex
  )
  made.decoder = decoders.ByteLevel()
  return made


@functools.cache
def gpt2():
  """Byte-level BPE as GPT-2's, in which ' France' and ' Paris' are tokens."""
  made = byte_level()
  made.train_from_iterator(
    CORPUS * 3,
    trainers.BpeTrainer(
      vocab_size=320,
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  made.add_special_tokens(
    [tokenizers.AddedToken('<|endoftext|>', normalized=False)]
  )
  return of_backend(made, eos_token='<|endoftext|>')


@functools.cache
def merging():
  """Bytes, and a line break merged with letters that follow it."""
  pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet())]
  merges = [('Ċ', 'T'), ('ĊT', 'h'), ('Ċ', 'F'), ('.', 'ĊF')]
  pieces += [''.join(pair) for pair in merges]
  vocab = {piece: i for i, piece in enumerate(pieces)}
  made = byte_level(use_regex=False, vocab=vocab, merges=merges)
  made.add_special_tokens([tokenizers.AddedToken('<eos>', normalized=False)])
  return of_backend(made, eos_token='<eos>')


@functools.cache
def miniworld():
  return gj.Tokenizer.from_pretrained(BASE)


TOKENIZERS = {
  'gpt2': gpt2,
  'merging': merging,
  'gemma': tiny_tokenizer.ours,
  **{
    name: functools.partial(families.ours, name) for name in families.FAMILIES
  },
}


def text_of(prompts, row):
  return prompts.task.demonstrations(prompts.shots) + prompts.texts[row]


def whole_rows(prompts):
  tokens, positions = prompts.whole()
  pairs = zip(tokens, positions, strict=True)
  return [row[at >= 0].tolist() for row, at in pairs]


def mine_in(tokenizer):
  """Of the facts, those that a small vocabulary has a token of."""
  if tokenizer.vocabulary.byte_level:
    return task()
  facts = tuple(f for f in task().facts if f.subject not in ('日本', '7'))
  return task(facts=facts)


def subject_in(prompts, row):
  """The subject that the text itself has in its template's place."""
  template = prompts.task.templates[prompts.templates[row]]
  before, after = template.split('{subject}')
  text = prompts.texts[row]
  assert text.startswith(before) and text.endswith(after)
  return text[len(before) : len(text) - len(after)]


def check(tokenizer, prompts):
  """What must hold for every prompt."""
  P, n = len(prompts.prefix), len(prompts)
  tokens, positions = prompts.whole()
  assert tokens.dtype == positions.dtype == np.int32
  assert (P > 0) <= (prompts.shots > 0)
  rows = whole_rows(prompts)
  for row in range(n):
    ids = tokenizer.encode(text_of(prompts, row))
    real = positions[row] >= 0
    assert rows[row] == ids
    assert positions[row][real].tolist() == list(range(len(ids)))
    own = prompts.positions[row] >= 0
    assert [*prompts.prefix, *prompts.tokens[row][own]] == ids
    assert prompts.positions[row][own].tolist() == list(range(P, len(ids)))
    assert own[-1] and prompts.ends[row] == len(ids) - 1
    # The span: all of the subject's characters, and no token less would do.
    start, stop = prompts.spans[row]
    subject = subject_in(prompts, row)
    assert P <= start < stop <= len(ids)
    spelled = spell(tokenizer, ids[start:stop])
    assert subject in spelled
    assert subject not in spell(tokenizer, ids[start + 1 : stop])
    assert subject not in spell(tokenizer, ids[start : stop - 1])
    before = spell(tokenizer, ids[:start]) + spelled
    assert len(before) >= len(text_of(prompts, row).split(subject)[0])


def spell(tokenizer, ids):
  """Text of some tokens; a quotation mark has MiniWorld's space behind it."""
  return tokenizer.decode(ids, skip_special=True).replace("' ", "'")


@pytest.mark.parametrize('shots', [0, 1, 4])
@pytest.mark.parametrize('name', TOKENIZERS)
def test_spans_and_rows(name, shots):
  tokenizer = TOKENIZERS[name]()
  mine = mine_in(tokenizer)
  prompts = make_prompts(tokenizer, mine, shots=shots)
  assert len(prompts) == len(mine.facts) * len(TEMPLATES)
  check(tokenizer, prompts)
  check(tokenizer, corrupt(tokenizer, prompts, 3))
  if tokenizer.vocabulary.byte_level and not tokenizer.adds_bos:
    for row, ids in enumerate(whole_rows(prompts)):
      assert tokenizer.decode(ids) == text_of(prompts, row)


@pytest.mark.parametrize('shots', [0, 1, 4])
@pytest.mark.parametrize('name', ['city_country', 'player_date_birth'])
def test_miniworld(name, shots):
  tokenizer = miniworld()
  mine = read_task(name)
  prompts = make_prompts(tokenizer, mine, shots=shots)
  check(tokenizer, prompts)
  first = (
    prompts.prefix if shots else prompts.tokens[0][prompts.positions[0] >= 0]
  )
  assert first[0] == tokenizer.bos_id
  # A name is two words, and two tokens.
  assert (np.diff(prompts.spans) == 2).all()
  assert (prompts.name_sizes == 2).all() and (prompts.answer_sizes == 1).all()
  for row, ids in enumerate(whole_rows(prompts)):
    assert spell(tokenizer, ids) == text_of(prompts, row).replace("' ", "'")
    assert tokenizer.decode([prompts.answers[row]]).strip() == (
      mine.facts[prompts.subjects[row]].answer
    )


@pytest.mark.parametrize('shots', [0, 4])
@pytest.mark.parametrize('name', [*TOKENIZERS, 'miniworld'])
def test_the_answer_is_the_token_that_follows(name, shots):
  """As far as the text's own tokens stay what they are when it goes on."""
  tokenizer = miniworld() if name == 'miniworld' else TOKENIZERS[name]()
  world = name == 'miniworld'
  mine = read_task('movie_genres') if world else mine_in(tokenizer)
  prompts = make_prompts(tokenizer, mine, shots=shots)
  kept = 0
  for row, ids in enumerate(whole_rows(prompts)):
    fact = mine.facts[prompts.subjects[row]]
    on = tokenizer.encode(f'{text_of(prompts, row)} {fact.answer}')
    if on[: len(ids)] == ids:
      kept += 1
      assert on[len(ids)] == prompts.answers[row]
      assert len(on) - len(ids) == prompts.answer_sizes[row]
    told = tokenizer.encode(f'{text_of(prompts, row)} {fact.subject}')
    if told[: len(ids)] == ids:
      assert told[len(ids)] == prompts.names[row]
      assert len(told) - len(ids) == prompts.name_sizes[row]
  assert kept >= 0.9 * len(prompts)


def test_order_and_numbers():
  tokenizer, mine = gpt2(), task()
  prompts = make_prompts(tokenizer, mine)
  k = len(TEMPLATES)
  assert prompts.subjects.tolist() == [i // k for i in range(len(prompts))]
  assert prompts.templates.tolist() == [i % k for i in range(len(prompts))]
  names = list(FACTS)
  assert prompts.units == [names[i] for i in prompts.subjects]
  assert prompts.texts[: k + 1] == (
    *(t.replace('{subject}', 'France') for t in TEMPLATES),
    TEMPLATES[0].replace('{subject}', 'Germany'),
  )
  france = prompts.answers[0]
  assert tokenizer.decode([france]) == ' Paris'
  assert tokenizer.decode([prompts.names[0]]) == ' France'
  assert prompts.prefix.shape == (0,)


def test_a_merged_line_break_belongs_to_the_prompt():
  tokenizer, mine = merging(), task(templates=('{subject} is', 'The {subject}'))
  facts = tuple(Fact(subject=f'F{i}', answer=f'{i}') for i in range(4))
  mine = dataclasses.replace(mine, facts=facts)
  prompts = make_prompts(tokenizer, mine, shots=1)
  before = mine.demonstrations(1)
  # '.\nF' takes two characters off the demonstrations, '\nTh' one.
  assert tokenizer.decode(prompts.prefix) == before[:-2]
  check(tokenizer, prompts)
  for row, ids in enumerate(whole_rows(prompts)):
    start, stop = prompts.spans[row]
    want = '.\nF' if prompts.templates[row] == 0 else 'F'
    assert tokenizer.decode(ids[start:stop]) == f'{want}{row // 2}'


def test_most_leaves_out_templates():
  tokenizer = gpt2()
  full = make_prompts(tokenizer, task())
  for most, kept in ((54, 6), (53, 5), (26, 2), (9, 1), (3, 1), (999, 6)):
    some = make_prompts(tokenizer, task(), most=most)
    assert set(some.templates) == set(range(kept))
    assert set(some.subjects) == set(full.subjects)
    assert len(some) == kept * len(FACTS)


def test_single_token():
  tokenizer = gpt2()
  one = {' France', ' Paris'}
  assert all(len(tokenizer.encode(word)) == 1 for word in one)
  with pytest.raises(ValueError, match='mine: 1 of 9 facts .* --single_token'):
    make_prompts(tokenizer, task(), single_token=True)
  letters = {s: t for s, t in zip('ABCDE', 'vwxyz', strict=True)} | {'AB': 'q'}
  made = byte_level(
    vocab={
      piece: i
      for i, piece in enumerate(
        [
          *sorted(pre_tokenizers.ByteLevel.alphabet()),
          *(f'Ġ{c}' for c in 'ABCDEvwxyzq'),
        ]
      )
    },
    merges=[('Ġ', c) for c in 'ABCDEvwxyzq'],
  )
  tokenizer = of_backend(made)
  facts = tuple(Fact(subject=s, answer=a) for s, a in letters.items())
  mine = task(facts=facts, shots=())
  some = make_prompts(tokenizer, mine, single_token=True)
  assert set(some.units) == set('ABCDE')
  assert (some.answer_sizes == 1).all() and (some.name_sizes == 1).all()
  # 'AB' is not asked for, so it corrupts nothing.
  for seed in range(5):
    assert 'AB' not in others_of(corrupt(tokenizer, some, seed))
  assert make_prompts(tokenizer, mine).name_sizes.max() == 2


@pytest.mark.parametrize('shots', [0, 4])
def test_take(shots):
  tokenizer = gpt2()
  prompts = make_prompts(tokenizer, task(), shots=shots)
  rows = [5, 0, 17, 5]
  some = prompts.take(rows)
  assert len(some) == 4 and some.task is prompts.task
  check(tokenizer, some)
  assert some.texts == tuple(prompts.texts[row] for row in rows)
  for name in ('answers', 'names', 'subjects', 'templates', 'spans', 'ends'):
    each = getattr(prompts, name)[rows]
    np.testing.assert_array_equal(getattr(some, name), each)
  np.testing.assert_array_equal(some.whole()[0], prompts.whole()[0][rows])


def others_of(prompts):
  return [subject_in(prompts, row) for row in range(len(prompts))]


def test_corrupted_prompts():
  tokenizer = gpt2()
  prompts = make_prompts(tokenizer, task())
  seen = {subject: set() for subject in FACTS}
  for seed in range(6):
    other = corrupt(tokenizer, prompts, seed)
    for name in ('subjects', 'templates', 'answers', 'names'):
      same = getattr(prompts, name)
      np.testing.assert_array_equal(getattr(other, name), same)
    for own, drawn in zip(prompts.units, others_of(other), strict=True):
      assert drawn in FACTS and drawn != own
      seen[own].add(drawn)
  # 36 draws of 8 miss one of them with a chance below 7 %, so not often.
  assert sum(map(len, seen.values())) >= 9 * 8 - 5


def test_what_corruption_depends_on():
  tokenizer = gpt2()
  prompts = make_prompts(tokenizer, task())
  drawn = others_of(corrupt(tokenizer, prompts, 1))
  assert others_of(corrupt(tokenizer, prompts, 1)) == drawn
  assert others_of(corrupt(tokenizer, prompts, 2)) != drawn
  # Not on the demonstrations, nor on another row or another model's tokens.
  shown = make_prompts(tokenizer, task(), shots=4)
  assert others_of(corrupt(tokenizer, shown, 1)) == drawn
  fewer = prompts.take(range(len(prompts) - 3))
  assert others_of(corrupt(tokenizer, fewer, 1)) == drawn[:-3]
  other = families.ours('smollm2')
  assert others_of(corrupt(other, make_prompts(other, task()), 1)) == drawn


def test_one_subject_cannot_be_corrupted():
  tokenizer = gpt2()
  prompts = make_prompts(tokenizer, task()).take([6, 7])
  with pytest.raises(ValueError, match="2 prompts are about 'Germany'"):
    corrupt(tokenizer, prompts, 0)


def test_words_outside_the_vocabulary():
  with pytest.raises(ValueError, match="capitals: no token of 'Beijing'"):
    make_prompts(miniworld(), read_task('capitals'))
  world = read_task('city_country')
  facts = (*world.facts, Fact(subject='Xyzzy', answer='Boria'))
  with pytest.raises(ValueError, match="no token of 'Xyzzy'"):
    make_prompts(miniworld(), dataclasses.replace(world, facts=facts, shots=()))


def test_too_few_demonstrations():
  with pytest.raises(ValueError, match='mine has 4 .* 5 are asked'):
    make_prompts(gpt2(), task(), shots=5)


@pytest.mark.parametrize('name', ['gpt2', 'llama3', 'smollm2', 'gemma'])
def test_published_prompts(name):
  """225 in any vocabulary; the last token is 'is'."""
  tokenizer = TOKENIZERS[name]()
  prompts = make_prompts(tokenizer, read_task('capitals'))
  assert len(prompts) == 225
  check(tokenizer, prompts)


def test_published_corruption_keeps_its_defects():
  """Texts end with the own answer, "'s" is lost, the own subject may stay."""
  tokenizer = gj.Tokenizer.from_pretrained(BASE)
  facts = read_task('city_country').facts
  task = Task(
    name='possessive',
    source='written here',
    templates=("As for {subject}'s", 'The country of {subject} is'),
    facts=facts[:8],
    shot='',
    shots=(),
  )
  asked = make_prompts(tokenizer, task)
  found = corrupt(tokenizer, asked, 0, published=True)
  same = 0
  for row, text in enumerate(found.texts):
    own = facts[asked.subjects[row]]
    assert text.endswith(f' {own.answer}') and "'s" not in text
    same += own.subject in text
    tokens, positions = found.whole()
    ids = tokens[row][positions[row] >= 0].tolist()
    assert ids == tokenizer.encode(text)
  assert 0 < same < len(found) / 2
