"""How a model recalls a fact, and what holds it back.

`__main__.py` says what the study asks; `settings.py` has its flags,
`opening.py` what it works on, `study.py` its stages, `steps.py` what a stage
computes.

tasks, prompts    what is asked, as tokens
trace             one run, read at the last tokens
path_patching     which heads and MLPs the answer needs; receivers, movers
regression        what an MLP does with what heads wrote
restraint         the last layer; mitigation undoes it, price says the cost
dissection        attention knockouts, extraction, enrichment
knowing           known against unknown subjects
summary           claims and verdicts
"""

from experiments.factual_recall.plain_text import (
  find_text,
  has_documents,
  text_rows,
)
from experiments.factual_recall.settings import Settings
from experiments.factual_recall.tasks import Fact, read_task
from experiments.factual_recall.trace import batches
