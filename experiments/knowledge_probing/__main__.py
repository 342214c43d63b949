r"""What does a model know, and what does it only claim?

  python -m experiments.knowledge_probing --out=out/probe/miniworld
  python -m experiments.knowledge_probing --out=out/probe/smollm2 \
    --model=SmolLM2-135M-Instruct.gguf --cities=city.json
  python -m experiments.knowledge_probing --out=out/probe/gemma \
    --model=google/gemma-2-2b-it --questions=triviaqa.json --slick

The study asks the model many questions many times, as Llama 3's knowledge
probing does (arXiv 2407.21783, section 4.3.6), and says of each question
whether the model knows the answer, claims one that is wrong, or declines.

  questions   what is asked, each in a split: --questions, --cities,
              --entities, --snippets, or the bundled world
  samples     greedy and sampled answers
  scores      right or wrong, SliCK's categories, semantic entropy
  decisions   what every rule makes of them: answer, refuse, or leave out
  rows        training rows of one rule, as TRL reads them
  report      numbers, and which signals tell right answers

--out gets one file of JSON lines per stage, flags.txt, results.json and
report.html. A killed run goes on with the same command. --stage runs one
stage alone. `experiments.refusal_tuning` trains on what is found and asks
again.
"""

import time

from experiments.knowledge_probing.opening import open_study
from experiments.knowledge_probing.page import summary, write_page
from experiments.knowledge_probing.reporting import report, write_rows
from experiments.knowledge_probing.settings import Settings
from experiments.knowledge_probing.study import probe
from experiments.runs import keep_programs, outputs, start


def work(settings: Settings, keep_flags) -> str:
  """Runs the stages; returns what the report says first."""
  begun = time.monotonic()
  study = open_study(settings)
  keep_flags()
  keep_programs(study.folder / 'work' / 'compiled')
  probed = probe(study)
  if settings.stage in ('all', 'rows'):
    write_rows(study, probed)
  if settings.stage not in ('all', 'report'):
    return ''
  results = report(study, probed) | {'seconds': time.monotonic() - begun}
  outputs.write_results(study.folder, results)
  write_page(study.folder)
  return '\n'.join(summary(results))


if __name__ == '__main__':
  start(Settings, work)
