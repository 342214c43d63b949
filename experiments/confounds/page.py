"""The report of `experiments.confounds`, section by section."""

from collections.abc import Mapping, Sequence

from experiments.charts import Section
from experiments.charts.table import spelled
from experiments.confounds import figures, tables


def sections(results: Mapping, records: Sequence[Mapping]) -> list[Section]:
  """Returns the sections of the report.

  Args:
    results: The contents of results.json.
    records: The records of examples.jsonl.
  """
  parts = [
    _alike_section(results, records),
    _names_section(results),
    _changed_section(results),
  ]
  if results['likelihood'] is not None:
    parts.append(_likelihood_section(results))
  parts += [_norms_section(results), *_search_sections(results)]
  if results['chat'] is not None:
    parts.append(
      Section(
        title='From the base model to the chat model',
        text=[
          'The latents were found in the base model. AUROC on test of the '
          "same readers on the chat model's stream: on the same prompts, with "
          'the prompt in the chat template, and in a question in it; mean over '
          'types. Below, how often they fire, and the correlation with what '
          'they say in the base model.'
        ],
        figures=[figures.chat(results)],
        tables=[tables.chat(results)],
      )
    )
  if results['skipped']:
    parts.append(Section(title='Left out', text=results['skipped']))
  return parts


def _alike_section(results, records) -> Section:
  text = [
    'On how many more entities of its own class than of the other does it '
    'fire? Raw; among names in one stratum (the same type and number of '
    'tokens, and the same quarter of the other covariates); and by regression '
    'on type, known-ness and covariates. The table has AUROCs and how many '
    'entities are left to compare, the change by adjustment with an interval '
    'of its own (both come from the same entities), and how much of known-ness '
    'the covariates explain.',
  ]
  if 'matched on name frequency' in results['alike'][0]:
    one = results['alike'][0]['matched on name frequency']
    text.append(
      'The frequency of whole names is apart: of '
      f'{one["of"]} entities {one["n"]} have somebody of the other class with '
      'a name as frequent. Without such, knowledge cannot be told from '
      'familiarity by comparing; familiar names of which nothing is known, '
      'below, can.'
    )
  if results['bundled']:
    text.append(
      'In this world every word stands as often in known as in unknown names: '
      'matched and adjusted effects must be the raw ones within their error, '
      'whereas known names are in its text and unknown ones are not, so that '
      'on the frequency of whole names nobody can be matched.'
    )
  return Section(
    title='Among names that are alike',
    text=text,
    figures=[
      figures.alike(results),
      *figures.by_covariate(results, records),
    ],
    tables=[tables.alike(results), tables.balance(results)],
  )


def _names_section(results) -> Section:
  balance = results['names_alone']['balance']
  text = [
    'AUROC on test of names alone, beside latents. A classifier of tokens, '
    f'fitted and read on the same {balance["n"]} names, has an AUROC of '
    f'{balance["auroc"]:.3f}; with labels shuffled within types '
    f'{spelled(balance["shuffled"])} (the middle 95 % of '
    f'{balance["shuffled"]["n"]} shuffles): on few names it fits whatever it '
    'is given.',
    'Where tokens are balanced over all names, what is rare among the known '
    'of train is common among those of test, and the AUROC from train to test '
    'falls below 0.5.',
  ]
  if results['bundled']:
    text.append(
      'This world balances first and last words over known and unknown names, '
      'so that the AUROC of words fitted and read on the same names must be '
      'near 0.5, below that of shuffled labels; known-ness lies in pairs alone.'
    )
  return Section(
    title='Names alone',
    text=text,
    figures=[figures.names_alone(results)],
  )


def _changed_section(results) -> Section:
  text = [
    'Known names of test, changed: mixed (first part of one, last word of '
    'another), reversed, with one letter doubled, under a wrong type, and '
    'without a type. Familiar names are in text, and nothing can be known of '
    'them. The table compares each changed name with itself unchanged '
    "(McNemar's exact test, Holm over the kinds of a reader).",
  ]
  shown = [tables.changed(results)]
  if results.get('refusals'):
    text.append(
      'The chat model is asked one question about each; how often it '
      'declines is in the second table.'
    )
    shown.append(tables.refusals(results))
  return Section(
    title='Changed and familiar names',
    text=text,
    figures=[figures.changed(results)],
    tables=shown,
  )


def _likelihood_section(results) -> Section:
  text = [
    'On plain text, token by token: what a reader says at a token, and the '
    'probability that the model gave to this token before it came. Pearson '
    'correlations; intervals resample whole documents. The second table has '
    'what arXiv 2411.14257 reports (FineWeb, table 9), for reading.'
  ]
  if results['bundled']:
    text.append(
      "This world's text is dense in names, which nothing predicts, and "
      'latents about entities fire at names: a correlation is to be expected '
      'here. Known and unknown names are equally unlikely (surprisal, in the '
      'first section), so that it cannot explain what they tell apart.'
    )
  return Section(
    title='How likely the token was',
    text=text,
    figures=[figures.likelihood(results)],
    tables=[tables.likelihood(results), tables.paper_likelihood(results)],
  )


def _norms_section(results) -> Section:
  test = results['norms']['test']
  return Section(
    title='How long the stream is',
    text=[
      "L2 norm of resid_post at the entity's last token. A star: the "
      'classes differ at 5 %, over all layers together (max-T permutation of '
      f'labels, {test["num_permutations"]:,} arrangements, '
      f'{test["n"]} entities). Hover for the AUROC of the norm.'
    ],
    figures=[figures.norms(results)],
  )


def _search_sections(results) -> list[Section]:
  stability = results['stability']
  searched = ', '.join(results['searched'])
  if results['text_filter']:
    searched += ' that plain text seldom fires'
  found = [
    Section(
      title='By chance',
      text=[
        f'The whole search, over all latents of {searched}, again with labels '
        'shuffled within types; lines are the real labels. First, the best '
        'score on train, which is inflated by the search; then, how well the '
        'latent that was found separates test. A search in noise finds nothing '
        'there.'
      ],
      figures=figures.chance(results),
      tables=[tables.chance(results)],
    ),
    Section(
      title='On other splits',
      text=[
        f'New random halves of all entities, {stability["known"]["num_splits"]}'
        ' times: which latents come first, how many of the best '
        f'{stability["known"]["k"]} two splits have in common, and how well '
        'the first one does on the other half.',
      ],
      figures=[figures.first_latents(results)],
      tables=[tables.stability(results)],
    ),
  ]
  if results['other_saes']:
    found.append(
      Section(
        title='In other SAEs',
        text=[
          'The latent of another SAE that points the same way, and the one '
          'that fires on the same entities; their separation on test; the '
          "rank of the former among that SAEs' own best latents; and their "
          'own best one. How often they fire on plain text is not known, so '
          'that all of them are candidates.'
        ],
        tables=[tables.other_saes(results)],
      )
    )
  return found
