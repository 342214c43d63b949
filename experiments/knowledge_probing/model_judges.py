"""Models as judges: one that reads the passage, and one for entailment.

correctness(...)      a language model says CORRECT or INCORRECT
informativeness(...)  it says YES or NO: does a text answer at all?
llm_verdicts(...)     both, as verdicts
entailment(folder)    do two texts entail each other?
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import re

import numpy as np
import tqdm

from experiments.entities.completions import complete
from experiments.knowledge_probing.formats import Format
from experiments.knowledge_probing.judging import JudgeSettings, judge
from experiments.knowledge_probing.probe_records import Question, Verdict
import gemma_jax as gj

# Written for this project (specification, section 3.3). A question without a
# passage is judged by its reference answer alone.
CORRECTNESS = (
  'Passage: {context}\nQuestion: {question}\nReference answer: {answer}\n'
  'Proposed answer: {text}\nUsing only the passage, is the proposed answer '
  'correct? Reply CORRECT or INCORRECT.'
)
WITHOUT_PASSAGE = (
  'Question: {question}\nReference answer: {answer}\nProposed answer: {text}\n'
  'Using only the reference answer, is the proposed answer correct? Reply '
  'CORRECT or INCORRECT.'
)
INFORMATIVENESS = (
  'Question: {question}\nResponse: {text}\nDoes the response give a specific '
  'answer to the question (right or wrong), rather than declining or being '
  'vague? Reply YES or NO.'
)
MAX_NEW_TOKENS = 4
_ROWS = 64  # prompts answered at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replies:
  """Holds what a judge says of n answers.

  Attributes:
    yes: [n], whether it says the first of its two words; what cannot be read
      is a no.
    unreadable: How many of them have neither word, or both.
  """

  yes: tuple[bool, ...]
  unreadable: int


def correctness(
  model: gj.Decoder,
  format: Format,
  questions: Sequence[Question],
  texts: Sequence[str],
) -> Replies:
  """Has a model say whether answers are correct, by the questions' passages.

  Args:
    model: The judge.
    format: How it is asked; its own tokenizer.
    questions: n of them.
    texts: An answer to each.

  Raises:
    ValueError: it says neither word even once.
  """
  prompts = [
    (CORRECTNESS if q.context else WITHOUT_PASSAGE).format(
      context=q.context,
      question=q.question,
      answer=q.answers[0],
      text=text,
    )
    for q, text in zip(questions, texts, strict=True)
  ]
  return _ask(model, format, prompts, ('CORRECT', 'INCORRECT'))


def informativeness(
  model: gj.Decoder,
  format: Format,
  questions: Sequence[Question],
  texts: Sequence[str],
) -> Replies:
  """Has a model say whether texts answer at all; likewise."""
  prompts = [
    INFORMATIVENESS.format(question=q.question, text=text)
    for q, text in zip(questions, texts, strict=True)
  ]
  return _ask(model, format, prompts, ('YES', 'NO'))


def llm_verdicts(
  model: gj.Decoder,
  format: Format,
  questions: Sequence[Question],
  texts: Sequence[Sequence[str]],
) -> tuple[list[dict[str, Verdict]], dict[str, int]]:
  """Returns a model's verdicts, for `verdicts` of `scoring.score`.

  Only what the rules do not call a refusal is asked about: a refusal is never
  correct.

  Args:
    model: The judge.
    format: How it is asked.
    questions: n of them.
    texts: What was said to each; equal texts are asked about once.

  Returns:
    For each question, text -> verdict; and how many replies to each of the two
    prompts could not be read.

  Raises:
    ValueError: as `correctness`.
  """
  found, pairs = [], []
  for i, (question, said) in enumerate(zip(questions, texts, strict=True)):
    by_rules = {
      text: judge(question, text, JudgeSettings())
      for text in dict.fromkeys(said)
    }
    found.append(by_rules)
    pairs += [(i, text) for text, each in by_rules.items() if not each.refusal]
  asked = [questions[i] for i, _ in pairs]
  right = correctness(model, format, asked, [text for _, text in pairs])
  informs = informativeness(model, format, asked, [text for _, text in pairs])
  for (i, text), yes, answers in zip(
    pairs, right.yes, informs.yes, strict=True
  ):
    found[i][text] = dataclasses.replace(
      found[i][text],
      correct=yes,
      informative=yes or answers,
      rule='llm' if yes else 'none: llm',
    )
  return found, {
    'correctness': right.unreadable,
    'informativeness': informs.unreadable,
  }


def read_word(reply: str, yes_and_no: tuple[str, str]) -> bool | None:
  """Returns True if a reply is the first or the second of two words; None if
  neither.

  Case does not count, and a word may be cut off by the limit of tokens
  ('INCORR'). A reply with both words is neither, and so is 'not correct'.
  """
  said = re.findall('[A-Z]+', reply.upper())
  if 'NOT' in said:
    return None
  found = {word for word in yes_and_no if word in said}
  if not found and said and len(said[-1]) > 1:
    found = {word for word in yes_and_no if word.startswith(said[-1])}
  return found == {yes_and_no[0]} if len(found) == 1 else None


def _ask(model, format, prompts, yes_and_no) -> Replies:
  """Puts every different prompt once, greedily."""
  different = list(dict.fromkeys(prompts))
  if not different:
    return Replies(yes=(), unreadable=0)
  replies = {}
  with tqdm.tqdm(total=len(different), desc='Judging', delay=5) as bar:
    for batch in complete(
      model,
      format.tokenizer,
      [format.prompt_ids(prompt) for prompt in different],
      [[0]] * len(different),
      temperatures=(0.0,),
      max_new_tokens=MAX_NEW_TOKENS,
      stop_at_line_break=format.stops_at_line_break,
      rows_per_batch=_ROWS,
    ):
      replies |= {different[i]: texts[0] for i, texts in batch.items()}
      bar.update(len(batch))
  read = {p: read_word(reply, yes_and_no) for p, reply in replies.items()}
  if all(answer is None for answer in read.values()):
    raise ValueError(
      f'a judge that answers neither word: none of {len(different)} replies '
      f'is {" or ".join(yes_and_no)}; to {different[0]!r} it says '
      f'{replies[different[0]]!r}. Use another --judge_model, one that follows '
      'instructions, or --judge=cascade.'
    )
  answers = [read[prompt] for prompt in prompts]
  return Replies(
    yes=tuple(answer is True for answer in answers),
    unreadable=sum(answer is None for answer in answers),
  )


class Entailment:
  """Do two texts mean the same? They do if each entails the other.

  Strict bidirectional entailment (Kuhn et al. 2302.09664): in both directions
  'entailment' is the likeliest label.
  """

  def __init__(self, folder: str | pathlib.Path):
    """Reads a sequence classifier of transformers.

    Args:
      folder: Holds config.json, weights as *.safetensors, and a tokenizer; such
        as a download of microsoft/deberta-v2-xlarge-mnli.

    Raises:
      ImportError: transformers or torch is not installed.
      FileNotFoundError: there is no such model.
      ValueError: none of its labels, or more than one, is 'entailment'.
    """
    try:
      import torch
      import transformers
    except ImportError as error:
      raise ImportError(
        'An entailment model needs torch and transformers. Install them with '
        "pip install '.[real]', or leave --nli_model out."
      ) from error
    folder = pathlib.Path(folder).expanduser()
    if not (folder / 'config.json').is_file():
      raise FileNotFoundError(
        f'{folder} has no config.json. --nli_model is a folder with a sequence '
        'classifier of transformers, such as a download of '
        'microsoft/deberta-v2-xlarge-mnli.'
      )
    self._torch = torch
    kind = transformers.AutoModelForSequenceClassification
    self._model = kind.from_pretrained(
      folder, use_safetensors=True, local_files_only=True
    ).eval()
    self._tokenizer = transformers.AutoTokenizer.from_pretrained(
      folder, local_files_only=True
    )
    labels = self._model.config.id2label
    found = [i for i, name in labels.items() if name.lower() == 'entailment']
    if len(found) != 1:
      raise ValueError(
        f'{folder} has the labels {list(labels.values())}, expected one of '
        "them to be 'entailment'. Give a model that was trained on NLI, or "
        'name its labels in config.json (id2label).'
      )
    self._label = int(found[0])
    self._known = {}

  def __call__(self, a: str, b: str) -> bool:
    """Returns True if two texts entail each other; equal ones do."""
    if a == b:
      return True
    pair = (a, b) if a < b else (b, a)
    if pair not in self._known:
      self._known[pair] = bool(self._entails([a, b], [b, a]).all())
    return self._known[pair]

  def about(self, question: str) -> Callable[[str, str], bool]:
    """Returns the judge of answers, each read as '{question} {answer}'."""
    return lambda a, b: self(f'{question} {a}', f'{question} {b}')

  def _entails(self, premises, hypotheses) -> np.ndarray:
    """bool [n]: does each premise entail its hypothesis?"""
    given = self._tokenizer(
      premises,
      hypotheses,
      return_tensors='pt',
      padding=True,
      truncation=True,
    )
    with self._torch.no_grad():
      logits = self._model(**given).logits
    return logits.argmax(-1).numpy() == self._label


def entailment(folder: str | pathlib.Path) -> Entailment:
  """Reads an entailment model, to be called as alike(a, b)."""
  return Entailment(folder)
