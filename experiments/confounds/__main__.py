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

from experiments.confounds import page
from experiments.confounds.measuring import measure
from experiments.confounds.plan import prepare
from experiments.confounds.settings import Settings
from experiments.confounds.summary import summary
from experiments.inputs.study_inputs import open_inputs
from experiments.latents import write_arrays
from experiments.runs import KeepFlags, outputs, start


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Checks, writes the results; returns the summary."""
  given = open_inputs(settings, keep_flags)
  plan = prepare(settings, given)
  given.begin()
  measured = measure(settings, given, plan)
  write_arrays(given.out / 'effects.safetensors', measured.arrays)
  outputs.write_lines(given.out / 'examples.jsonl', measured.records)
  return given.write(
    'confounds',
    measured.results,
    'Does a latent know who is known, or does it count tokens?',
    summary(measured.results),
    page.sections(measured.results, measured.records),
  )


if __name__ == '__main__':
  start(Settings, work)
