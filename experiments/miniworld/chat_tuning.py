"""Chat tuning: answer what is known, decline what is not.

Half of the questions are about known entities of one group, half about pairs
of the whole tail. Most ask for a fact, some whether the model knows the entity.
Gemma's chat format; only the answer is learnt. Rows of pre-training text go
along, so that nothing is forgotten.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.miniworld.pretraining_text import Corpus, Filler
from experiments.miniworld.sentences import (
  QUESTIONS,
  REFUSAL,
  SELF_ANSWERS,
  SELF_QUESTION,
  Template,
)
from experiments.miniworld.world import TYPES, World
import gemma_jax as gj

ANSWER = 'It is {value}.'
_END = '<end_of_turn>'


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatConfig:
  """Holds what is asked.

  Attributes:
    batch: Questions per step, even.
    replay: Rows of pre-training text per step.
    replay_weight: Weight of their loss.
    sure: Share of the questions that ask whether the model knows an entity, to
      be answered yes or no.
    seed: Random seed of all draws.
  """

  batch: int = 64
  replay: int = 16
  replay_weight: float = 1.0
  sure: float = 0.2
  seed: int = 0


class ChatBatch(NamedTuple):
  """Chats, and text to remember.

  Attributes:
    tokens, positions: int32 [B, T], -1 at padding.
    answers: bool [B, T], the tokens to learn.
    replay: Rows of text int32 [R, T'], and which of their tokens to learn.
  """

  tokens: np.ndarray
  positions: np.ndarray
  answers: np.ndarray
  replay: tuple[np.ndarray, np.ndarray]


class Asked(NamedTuple):
  """Questions put to a chat model.

  Attributes:
    tokens, positions: int32 [B, T], the prompts.
    values: int32 [B], the token of the right value, which follows 'It is'.
  """

  tokens: np.ndarray
  positions: np.ndarray
  values: np.ndarray


class Chats:
  """Questions with answers, as tokens."""

  def __init__(
    self,
    world: World,
    tokenizer: gj.Tokenizer,
    corpus: Corpus,
    config: ChatConfig,
  ):
    """Compiles the templates."""
    self._world, self._corpus, self._config = world, corpus, config
    self._tokenizer = tokenizer
    self._filler = filler = Filler(world, tokenizer)
    # True if it asks for a fact -> True if it is known -> type -> templates.
    self._templates = {
      about_fact: {
        known: [
          filler.compile(_chats(tokenizer, questions, answer), k)
          for k in range(len(TYPES))
        ]
        for known, answer in answers.items()
      }
      for about_fact, questions, answers in (
        (True, QUESTIONS, {True: ANSWER, False: REFUSAL}),
        (False, (SELF_QUESTION,), SELF_ANSWERS),
      )
    }
    longest = max(
      len(template.ids)
      for of_form in self._templates.values()
      for of_class in of_form.values()
      for of_type in of_class
      for template in of_type
    )
    self._length = -(-(longest + 1) // 8) * 8

  def batch(self, step: int) -> ChatBatch:
    """Returns what a step learns from."""
    config, world = self._config, self._world
    rng = np.random.default_rng([config.seed, 3, step])
    rows, lengths = [], []
    for number in range(config.batch):
      known = number % 2 == 0
      group = 'tuning' if known else 'tail'
      i = rng.integers(len(world.pairs[group]))
      kind = world.types[group][i] if known else rng.integers(len(TYPES))
      about_fact = rng.random() >= config.sure
      templates = self._templates[about_fact][known][kind]
      template = templates[rng.integers(len(templates))]
      facts = world.facts[group][i] if known else None
      ids, answer = self._row(template, world.pairs[group][i], kind, facts)
      rows.append(ids)
      lengths.append(answer)
    tokens, positions = self._pad(rows)
    text = self._corpus.read(10**9 + step * config.replay, config.replay)
    return ChatBatch(
      tokens,
      positions,
      positions >= np.array(lengths)[:, None],
      (text, self._corpus.learnt(text)),
    )

  def ask(self, group: str, question: int) -> Asked:
    """Returns one question about every attribute of every entity of a group.

    Args:
      group: Group of the world, not the tail.
      question: Number of its form in QUESTIONS.
    """
    world = self._world
    (text,) = _chats(
      self._tokenizer, QUESTIONS[question : question + 1], ANSWER
    )
    templates = [self._filler.compile([text], k) for k in range(len(TYPES))]
    rows, values = [], []
    for pair, kind, facts in zip(
      world.pairs[group], world.types[group], world.facts[group], strict=True
    ):
      for attribute, template in enumerate(templates[kind]):
        ids, answer = self._row(template, pair, kind, facts)
        rows.append(ids[:answer])
        values.append(self._filler.values[kind][attribute][facts[attribute]])
    return Asked(*self._pad(rows), np.array(values))

  def judge(
    self, config: gj.ModelConfig, known: str, unseen: str
  ) -> Callable[[Mapping[str, jax.Array]], dict[str, float]]:
    """Says what weights answer about two groups, by their first words.

    Args:
      config: Configuration of the model.
      known, unseen: Groups.

    Returns:
      A function of weights. 'correct' and 'refused' are shares of the known
      ones, 'declined' of the unseen ones; 'score' is the least of how far
      correct, declined, and 1 - refused are on their way to 1.
    """
    sorry = self._tokenizer.encode(REFUSAL, bos=False)[0]
    it_is = self._tokenizer.encode(ANSWER.split(' {')[0], bos=False)
    asked = {group: self.ask(group, 0) for group in (known, unseen)}

    @jax.jit
    def first_and_value(weights, tokens, positions):
      model = gj.Decoder(config, dict(weights))
      last = positions.max(1, keepdims=True)
      first = gj.forward(model, tokens, positions, logits_at='last').logits
      more = jnp.broadcast_to(jnp.array(it_is), (len(tokens), len(it_is)))
      out = gj.forward(
        model,
        jnp.concatenate([tokens, more], 1),
        jnp.concatenate([positions, last + 1 + jnp.arange(len(it_is))], 1),
        logits_at='last',
      )
      return first[:, 0].argmax(-1), out.logits[:, 0].argmax(-1)

    def judge(weights):
      found = {}
      for group, questions in asked.items():
        first, value = map(
          np.asarray,
          first_and_value(weights, questions.tokens, questions.positions),
        )
        found[group] = (
          (first == sorry).mean(),
          ((first != sorry) & (value == questions.values)).mean(),
        )
      (refused, correct), (declined, _) = found[known], found[unseen]
      return {
        'score': float(min(correct, declined, 1 - refused)),
        'correct': float(correct),
        'refused': float(refused),
        'declined': float(declined),
      }

    return judge

  def _row(self, template: Template, pair, kind, facts):
    """Token ids with BOS, and where the answer starts."""
    ids = self._filler.fill(template, pair, kind, facts)[:-1]  # without EOS
    ids = [self._tokenizer.bos_id, *ids.tolist()]
    # The second turn: its opening, 'model', a line break.
    opening = self._tokenizer.encode('<start_of_turn>', bos=False)[0]
    return ids, len(ids) - ids[::-1].index(opening) + 2

  def _pad(self, rows):
    return gj.pad_rows(
      rows, self._tokenizer.pad_id, side='right', buckets=self._length
    )


def _chats(tokenizer: gj.Tokenizer, questions, answer: str) -> list[str]:
  """Templates of whole chats, without the BOS."""
  return [
    tokenizer.chat_text(question).removeprefix('<bos>') + answer + _END
    for question in questions
  ]
