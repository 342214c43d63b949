r"""Does a model still decline with a direction taken out of its weights?

  python -m experiments.weight_ablation --out=out/weight_ablation

  python -m experiments.weight_ablation --out=out/weight_ablation_2b \
    --chat_model=google/gemma-2-2b-it --sae=gemma-scope-2b-pt-res \
    --entities=wikidata --run=out/recognition_2b --text=pile_10k.jsonl \
    --dtype=float32

Takes a direction out of everything a chat model writes to its stream: the
decoder row of the run's unknown (or --label=known) latent, the difference of
the classes' means, or one from a file. In two --ways:

  exact       Gemma 2 has a norm with a gain behind every sublayer. Weights are
              projected so that what comes out behind it is orthogonal to the
              direction, in float32 to 1e-6 (bfloat16 rounds to about 1e-4):
              measured on real runs, at every site and of the embedding
  reference   as the code of arXiv 2411.14257: the sublayer's own output is
              orthogonal to the direction, what its norm makes of it is not

The edited model answers questions about known and unknown entities, against the
original question by question, and against models that random latents were taken
out of. Beside that, how far it is from the original: on its answers and, with
--text, on plain text.

--out gets flags.txt, results.json, answers.jsonl, effects.safetensors,
report.html, answers/ and kl/ (from which the same command goes on); and a
folder per way, a checkpoint that HF transformers loads, with tokenizer and chat
template. It is untied: the unembedding is the model's own, only the embedding
is projected, which one matrix for both could not say
(experiments/weight_ablation/checkpoint.py).
"""

from collections.abc import Mapping, Sequence

from absl import flags
import numpy as np

from experiments import inputs, weight_ablation
from experiments.inputs import study_inputs as subject_lib
from experiments.inputs.documents import DocumentFile
from experiments.latents import CLASSES
from experiments.runs import define_number, outputs, whole
from experiments.steering import (
  ORIGINAL,
  RANDOM_LATENT,
  WAYS,
  Rules,
  ablate_weights,
  generate_answers,
  make_examples,
  make_questions,
  measure_divergences,
  summarise,
  written_at_first,
)
from experiments.weight_ablation import figures
from experiments.weight_ablation.arms import LATENT, MEAN_DIFFERENCE
import gemma_jax as gj
from gemma_jax.whole_files import save_tensors

_TITLE = 'Does a model decline without the direction?'


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines this program's flags; returns their names."""
  before = set(values)
  subject_lib.define_flags(values, model='chat')
  common = {'flag_values': values}
  flags.DEFINE_enum(
    'label',
    'unknown',
    list(CLASSES),
    "Whose direction: that of the run's known or unknown latent.",
    **common,
  )
  flags.DEFINE_string(
    'direction',
    LATENT,
    f"'{LATENT}': its decoder row; '{MEAN_DIFFERENCE}': from the other class's "
    "mean to that of --label, at the latent's site; else a .safetensors file "
    "with one tensor [D], or one called 'direction'.",
    **common,
  )
  flags.DEFINE_list(
    'ways',
    None,
    f'How it is taken out, of {" and ".join(WAYS)}; random latents are, as the '
    'first says. Default: both; with --mode=reference, reference.',
    **common,
  )
  flags.DEFINE_bool('save', True, 'Write the checkpoints.', **common)
  define_number(
    'questions', 25, 'Per entity type and class.', whole(), **common
  )
  define_number(
    'max_new_tokens', 30, 'Most tokens of an answer.', whole(), **common
  )
  define_number(
    'rows_per_batch', 256, 'Answers generated at once.', whole(), **common
  )
  flags.DEFINE_string(
    'text',
    None,
    'Plain text (.txt, a document per line, or .jsonl) to compare models on. '
    'Default: for the bundled model its own; for others none.',
    **common,
  )
  flags.DEFINE_string('text_field', 'text', 'Of .jsonl objects.', **common)
  define_number(
    'text_documents', 400, 'So many of them.', whole(1, 10**9), **common
  )
  define_number(
    'text_window', 64, 'Most tokens read of each.', whole(2), **common
  )
  return subject_lib.finish_flags(values, before)


def run(values: flags.FlagValues, names: Sequence[str]) -> int:
  """Does what parsed flags say; returns the exit code."""
  try:
    ways = _ways(values)
    subject = subject_lib.open_subject(values, names, model='chat')
    direction, controls, source = weight_ablation.choose_direction(subject)
    documents = _documents(subject)
    questions = make_questions(
      subject.tokenizer,
      subject.people.of('test', 'known'),
      subject.people.of('test', 'unknown'),
      per_class=values.questions,
      # Published ones are drawn with 42.
      seed=42 if values.mode == 'reference' else values.seed,
    )
    subject.begin()
    model = subject.load()
    arms = weight_ablation.make_arms(values.label, direction, controls, ways)
    steering, examples = _answers(subject, model, questions, arms)
    edited = {way: ablate_weights(model, direction, way) for way in ways}
    saved, cosines = _written(subject, model, edited, direction, questions)
    text, arrays = {}, {}
    if documents:
      text, arrays = _on_text(subject, model, edited, direction, documents)
    arrays |= {f'cosines/{name}': x for name, x in cosines.items()}
    save_tensors(subject.out / 'effects.safetensors', arrays)
    outputs.write_lines(subject.out / 'answers.jsonl', examples)
    results = {
      'direction': source | {'ways': ways},
      'steering': steering,
      'random': weight_ablation.among_random(steering),
      'written': _largest(cosines),
      'layers': {name: x.tolist() for name, x in cosines.items()},
      'checkpoints': saved,
      'text': text,
    }
    subject.write(
      'weight_ablation',
      results,
      _TITLE,
      summary(results),
      figures.sections(results, examples),
    )
  except (OSError, ValueError, ImportError) as error:
    return outputs.failed(error)
  return 0


