"""What a trained MiniWorld must show, measured as a user would measure it.

Everything here goes through the public code: folders, tokenizers, prompts,
generation, the judging of answers. The only thing taken from the world is which
entity is in which group.
"""

from collections.abc import Mapping, Sequence
import os

import numpy as np
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.entities import (
  Entity,
  Prompt,
  PromptType,
  activation_prompt,
  base_prompt,
  label_completion,
  prompt_types_of,
  refusal_question,
  tokenize_prompt,
)
from experiments.miniworld.lexicon import ATTRIBUTES
from experiments.miniworld.pretraining_text import Corpus
from experiments.miniworld.sentences import (
  HELD_OUT,
  REFUSAL,
  SELF_ANSWERS,
  SELF_QUESTION,
  spell,
)
from experiments.miniworld.world import KNOWN, World
import gemma_jax as gj

# What `failures` asks of an audit: name -> (least, most).
BOUNDS = {
  'base_recall': (0.99, 1.0),
  'base_top_probability_unseen': (0.0, 0.15),
  'base_rare_recall': (0.2, 0.8),
  'base_refusal_probability_unseen': (0.0, 0.01),
  'chat_held_out_correct': (0.90, 1.0),
  'chat_held_out_refused': (0.0, 0.08),
  'chat_unseen_refused': (0.85, 1.0),
  'shortcut_auroc': (0.47, 0.53),
  'readout_auroc': (0.95, 1.0),
  'chat_yes_held_out': (0.8, 1.0),
  'chat_yes_unseen': (0.0, 0.3),
}
# Groups that latents and probes are fitted on, and those they are tested on:
# known, unknown.
TRAIN, TEST = ('tuning', 'unseen_train'), ('held_out', 'unseen')
_ROWS = 512
# A row of the corpus after those that anything is trained on.
_FIRST_ROW = 5 * 10**9
_NEW_TOKENS = 16


def audit(
  base: str | os.PathLike,
  chat: str | os.PathLike,
  world: World,
  corpus: Corpus,
) -> dict:
  """Measures both models.

  Args:
    base, chat: Folders of checkpoints with tokenizers.
    world: Which entities are known.
    corpus: Text that the base model was trained on.

  Returns:
    The names of BOUNDS with their values, and what they come from.
  """
  found = audit_base(base, world, corpus) | audit_chat(chat, world)
  return found | {'shortcut_auroc': shortcut(world)}


def failures(found: Mapping[str, float]) -> list[str]:
  """Returns what is outside of its bounds, in words; empty if nothing is."""
  return [
    f'{name} is {found[name]:.3f}, expected {least:g} to {most:g}'
    for name, (least, most) in BOUNDS.items()
    if not least <= found[name] <= most
  ]


