r"""Which SAE latents say "I know this entity", and what do they cause?

  python -m experiments.entity_recognition --out=out/recognition   # MiniWorld

  python -m experiments.entity_recognition --out=out/gemma_2_2b \
    --model=google/gemma-2-2b --chat_model=google/gemma-2-2b-it \
    --sae=gemma-scope-2b-pt-res --entities=wikidata --text=pile_10k.jsonl

The experiment of arXiv 2411.14257, sections 2 to 5:

  1 labels     the base model answers questions about every entity; those that
               it answers are known, those of which it gets nothing right are
               unknown (--labels=DIR takes answers that are there already)
  2 harvest    at the last token of each name, which latents of which layers
               fire, for how many known and unknown entities
  3 latents    on half of the entities, the latent that best tells them apart
               in every entity type at once, by AUROC, by how often it fires
               (as published), and by how strongly; tested on others, beside
               random latents, probes, what names alone tell, and the same
               search with shuffled labels
  4 steering   a latent's direction is added to the chat model while it reads a
               question: does it decline, does it make something up? Layer and
               dose are chosen on validation by what they cause. Beside it, at
               every dose, random latents and directions of the same norm; and
               all of them where they move the model equally far on ordinary
               text (KL divergence). The same in the base model says what chat
               tuning made of the latents

--out gets

  report.html      question, answer, figures: one file, for any browser
  results.json     every number, with n, intervals, seeds and versions
  answers.jsonl    every question, arm and answer, with its outcome and the
                   divergence of the arm from the original
  flags.txt        a flagfile that repeats the run
  labels/, harvest/, latents/, steering/   what stages keep

The same command again finds finished stages, and goes on where it was killed;
stages that other flags change are done again. Only labels are not thrown away:
other --mode, --seed, --num_samples, --max_entities or --types need another
--out, or --labels.

How much of a latent is added: --alpha_known and --alpha_unknown are
coefficients of decoder rows; without them --dose is a norm in units of the
stream's; without it latent and dose are chosen on validation questions, and
--goal says what effect is enough. For the published models the default is the
published coefficient.
"""

from experiments.entity_recognition.estimate import estimate
from experiments.entity_recognition.page import write_page
from experiments.entity_recognition.pipeline import RecognitionStages
from experiments.entity_recognition.plan import prepare
from experiments.entity_recognition.settings import Settings
from experiments.entity_recognition.summary import lines
from experiments.inputs.recognition_run import EXPERIMENT
from experiments.runs import KeepFlags, outputs, start


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Runs the stages, writes results and report; returns the summary."""
  plan = prepare(settings)
  print(estimate(plan, settings), flush=True)
  stages = RecognitionStages(plan, settings)
  keep_flags(replace=False)
  people, labels = stages.label()
  # Labels of another run are refused by now, and its flags.txt is left.
  keep_flags()
  sums, harvest, fingerprints = stages.harvest(people)
  latents, arrays = stages.find_latents(people, sums)
  steering, answers = stages.steer(people, latents, arrays, sums)
  results = {
    'experiment': EXPERIMENT,
    'mode': settings.mode,
    'seed': settings.seed,
    'models': stages.about,
    'saes': [f'{one.source}/{one.sae_id}' for one in plan.saes],
    'sae_fingerprints': fingerprints,
    'sums_sha256': stages.sums_sha256,
    'splits': people.names(),
    'labels': labels,
    'harvest': harvest,
    'latents': latents,
    'steering': steering,
    'versions': outputs.versions(),
  }
  outputs.write_results(plan.out, results)
  outputs.write_lines(plan.out / 'answers.jsonl', answers)
  write_page(plan.out, results, arrays, answers, settings.figures)
  return '\n'.join(lines(results))


if __name__ == '__main__':
  start(Settings, work)
