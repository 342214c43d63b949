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
               in every entity type at once; tested on others, beside random
               latents, probes, and the same search with shuffled labels
  4 steering   the latent's direction is added to the chat model while it reads
               a question: does it decline, does it make something up? Beside
               it random latents and directions of the same norm, and over
               doses, where they move the model equally far (KL divergence)

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
stream's; without it --goal has the smallest dose chosen that changes refusals
by so much on validation questions. For the published models the default is the
published coefficient, for others the goal.
"""

from collections.abc import Sequence

from absl import flags

from experiments import documents, inputs, outputs
from experiments.entities import MODES
from experiments.recognition.estimate import estimate
from experiments.recognition.page import write_page
from experiments.recognition.pipeline import Run
from experiments.recognition.plan import prepare
from experiments.recognition.summary import lines
from experiments.runs import SEED, define_number, whole
from experiments.steering import amounts
from experiments.steering.targets import EXPERIMENT


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines this program's flags; returns their names."""
  before = set(values)
  inputs.define_model(values)
  inputs.define_chat_model(values)
  inputs.define_saes(values)
  inputs.define_entities(values)
  common = {'flag_values': values}
  flags.DEFINE_string(
    'out', None, 'Folder for everything that is written.', **common
  )
  flags.DEFINE_enum(
    'mode',
    'default',
    MODES,
    "'reference' does as the published code did, its defects included, where "
    'published numbers are to be compared with: how answers and refusals are '
    'read, what latents are selected on, which random latents are controls, '
    'and how plain text is counted.',
    **common,
  )
  flags.DEFINE_list(
    'types', None, 'Entity types to use. Default: all there are.', **common
  )
  define_number(
    'max_entities',
    None,
    'Of each type, the first ones by name; to try things.',
    whole(9),
    **common,
  )
  flags.DEFINE_string(
    'labels',
    None,
    'Folder of answers of the base model, as experiments.label_entities and '
    'the published code write them.',
    **common,
  )
  define_number(
    'num_samples',
    10,
    'Sampled answers per question that label an entity; 3 right ones count.',
    whole(3, 10_000),
    **common,
  )
  flags.DEFINE_string(
    'text',
    None,
    'Plain text (.txt or .jsonl): latents that fire on 2 % of its words or '
    'more are not chosen. The paper has pile-10k. Default: no such filter.',
    **common,
  )
  flags.DEFINE_string('text_field', 'text', 'Of .jsonl objects.', **common)
  flags.DEFINE_enum(
    'separator', 'line', list(documents.SEPARATORS), 'Of a .txt file.', **common
  )
  define_number(
    'text_documents', 10_000, 'So many of them.', whole(1, 10**9), **common
  )
  define_number(
    'text_window', 128, 'Most tokens read of each.', whole(2), **common
  )
  define_number(
    'num_random',
    20,
    'Per chosen latent, random latents of its layer, matched in frequency or '
    'else nearest to it, and random directions.',
    whole(2, 10_000),
    **common,
  )
  define_number(
    'num_permutations',
    200,
    'Searches with shuffled labels; 0 leaves them out.',
    whole(0),
    **common,
  )
  amounts.define_flags(values)
  define_number(
    'harvest_batch', 128, 'Prompts per run of the model.', whole(), **common
  )
  define_number('seed', 0, 'Of all draws.', SEED, **common)
  flags.DEFINE_list(
    'figures',
    [],
    'Formats of files that every figure is written to: png, pdf, svg. Needs '
    'kaleido and Chrome.',
    **common,
  )
  return sorted(set(values) - before)


def run(values: flags.FlagValues, names: Sequence[str]) -> int:
  """Does what parsed flags say; returns the exit code."""
  try:
    plan = prepare(values)
    print(estimate(plan, values), flush=True)
    work = Run(plan, values)
    outputs.write_flags(plan.out, values, names, replace=False)
    people, labels = work.label()
    # Labels of another run are refused by now, and its flags.txt is left.
    outputs.write_flags(plan.out, values, names)
    sums, harvest, fingerprints = work.harvest(people)
    latents, arrays = work.find_latents(people, sums)
    steering, answers = work.steer(people, latents, sums)
    results = {
      'experiment': EXPERIMENT,
      'mode': values.mode,
      'seed': values.seed,
      'models': work.about,
      'saes': [f'{one.source}/{one.sae_id}' for one in plan.saes],
      'sae_fingerprints': fingerprints,
      'sums_sha256': work.sums_sha256,
      'splits': people.names(),
      'labels': labels,
      'harvest': harvest,
      'latents': latents,
      'steering': steering,
      'versions': outputs.versions(),
    }
    outputs.write_results(plan.out, results)
    outputs.write_lines(plan.out / 'answers.jsonl', answers)
    write_page(plan.out, results, arrays, answers, values.figures)
  except (OSError, ValueError, ImportError) as error:
    return outputs.failed(error)
  print('\n'.join(lines(results)))
  print(f'Report: {plan.out / outputs.REPORT_FILE}')
  return 0


if __name__ == '__main__':
  outputs.start(define_flags, run)
