r"""How does a model recall a fact, and what holds it back?

  python -m experiments.factual_recall --out=out/recall/miniworld
  python -m experiments.factual_recall --out=out/recall/smollm2 \
    --model=SmolLM2-135M-Instruct.gguf
  python -m experiments.factual_recall --out=out/recall/gpt2 \
    --model=openai-community/gpt2 --tasks=capitals --prompts=225

"The capital of France is": the study follows a fact through the model, as in
"Interpreting Key Mechanisms of Factual Recall" (arXiv 2403.19521) and
"Dissecting Recall" (arXiv 2304.14767).

  - Which heads and MLPs does the answer need? Path patching of every one.
  - Do the strongest heads attend to the subject, and write it?
  - Does the MLP above erase or amplify what they wrote, and does it add a
    direction of the task's own? A regression, with held-out subjects.
  - Does the last layer hold the answer back? What does undoing it bring, and
    what does it cost on plain text?
  - Which attention edges does the answer need, and where is it extracted?
  - Does all of that differ for subjects that the model does not know?

Every claim gets a number with its interval and a verdict: it holds, it does
not, or this cannot be told. Models of this size need demonstrations; --shots
says how many, and they are run once for all prompts.

--out gets flags.txt, results.json, report.html, and stages/, from which the
same command goes on after a kill. The table at the end has the runs in the
folders beside it too. Two published numbers are known, P(answer) of GPT-2
small before and after, 15.51 and 25.93 %;
`experiments.paper --family=gpt2` sets them beside ours.
"""

from experiments.factual_recall.opening import open_study
from experiments.factual_recall.page import write_page
from experiments.factual_recall.settings import Settings
from experiments.factual_recall.study import run_study
from experiments.runs import outputs, start


def work(settings: Settings, keep_flags) -> str:
  """Runs the study; returns the table of models."""
  study = open_study(settings)
  keep_flags()
  outputs.write_results(study.folder, run_study(study))
  return write_page(study.folder)


if __name__ == '__main__':
  start(Settings, work)