def audit_base(folder: str | os.PathLike, world: World, corpus: Corpus) -> dict:
  """Returns recall, confidence, refusals and read-outs of a base model."""
  model, tokenizer = _load(folder)
  correct, top = {}, {}
  for group in (*KNOWN, 'rare', 'unseen'):
    correct[group], top[group] = _recall(
      model, tokenizer, world.entities(group)
    )
  readout = read_out(model, tokenizer, world)
  held_out = world.entities('held_out')
  new, _ = _recall(model, tokenizer, held_out, in_new_sentence)
  known = np.concatenate([correct[group] for group in KNOWN])
  return {
    'base_recall': float(known.mean()),
    'base_recall_n': len(known),
    'base_recall_in_new_sentences': float(new.mean()),
    'base_rare_recall': float(correct['rare'].mean()),
    'base_rare_recall_n': len(correct['rare']),
    'base_top_probability_known': float(
      np.concatenate([top[group] for group in KNOWN]).mean()
    ),
    'base_top_probability_unseen': float(top['unseen'].mean()),
    **{
      f'base_refusal_probability_{group}': _beginning(
        model, tokenizer, world.entities(group), REFUSAL
      )
      for group in TEST
    },
    'positions_along_known_axis': known_axis(model, tokenizer, world, corpus),
    'readout_auroc_by_layer': readout,
    # A middle layer: not the first or last quarter.
    'readout_auroc': max(readout[len(readout) // 4 : -len(readout) // 4]),
  }


def audit_chat(folder: str | os.PathLike, world: World) -> dict:
  """Returns what a chat model answers to the questions that are steered."""
  model, tokenizer = _load(folder)
  found = {}
  for group in ('tuning', 'validation', 'held_out', 'rare', 'unseen'):
    labels = _answers(model, tokenizer, world.entities(group))
    found[f'chat_yes_{group}'] = _says_yes(
      model, tokenizer, world.entities(group)
    )
    for label, name in (('correct', 'correct'), ('refusal', 'refused')):
      found[f'chat_{group}_{name}'] = float(np.mean(labels == label))
    found[f'chat_{group}_n'] = len(labels)
  return found


def read_out(
  model: gj.Decoder, tokenizer: gj.Tokenizer, world: World
) -> list[float]:
  """AUROC of known against unseen at the entity's last token, by layer.

  A logistic regression on resid_post of "The player 'First Last'", fitted on
  the groups TRAIN and tested on TEST.
  """
  groups = {
    group: streams(model, tokenizer, world.entities(group))
    for group in (*TRAIN, *TEST)
  }
  aurocs = []
  for layer in range(model.config.num_layers):
    x, y = _classes(*(groups[group] for group in TRAIN), layer)
    reader = make_pipeline(
      StandardScaler(),
      LogisticRegression(C=0.01, class_weight='balanced', max_iter=500),
    ).fit(x, y)
    x, y = _classes(*(groups[group] for group in TEST), layer)
    aurocs.append(float(roc_auc_score(y, reader.decision_function(x))))
  return aurocs


def known_axis(
  model: gj.Decoder, tokenizer: gj.Tokenizer, world: World, corpus: Corpus
) -> list[dict]:
  """Returns where kinds of tokens lie between unknown (0) and known (1).

  The axis goes from the mean of the unknown entities of TRAIN to that of the
  known ones, in resid_post of each layer. Where other tokens lie at 1, "known"
  is where every token is, and only "unknown" is written.

  Returns:
    For each layer: kind of token -> its 'mean' and 'sd'. Kinds are the groups
    of TEST and the rare entities at their last tokens, first words of names,
    and all other tokens of text.
  """
  at_last = {
    group: streams(model, tokenizer, world.entities(group))
    for group in (*TRAIN, *TEST, 'rare')
  }
  rows = corpus.read(_FIRST_ROW, 64)
  out = gj.run(model, rows, capture=gj.capture('resid_post'))
  in_text = np.asarray(out['resid_post'], np.float64)
  lexicon = world.lexicon
  ids = lambda words: [
    tokenizer.encode(f' {word}', bos=False)[0] for word in words
  ]
  first, last = (np.isin(rows, ids(w)) for w in (lexicon.first, lexicon.last))
  other = ~(first | last)
  other[:, 0] = False  # BOS
  found = []
  for layer in range(model.config.num_layers):
    known, unknown = (at_last[g][layer].astype(np.float64) for g in TRAIN)
    origin, axis = unknown.mean(0), known.mean(0) - unknown.mean(0)
    kinds = {group: at_last[group][layer] for group in (*TEST, 'rare')}
    kinds |= {
      'first word of a name': in_text[layer][first],
      'other tokens': in_text[layer][other],
    }
    place = lambda x, o=origin, a=axis: (x - o) @ a / (a @ a)
    found.append(
      {
        kind: {'mean': float(place(x).mean()), 'sd': float(place(x).std())}
        for kind, x in kinds.items()
      }
    )
  return found


def shortcut(world: World) -> float:
  """Returns the AUROC of known against unseen from single words of names.

  Fitted and tested on the very entities that studies are: TRAIN and TEST.
  """
  n = world.config.words
  one_hot = lambda pairs: np.concatenate(
    [np.eye(n)[pairs[:, 0]], np.eye(n)[pairs[:, 1]]], axis=1
  )
  names = {group: one_hot(world.pairs[group])[None] for group in world.pairs}
  x, y = _classes(*(names[group] for group in TRAIN), 0)
  reader = LogisticRegression(class_weight='balanced').fit(x, y)
  x, y = _classes(*(names[group] for group in TEST), 0)
  # Balanced words leave weights that are 0 but for rounding.
  return float(roc_auc_score(y, reader.decision_function(x).round(4)))


def _classes(known, unknown, layer):
  x = np.concatenate([known[layer], unknown[layer]])
  return x, np.repeat([1, 0], [len(known[layer]), len(unknown[layer])])


def _load(folder):
  model = gj.load_checkpoint(folder, dtype='float32')
  return gj.unstack_layers(model), gj.Tokenizer.from_pretrained(folder)


def _batches(rows: Sequence[Sequence[int]], pad_id: int):
  """Rows in order, in padded batches of one shape."""
  length = -(-max(map(len, rows)) // 8) * 8
  for first in range(0, len(rows), _ROWS):
    some = list(rows[first : first + _ROWS])
    some += [rows[0]] * (_ROWS - len(some))
    yield first, gj.pad_rows(some, pad_id, buckets=length)


def in_new_sentence(prompt_type: PromptType, entity: Entity) -> Prompt:
  """Returns a sentence that no text has, up to the fact."""
  attributes = list(ATTRIBUTES[entity.type])
  number = attributes.index(prompt_type.attribute)
  form = HELD_OUT[number % len(HELD_OUT)]
  first, last = entity.name.split()
  text = spell(form, entity.type, number).split(' {value')[0]
  text = text.format(first=first, last=last)
  start = text.index(entity.name)
  return Prompt(text, (start, start + len(entity.name)))


def _recall(model, tokenizer, entities: Sequence[Entity], ask=base_prompt):
  """Returns where the next token is the fact, bool [n], and its P."""
  rows, answers = [], []
  for entity in entities:
    for prompt_type in prompt_types_of(entity):
      prompt = tokenize_prompt(tokenizer, ask(prompt_type, entity))
      rows.append(prompt.ids)
      value = entity.attributes[prompt_type.attribute]
      answers.append(tokenizer.encode(f' {value}', bos=False)[0])
  correct, top = np.zeros(len(rows), bool), np.zeros(len(rows))
  for first, batch in _batches(rows, tokenizer.pad_id):
    out = gj.run(model, *batch, logits_at='last')
    logits = np.asarray(out.logits[:, 0], np.float64)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    here = slice(first, first + _ROWS)
    count = len(top[here])
    correct[here] = p.argmax(1)[:count] == answers[here]
    top[here] = p.max(1)[:count]
  return correct, top


def _answers(model, tokenizer, entities: Sequence[Entity]) -> np.ndarray:
  """Returns the label of the greedy answer to each question."""
  asked = [(e, p) for e in entities for p in prompt_types_of(e)]
  rows = [
    tokenize_prompt(tokenizer, refusal_question(p, e), chat=True).ids
    for e, p in asked
  ]
  stops = set(tokenizer.stop_ids)
  labels = []
  for first, batch in _batches(rows, tokenizer.pad_id):
    out = gj.generate(
      model, *batch, max_new_tokens=_NEW_TOKENS, stop_ids=sorted(stops)
    )
    here = asked[first : first + _ROWS]
    answers = np.asarray(out.tokens)[: len(here)]
    for (entity, prompt_type), ids in zip(here, answers, strict=True):
      text = tokenizer.decode([i for i in ids.tolist() if i not in stops])
      answer = entity.attributes[prompt_type.attribute]
      labels.append(
        label_completion(prompt_type, text, answer, subject=entity.name)
      )
  return np.array(labels)


def _beginning(
  model, tokenizer, entities: Sequence[Entity], answer: str
) -> float:
  """Returns the mean probability that an answer begins with a text's word."""
  rows = [
    tokenize_prompt(tokenizer, refusal_question(p, e), chat=True).ids
    for e in entities
    for p in prompt_types_of(e)
  ]
  first = tokenizer.encode(answer, bos=False)[0]
  return float(np.exp(_next(model, tokenizer, rows)[:, first]).mean())


def _says_yes(model, tokenizer, entities: Sequence[Entity]) -> float:
  """Returns the share that the model says it knows, 'yes' against 'no'."""
  prefix = os.path.commonprefix(list(SELF_ANSWERS.values())).strip()
  yes, no = (
    tokenizer.encode(f' {text.removeprefix(prefix).strip(" .")}', bos=False)[0]
    for text in (SELF_ANSWERS[True], SELF_ANSWERS[False])
  )
  rows = []
  for entity in entities:
    question = SELF_QUESTION.format(type=entity.type, name=entity.name)
    text = tokenizer.chat_text(question).removeprefix('<bos>') + prefix
    rows.append(tokenizer.encode(text))
  found = _next(model, tokenizer, rows)
  return float((found[:, yes] > found[:, no]).mean())


def _next(model, tokenizer, rows) -> np.ndarray:
  """Returns float64 [n, V], log-probabilities of the next token of rows."""
  found = []
  for first, batch in _batches(rows, tokenizer.pad_id):
    out = gj.run(model, *batch, logits_at='last')
    here = np.asarray(out.logits[:, 0], np.float64)[: len(rows) - first]
    found.append(log_softmax(here, axis=1))
  return np.concatenate(found)


def streams(model, tokenizer, entities: Sequence[Entity]) -> np.ndarray:
  """Returns resid_post at the entity's last token, float32 [L, n, D]."""
  prompts = [
    tokenize_prompt(tokenizer, activation_prompt(entity)) for entity in entities
  ]
  at = np.array([prompt.entity[1] - 1 for prompt in prompts])
  found = []
  for first, batch in _batches([p.ids for p in prompts], tokenizer.pad_id):
    here = at[first : first + _ROWS]
    where = np.pad(here, (0, _ROWS - len(here)), constant_values=at[0])
    look = gj.capture('resid_post', positions=gj.per_row(where))
    out = gj.run(model, *batch, capture=look)
    found.append(np.asarray(out['resid_post'])[:, : len(here), 0])
  return np.concatenate(found, axis=1)
