"""What a chat model says of its own knowledge, and whether steering changes it.

  questions = ask_about(tokenizer, people.of('test', 'known'),
                        people.of('test', 'unknown'), PUBLISHED)
  replies = measure(model, questions, arms, token_ids)
  results = summarise(questions, arms, replies)

`wording.py` has the question, `self_questions.py` who is asked about,
`replies.py` the numbers, `summary.py` what is computed from them.
"""

from experiments.self_report.arms import self_report_arms
from experiments.self_report.replies import Replies, measure, next_tokens
from experiments.self_report.self_questions import (
  ask_about,
  ask_ordinary,
  ask_per_relation,
)
from experiments.self_report.summary import METRICS, summarise
from experiments.self_report.wording import (
  PUBLISHED,
  Wording,
  single_token,
)
