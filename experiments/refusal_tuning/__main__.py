r"""Can a model learn to decline what it does not know, and how does it?

  python -m experiments.knowledge_probing --out=out/probe/miniworld
  python -m experiments.refusal_tuning --out=out/tuned/miniworld \
    --probe=out/probe/miniworld

A probe says which questions a model answers right and which it gets wrong.
This study trains the model on rows made of that, by several rules, asks again
about entities and a relation that no row came from, and looks inside before
and after.

  - What did tuning change in its answers? Accuracy, refusals, hallucinations,
    over-conservativeness, prudence, honesty and more, each paired with the
    untuned model's.
  - Which rule refuses errors that the model is certain of, and which uncertain
    ones, and what does each cost?
  - What became of plain text and of ordinary requests?
  - Do latents of the base model's SAEs fire on the same entities? Does adding
    the unknown latent cause refusals after tuning and not before? Do detector
    and controller agree? Which weights changed what? Repurposed, or made anew?

--out gets flags.txt, results.json, report.html, and the tuned models: folders
as HF reads them, or adapters as PEFT reads them. A killed run goes on with the
same command.
"""

from experiments.refusal_tuning.opening import open_study
from experiments.refusal_tuning.page import summary, write_page
from experiments.refusal_tuning.settings import Settings
from experiments.refusal_tuning.study import run_study
from experiments.runs import keep_programs, outputs, start


def work(settings: Settings, keep_flags) -> str:
  """Runs the study; returns what the report says first."""
  study = open_study(settings)
  keep_flags()
  keep_programs(study.folder / 'work' / 'compiled')
  results = run_study(study)
  outputs.write_results(study.folder, results)
  write_page(study.folder)
  return '\n'.join(summary(results))


if __name__ == '__main__':
  start(Settings, work)
