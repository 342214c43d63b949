"""P(True): the model judges its own greedy answer (Kadavath et al. 2022).

The model sees what else it said, as in the code of semantic entropy
(jlko/semantic_uncertainty), then its greedy answer, and is asked whether that
is right. What it says is read off the next token. The wording is this
project's own.

Letters: n answers, B rows.
"""

from collections.abc import Sequence
import dataclasses

import jax.numpy as jnp
import numpy as np
import tqdm

from experiments.knowledge_probing.formats import Format
from experiments.knowledge_probing.probe_records import Question, Sampled
from experiments.knowledge_probing.prompt_batches import Shared, check_room
from experiments.self_report import next_tokens
import gemma_jax as gj

# Answers shown beside the greedy one: all 10 of jlko/semantic_uncertainty.
MOST_IDEAS = 10
_ABOUT = (
  'This was asked: {question}\n'
  'Answers that came to mind:\n{ideas}\n'
  'Possible answer: {answer}\n'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wording:
  """Says how a model is asked whether an answer is right, and what it may say.

  Attributes:
    asked: Follows the question, the ideas and the possible answer.
    lead: Beginning of the reply, put into the model's mouth.
    yes: What comes next if the answer is right; one token, with the space
      before it.
    no: What comes next if it is wrong; likewise.
  """

  asked: str
  lead: str
  yes: str
  no: str


LETTERS = Wording(
  asked='Is the possible answer right?\nA) True\nB) False',
  lead='The possible answer is:',
  yes='A',
  no='B',
)
WORDS = Wording(
  asked='Is the possible answer right? Say True or False.',
  lead='The possible answer is:',
  yes='True',
  no='False',
)
YES_NO = Wording(
  asked='Is the possible answer right? Answer yes or no.',
  lead='Answer:',
  yes='Yes',
  no='No',
)


def p_true(
  model: gj.Decoder,
  format: Format,
  questions: Sequence[Question],
  sampled: Sequence[Sampled],
  *,
  wording: Wording = LETTERS,
  examples: Sequence[tuple[Question, Sampled, bool]] = (),
  rows_per_batch: int = 64,
) -> np.ndarray:
  """Returns what the model says of the first greedy answer to each question.

  Args:
    model: The model.
    format: How it is asked.
    questions: n of them.
    sampled: The answers to each.
    wording: LETTERS, WORDS, YES_NO or one's own.
    examples: Shown first: other questions, their answers, and whether the
      first greedy one is right.
    rows_per_batch: Answers judged at once.

  Returns:
    float64 [n, 2]: the probability of yes among yes and no, and that of both
    words among all tokens. Where the latter is small, the former means little.

  Raises:
    ValueError: before work: a word is not one token, or a prompt is too long.
  """
  ids = _words(format.tokenizer, wording)
  shots = [
    (
      _text(*each, wording),
      f'{wording.lead} {wording.yes if right else wording.no}',
    )
    for *each, right in examples
  ]
  lead = wording.lead if format.name == 'chat' else f' {wording.lead}'
  lead = format.tokenizer.encode(lead, bos=False)
  rows = []
  for question, said in zip(questions, sampled, strict=True):
    text = _text(question, said, wording)
    rows.append([*format.prompt_ids(text, shots), *lead])
    check_room(model, len(rows[-1]), 0, f'P(True) of {question.id!r}')
  found = np.zeros((len(rows), 2))
  if not rows:
    return found
  shared = Shared.of(model, rows)
  order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
  size = min(rows_per_batch, len(rows))
  with tqdm.tqdm(desc='P(True)', total=len(rows), unit='answer') as bar:
    for start in range(0, len(order), size):
      batch = order[start : start + size]
      filled = [*batch, *batch[-1:] * (size - len(batch))]
      out = gj.run(
        model,
        *shared.rest(format.tokenizer, [rows[i] for i in filled]),
        logits_at='last',
        prefix=shared.cache,
      )
      said = next_tokens(out.logits[:, 0], jnp.asarray(ids))
      logits = np.asarray(said['logits'], np.float64)  # [B, 2]
      total = np.asarray(said['log_sum'], np.float64)  # [B]
      share = 1 / (1 + np.exp(logits[:, 1] - logits[:, 0]))
      mass = np.exp(logits - total[:, None]).sum(1)
      found[batch] = np.stack([share, mass], axis=1)[: len(batch)]
      bar.update(len(batch))
  return found


def _words(tokenizer: gj.Tokenizer, wording: Wording) -> list[int]:
  """Returns the tokens of yes and no after the lead."""
  lead = tokenizer.encode(wording.lead, bos=False)
  found = []
  for word in (wording.yes, wording.no):
    ids = tokenizer.encode(f'{wording.lead} {word}', bos=False)
    rest = ids[len(lead) :] if ids[: len(lead)] == lead else ids
    spelled = tokenizer.token_strings(rest)
    if spelled != [f' {word}']:
      raise ValueError(
        f'{f" {word}"!r} is not one token after {wording.lead!r}, but '
        f'{spelled}. Take another wording of p_true.py, make one of words that '
        'this tokenizer has, or leave P(True) out.'
      )
    found += rest
  if found[0] == found[1]:
    raise ValueError(
      f'{wording.yes!r} is both the yes and the no of {wording}.'
    )
  return found


def _text(question: Question, said: Sampled, wording: Wording) -> str:
  """Returns what the model is asked about its answers to a question."""
  line = lambda text: ' '.join(text.split())
  ideas = [line(each.text) for each in said.samples[:MOST_IDEAS]]
  ideas = ideas or [line(said.greedy[0].text)]
  about = _ABOUT.format(
    question=question.question,
    ideas='\n'.join(ideas),
    answer=line(said.greedy[0].text),
  )
  return about + wording.asked