def _ways(values) -> list[str]:
  ways = values.ways
  if ways is None:
    ways = WAYS if values.mode == 'default' else ('reference',)
  if not ways or not set(ways) <= set(WAYS):
    raise ValueError(
      f'--ways={",".join(ways)} must be some of {", ".join(WAYS)}.'
    )
  return list(dict.fromkeys(ways))


def _documents(subject) -> list[list[int]]:
  """Tokens of plain text, a list per document; [] for none."""
  values = subject.values
  path = values.text
  if path is None and values.chat_model == inputs.BUNDLED:
    path = inputs.BUNDLE / 'text.txt'
  if path is None:
    return []
  read = DocumentFile(path, field=values.text_field).read
  ids = [
    subject.tokenizer.encode(text)[: values.text_window]
    for _, text in read(stop=values.text_documents)
  ]
  ids = [row for row in ids if len(row) > 1]
  if not ids:
    raise ValueError(f'{path} has no document of a word.')
  return ids


def _answers(subject, model, questions, arms) -> tuple[dict, list[dict]]:
  """All numbers of all arms, and the answers."""
  values = subject.values
  rules = Rules.of_mode(values.mode)
  common = {
    'stop_ids': subject.tokenizer.stop_ids if rules.stop else (),
    'rows_per_batch': values.rows_per_batch,
    'identity': subject.about,
    'redo': True,
  }
  answers = generate_answers(
    model,
    questions,
    arms,
    max_new_tokens=values.max_new_tokens,
    folder=subject.out / 'answers',
    **common,
  )
  divergences = measure_divergences(
    model, questions, arms, answers[0], folder=subject.out / 'kl', **common
  )
  examples = make_examples(
    subject.tokenizer, questions, arms, answers, rules, divergences
  )
  return summarise(arms, examples), examples


def _written(subject, model, edited, direction, questions):
  """Saves checkpoints; how much of the direction is written, by layers.

  What is measured is what was saved, read back.
  """
  values, saved, cosines = subject.values, {}, {}
  measure = lambda model, interventions=None: weight_ablation.largest_cosines(
    model, interventions, direction, questions
  )
  found = {ORIGINAL: measure(model)}
  for way, (one, interventions) in edited.items():
    if not values.save:
      found[way] = measure(one, interventions)
      continue
    folder = subject.out / way
    weight_ablation.save_untied(
      one, direction, folder, companions=subject.reader.folder
    )
    found[way] = measure(gj.load_checkpoint(folder))
    saved[way] = folder
  for name, sites in found.items():
    cosines |= {f'{name}/{site}': x for site, x in sites.items()}
  return saved, cosines


def _on_text(subject, model, edited, direction, documents):
  """The ways, and the first in a tied checkpoint, on plain text."""
  others = dict(edited)
  way, (first, _) = next(iter(edited.items()))
  if first.config.tied:
    weights = first.weights()
    weights |= written_at_first(weights, direction)
    others[f'{way}, tied'] = gj.Decoder(first.config, weights), None
  return weight_ablation.compare_on_text(
    model,
    others,
    documents,
    rows_per_batch=min(16, subject.values.rows_per_batch),
    seed=subject.values.seed,
  )


def _largest(cosines: Mapping[str, np.ndarray]) -> dict:
  """Arm -> site -> the largest of any layer; and of the embedding."""
  found = {}
  for name, x in cosines.items():
    arm, site = name.split('/')
    found.setdefault(arm, {})[site] = float(x.max())
    if site == 'resid_pre':
      found[arm]['embedding'] = float(x[0])
  return found


def summary(results: Mapping) -> list[str]:
  """Refusals before and after, and what is left of the direction."""
  steering = results['steering']
  lines = [f'Taken out: the {results["direction"]["name"]}.']
  for arm in steering['arms']:
    if arm['kind'] == RANDOM_LATENT:
      continue
    for name, scopes in arm['counts'].items():
      cell = scopes['all']
      line = (
        f'{arm["name"]}, {name} entities: {cell["refusal"]["value"]:.1%} '
        f'[{cell["refusal"]["low"]:.1%}, {cell["refusal"]["high"]:.1%}] '
        f'decline, {cell["correct"]["value"]:.1%} correct, '
        f'{cell["wrong"]["value"]:.1%} wrong (n = {cell["n"]})'
      )
      if arm['effects']:
        effect = arm['effects'][name]['all']
        line += f'; refusals +{effect["gained"]} / -{effect["lost"]}'
      lines.append(line + '.')
  for arm, sites in results['written'].items():
    site = max(sites, key=sites.get)
    lines.append(
      f'{arm}: the largest |cosine| of anything written with the direction is '
      f'{sites[site]:.2g} ({site}).'
    )
  for name, cell in results['text'].items():
    lines.append(
      f'{name}: {cell["kl"]["value"]:.3g} nats per token from the original on '
      f'plain text (n = {cell["kl"]["n"]}).'
    )
  return lines


if __name__ == '__main__':
  outputs.start(define_flags, run)
