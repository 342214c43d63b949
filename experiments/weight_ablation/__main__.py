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

import numpy as np

from experiments import inputs
from experiments.inputs.documents import DocumentFile
from experiments.inputs.study_inputs import StudyInputs, open_inputs
from experiments.runs import KeepFlags, outputs, start
from experiments.steering import (
  ORIGINAL,
  RANDOM_LATENT,
  Arm,
  Question,
  Rules,
  ablate_weights,
  generate_answers,
  make_examples,
  make_questions,
  measure_divergences,
  summarise,
  written_at_first,
)
from experiments.weight_ablation import (
  among_random,
  choose_direction,
  compare_on_text,
  figures,
  largest_cosines,
  make_arms,
  save_untied,
)
from experiments.weight_ablation.settings import Settings
import gemma_jax as gj
from gemma_jax.whole_files import save_tensors

# A way -> the edited model, and the edits that its weights leave to do.
_Edited = Mapping[str, tuple[gj.Decoder, gj.Interventions | None]]


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Takes the direction out, writes the results; returns the summary."""
  given = open_inputs(settings, keep_flags)
  direction, controls, source = choose_direction(given)
  documents = _documents(given)
  questions = make_questions(
    given.tokenizer,
    given.people.of('test', 'known'),
    given.people.of('test', 'unknown'),
    per_class=settings.questions,
    # Published ones are drawn with 42.
    seed=42 if settings.mode == 'reference' else settings.seed,
  )
  given.begin()
  model = given.load()
  ways = settings.chosen_ways
  arms = make_arms(settings.label, direction, controls, ways)
  steering, examples = _answers(given, model, questions, arms)
  edited = {way: ablate_weights(model, direction, way) for way in ways}
  saved, cosines = _written(given, model, edited, direction, questions)
  text, arrays = {}, {}
  if documents:
    text, arrays = _on_text(given, model, edited, direction, documents)
  arrays |= {f'cosines/{name}': x for name, x in cosines.items()}
  save_tensors(given.out / 'effects.safetensors', arrays)
  outputs.write_lines(given.out / 'answers.jsonl', examples)
  results = {
    'direction': source | {'ways': ways},
    'steering': steering,
    'random': among_random(steering),
    'written': _largest(cosines),
    'layers': {name: x.tolist() for name, x in cosines.items()},
    'checkpoints': saved,
    'text': text,
  }
  return given.write(
    'weight_ablation',
    results,
    'Does a model decline without the direction?',
    summary(results),
    figures.sections(results, examples),
  )


def _documents(given: StudyInputs) -> list[list[int]]:
  """Returns the tokens of plain text, a list per document; [] for none."""
  settings = given.settings
  path = settings.text
  if path is None and settings.chat_model == inputs.BUNDLED:
    path = inputs.BUNDLE / 'text.txt'
  if path is None:
    return []
  read = DocumentFile(path, field=settings.text_field).read
  ids = [
    given.tokenizer.encode(text)[: settings.text_window]
    for _, text in read(stop=settings.text_documents)
  ]
  ids = [row for row in ids if len(row) > 1]
  if not ids:
    raise ValueError(f'{path} has no document of a word.')
  return ids


def _answers(
  given: StudyInputs,
  model: gj.Decoder,
  questions: Sequence[Question],
  arms: Sequence[Arm],
) -> tuple[dict, list[dict]]:
  """Returns all numbers of all arms, and the answers."""
  settings = given.settings
  rules = Rules.of_mode(settings.mode)
  common = {
    'stop_ids': given.tokenizer.stop_ids if rules.stop else (),
    'rows_per_batch': settings.rows_per_batch,
    'identity': given.about,
    'redo': True,
  }
  answers = generate_answers(
    model,
    questions,
    arms,
    max_new_tokens=settings.max_new_tokens,
    folder=given.out / 'answers',
    **common,
  )
  divergences = measure_divergences(
    model, questions, arms, answers[0], folder=given.out / 'kl', **common
  )
  examples = make_examples(
    given.tokenizer, questions, arms, answers, rules, divergences
  )
  return summarise(arms, examples), examples


def _written(
  given: StudyInputs,
  model: gj.Decoder,
  edited: _Edited,
  direction: np.ndarray,
  questions: Sequence[Question],
) -> tuple[dict, dict[str, np.ndarray]]:
  """Saves checkpoints; measures how much of the direction is still written.

  What is measured is what was saved, read back.

  Returns:
    Way -> folder; and 'ARM/SITE' -> the largest cosines, by layers.
  """
  saved = {}
  found = {ORIGINAL: largest_cosines(model, None, direction, questions)}
  for way, (one, interventions) in edited.items():
    if given.settings.save:
      folder = given.out / way
      save_untied(one, direction, folder, companions=given.reader.folder)
      one, interventions = gj.load_checkpoint(folder), None
      saved[way] = folder
    found[way] = largest_cosines(one, interventions, direction, questions)
  return saved, {
    f'{name}/{site}': x
    for name, sites in found.items()
    for site, x in sites.items()
  }


def _on_text(
  given: StudyInputs,
  model: gj.Decoder,
  edited: _Edited,
  direction: np.ndarray,
  documents: Sequence[Sequence[int]],
) -> tuple[dict, dict[str, np.ndarray]]:
  """Compares the ways, and the first in a tied checkpoint, on plain text."""
  others = dict(edited)
  way, (first, _) = next(iter(edited.items()))
  if first.config.tied:
    weights = first.weights()
    weights |= written_at_first(weights, direction)
    others[f'{way}, tied'] = gj.Decoder(first.config, weights), None
  return compare_on_text(
    model,
    others,
    documents,
    rows_per_batch=min(16, given.settings.rows_per_batch),
    seed=given.settings.seed,
  )


def _largest(cosines: Mapping[str, np.ndarray]) -> dict:
  """Returns arm -> site -> the largest of any layer, and of the embedding."""
  found = {}
  for name, x in cosines.items():
    arm, site = name.split('/')
    found.setdefault(arm, {})[site] = float(x.max())
    if site == 'resid_pre':
      found[arm]['embedding'] = float(x[0])
  return found


def summary(results: Mapping) -> list[str]:
  """Says what was refused before and after, and what is still written."""
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
        f'{cell["hallucination"]["value"]:.1%} hallucinated (n = {cell["n"]})'
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
  start(Settings, work)
