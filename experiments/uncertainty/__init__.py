"""Which answers are wrong? Latents and other detectors of a model's errors.

  asked = about_entities(people)
  answers = answer(model, tokenizer, asked, AnswerOptions())
  data = Data(asked=asked, answers=answers, judged=judge(asked, answers))
  results, arrays = find(model, tokenizer, saes, data, SearchOptions())

`asked_questions.py` and `trivia.py` say what is asked, `begun_answers.py` how
it is answered and `error_labels.py` which answers are errors;
`answer_signals.py` has detectors that read the answers, `latent_search.py` and
`error_detectors.py` those that read the model; `latent_reading.py` and
`study.py` put them together, `summary.py` says what is reported.
"""

from experiments.uncertainty.answer_signals import (
  answer_signals,
  semantic_entropy,
)
from experiments.uncertainty.asked_questions import Asked, about_entities
from experiments.uncertainty.begun_answers import (
  Answer,
  AnswerOptions,
  answer,
  p_refusal,
  p_true,
)
from experiments.uncertainty.data import Data, types_to_use
from experiments.uncertainty.error_labels import Judged, judge
from experiments.uncertainty.study import SearchOptions, find
from experiments.uncertainty.trivia import read_trivia
