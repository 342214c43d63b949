r"""Does a latent know who is known, or does it count tokens?

  make demo
  python -m experiments.confounds --out=out/confounds

  python -m experiments.confounds --out=out/confounds_2b \
    --model=google/gemma-2-2b --chat_model=google/gemma-2-2b-it \
    --sae=gemma-scope-2b-pt-res --entities=wikidata --run=out/recognition_2b \
    --text=data/fineweb.jsonl --frequencies=counts.tsv \
    --other_saes=gemma-scope-2b-pt-res@65k

A latent that fires on unknown names might do so because they are long, rare,
odd, or foreign to their sentence. For the two latents of an entity_recognition
run, and beside each the difference of class means at the same site and layer,
this asks:

  alike        do they tell known from unknown names of as many tokens, as
               likely and as frequent? Inside strata, and by regression
  names alone  what do the tokens of names tell, without a model?
  changed      do they fire on names mixed from known ones, reversed, mistyped,
               or known ones under a wrong type? Does the chat model decline?
  familiar     and on names that text has, of which nothing can be known?
  likelihood   do they say how likely the token was, on plain text?
  norms        is the stream longer for one class, and in which layers?
  chance       what does the whole search find when labels are shuffled?
  stability    what does it find on other splits, and in other SAEs?
  chat         do they work in the chat model, and in its template?

The page gives numbers with intervals, and no verdict. --out gets flags.txt,
results.json, report.html, examples.jsonl (a record per prompt with all that was
read there), effects.safetensors (the same as arrays, and per token of text),
and work/, from which the same command goes on.

In MiniWorld the answer is known: every word of a name stands as often in known
as in unknown names, so that tokens tell nothing, and matched and adjusted
effects must be the raw ones. What its text has often is exactly what is known,
so that the frequency of whole names cannot be told from knowledge there; its
familiar names, which are as frequent as unknown, can.
"""

from collections.abc import Mapping, Sequence

from absl import flags

from experiments.confounds import page
from experiments.confounds import plan as plan_lib
from experiments.confounds.measuring import measure
from experiments.confounds.tables import estimate, percent
from experiments.inputs.study_inputs import define_flags as define_subject
from experiments.inputs.study_inputs import finish_flags, open_subject
from experiments.latents import write_arrays
from experiments.runs import outputs

_TITLE = 'Does a latent know who is known, or does it count tokens?'


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines this program's flags; returns their names."""
  before = set(values)
  define_subject(values, model='base', num_random=None)
  plan_lib.define_flags(values)
  return finish_flags(values, before)


def run(values: flags.FlagValues, names: Sequence[str]) -> int:
  """Does what parsed flags say; returns the exit code."""
  try:
    subject = open_subject(values, names, model='base')
    plan = plan_lib.prepare(values, subject)
    subject.begin()
    measured = measure(subject, plan)
    write_arrays(subject.out / 'effects.safetensors', measured.arrays)
    outputs.write_lines(subject.out / 'examples.jsonl', measured.records)
    subject.write(
      'confounds',
      measured.results,
      _TITLE,
      summary(measured.results),
      page.sections(measured.results, measured.records),
    )
  except (OSError, ValueError, ImportError) as error:
    return outputs.failed(error)
  return 0


def summary(results: Mapping) -> list[str]:
  """What was measured, in some sentences of numbers."""
  said = []
  for i, reader in enumerate(results['readers']):
    alike, adjusted = results['alike'][i], results['adjusted'][i]['fires']
    raw, matched = (alike[way]['difference'] for way in ('raw', 'matched'))
    said.append(
      f'{reader["name"]}: AUROC {estimate(reader["auroc"])}. It fires on '
      f'{percent(raw)} more of its class than of the other (n = {raw["n"]}); '
      f'among names that are alike {percent(matched)} (n = {matched["n"]}), '
      f'by regression {percent(adjusted["adjusted"])}, a change of '
      f'{percent(adjusted["change"])}.'
    )
  balance = results['names_alone']['balance']
  said.append(
    f'Tokens of names, fitted and read on {balance["n"]} names: AUROC '
    f'{balance["auroc"]:.3f}; with shuffled labels '
    f'{estimate(balance["shuffled"])}. Fitted on train and read on test: '
    f'{estimate(results["names_alone"]["tokens"]["mean"])}.'
  )
  for label, one in results['shuffled'].items():
    said.append(
      f'The best {label} latent of train, {one["latent"]}, separates test by '
      f'{estimate(one["observed"])}; in {one["mean"]["n"]} runs with shuffled '
      f'labels the best does by {estimate(one["mean"])}.'
    )
  for one in results['likelihood'] or ():
    if one['latent']:
      said.append(
        f'{one["name"]} on {one["r"]["n"]} tokens of text: r with the '
        f"token's probability {estimate(one['r'])}."
      )
  return said


if __name__ == '__main__':
  outputs.start(define_flags, run)
