"""Ordinary requests that are rehearsed beside an arm's rows.

Rows about entities alone teach a small model to decline anything. Beside them
it can be shown requests that have nothing to do with knowing, with what it
said itself before tuning. None of these is among the requests that the side
effects are measured on, though kinds are shared.
"""

import functools
import pathlib
import re

import numpy as np

from experiments import knowledge_probing as probing
from experiments.entities.completions import complete
from experiments.stats.evenly import take_evenly
import gemma_jax as gj
from gemma_jax.json_files import read_json

REQUESTS = pathlib.Path(__file__).parent / 'rehearsed.json'
_NEW_TOKENS = 64
# A text up to the end of its last sentence; '2.' in a list ends none.
_SENTENCES = re.compile(r'.*[^\d\s][.!?]["”’\')]*(?=\s|$)', re.DOTALL)


def read_requests() -> list[dict[str, str]]:
  """Returns the requests, written for this project: id, kind, request."""
  return read_json(REQUESTS, list)


def own_answers(
  model: gj.Decoder, format: probing.Format, most: int, seed: int = 0
) -> dict[str, str]:
  """Returns requests with the model's own greedy answers.

  A model with a chat template is asked as it was trained to be asked; its
  answers then fit any format. Where a line break ends answers, lines are
  joined. An answer of the most tokens was cut, and then ends with its last
  whole sentence. A request is left out where the model says nothing or
  declines.

  Args:
    model: The untuned model.
    format: How the study puts questions.
    most: Requests, drawn evenly over kinds.
    seed: Random seed of the draw.

  Raises:
    ValueError: no request is answered.
  """
  requests = read_requests()
  kinds = [each['kind'] for each in requests]
  taken = sorted(take_evenly(kinds, most, np.random.default_rng(seed)))
  asked = [requests[i]['request'] for i in taken]
  natural = _natural(format)
  encode = functools.partial(format.tokenizer.encode, bos=False)
  answers = {}
  for batch in complete(
    model,
    format.tokenizer,
    [natural.prompt_ids(each) for each in asked],
    [[0]] * len(asked),
    temperatures=[0.0],
    max_new_tokens=_NEW_TOKENS,
    stop_at_line_break=natural.stops_at_line_break,
  ):
    for number, (text,) in batch.items():
      whole = _SENTENCES.match(text)
      if whole and len(encode(text)) >= _NEW_TOKENS:
        text = whole[0]
      text = text.strip()
      if format.stops_at_line_break:
        text = ' '.join(text.split())
      if text and not probing.declines(text):
        answers[asked[number]] = text
  if not answers:
    raise ValueError(
      f'The model answers none of {len(asked)} ordinary requests, so that '
      'there is nothing to rehearse. Leave --ordinary out.'
    )
  return {each: answers[each] for each in asked if each in answers}


def _natural(format: probing.Format) -> probing.Format:
  """Returns the chat format of a model that has one, else the study's."""
  try:
    return probing.Format(name='chat', tokenizer=format.tokenizer)
  except ValueError:
    return format
