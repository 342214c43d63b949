"""What a model knows, found by asking: probing, scores, rules, training rows.

`__main__.py` says what the study asks; `settings.py` has its flags,
`opening.py` its checked input, `study.py` its stages, `probed.py` what they
leave, `reporting.py` its rows and numbers.

records, formats     what passes between stages; questions as tokens
sources, passages    what is asked; cities, world_questions: two sources
splits, shots        in which part, after which demonstrations
asking, p_true       what the model says
judging, scoring     what that amounts to; model_judges: judges that are models
rules, rows          what is made of it; balance, refusal_texts, row_files
signals, readers     what tells a right answer; streams, detectors
"""

from experiments.knowledge_probing.asking import AskingPlan, ask
from experiments.knowledge_probing.decision_rows import Row, make_rows
from experiments.knowledge_probing.formats import ADMIT, Format
from experiments.knowledge_probing.informative import declines
from experiments.knowledge_probing.judging import (
  JudgeSettings,
  judge,
  others_of,
)
from experiments.knowledge_probing.opening import (
  Study,
  open_study,
  rule_settings,
)
from experiments.knowledge_probing.probe_records import (
  Decision,
  Question,
  Score,
  Verdict,
)
from experiments.knowledge_probing.probed import Probed, pools_of, read_probe
from experiments.knowledge_probing.refusal_texts import refusal_text
from experiments.knowledge_probing.rules import agreement, decide_all, is_right
from experiments.knowledge_probing.settings import Settings
from experiments.knowledge_probing.training_rows import training_rows
