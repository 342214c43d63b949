"""From sums of latents to chosen ones, their controls and what they are about.

  findings = analyse(model, tokenizer, saes, sums, groups, data, settings)
  results, arrays = to_results(findings), to_arrays(findings)

Selection, probes' fits and directions use train (and validation to choose a
regularisation); every reported rate and AUROC is of test.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from experiments.activations import (
  GroupSums,
  HarvestRows,
  join,
  latents_at_positions,
)
from experiments.latents.class_sums import SPLITS, ClassSums, Groups, class_sums
from experiments.latents.controls import (
  RandomLatents,
  matched_random,
  zero_score_random,
)
from experiments.latents.detectors import (
  Detector,
  SplitData,
  fitted_detectors,
  latent_detectors,
)
from experiments.latents.firing import stream_firing
from experiments.latents.interpretation import (
  promoted_tokens,
  read_examples,
  sae_of,
  top_entities,
)
from experiments.latents.labelled import (
  CLASSES,
  LabelledEntities,
  check_classes,
)
from experiments.latents.permutation import SelectionNull, permutation_null
from experiments.latents.selection import Selection, select, text_filter
from experiments.latents.settings import AnalysisOptions
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
  """All that was found; `results.py` makes results.json and arrays of it.

  Attributes:
    settings: Settings.
    entities: Split -> counts, int [E, 2].
    chosen_on, test: Sums of each SAE.
    test_entities: The entities of test.
    selection: Selection.
    activations: Activations of chosen latents on test: str(id) -> float32 [n].
    random: Label -> controls of its best latent.
    null: None if it was left out.
    detectors: Detectors on test.
    meaning: str(id) -> 'entities', 'promoted', 'suppressed'.
    examples: See `meaning.read_examples`; () if there are none.
    skipped: What was left out, and why.
  """

  settings: AnalysisOptions
  entities: dict[str, np.ndarray]
  chosen_on: Sequence[ClassSums]
  test: Sequence[ClassSums]
  test_entities: LabelledEntities
  selection: Selection
  activations: dict[str, np.ndarray]
  random: dict[str, RandomLatents]
  null: SelectionNull | None
  detectors: Sequence[Detector]
  meaning: dict[str, dict]
  examples: Sequence[dict] = ()
  skipped: Sequence[str] = ()


def analyse(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  saes: Sequence[JumpReLUSAE],
  sums: Sequence[GroupSums],
  groups: Groups,
  data: Mapping[str, SplitData],
  settings: AnalysisOptions | None = None,
  *,
  text: Sequence[GroupSums] | None = None,
  text_n: int | None = None,
  examples: HarvestRows | None = None,
) -> Findings:
  """Selects latents, evaluates them and their controls, and describes them.

  The model runs twice over train and test and once over validation.

  Args:
    model: The base model; its embedding and final norm are used too.
    tokenizer: The model's tokenizer.
    saes: S SAEs, no two of one site and layer.
    sums: Sums of each SAE, over groups numbered by `groups`, with all SPLITS.
    groups: Groups.
    data: Split -> its entities, for all SPLITS.
    settings: None is the defaults.
    text: Sums of each SAE over plain text alone, where it is not a group.
    text_n: What shares of plain text are of; see `class_sums`.
    examples: Texts at whose every token the best latents are shown.

  Raises:
    ValueError: a class of a type has too few entities, data and sums do not
      fit together, or see `selection.select` and `controls`.
  """
  settings = settings or AnalysisOptions()
  texts = text or [None] * len(sums)
  chosen_on, train, test = (
    [
      class_sums(one, groups, splits, text=its, text_n=text_n)
      for one, its in zip(sums, texts, strict=True)
    ]
    for splits in (settings.splits, ('train',), ('test',))
  )
  entities = {split: data[split].entities for split in SPLITS}
  _check(saes, groups, sums, entities, settings)
  selection = select(
    chosen_on,
    split=settings.selection_split,
    k=settings.num_chosen,
    metric=settings.metric,
    max_text_frequency=settings.max_text_frequency,
    at_least=settings.at_least,
  )
  random = {
    label: _controls(
      selection.best[label], selection, chosen_on, saes, settings
    )
    for label in CLASSES
  }
  skipped = []
  null = _null(model, saes, chosen_on, data, settings, skipped)
  _check_order(null, selection)
  chosen = {c.id: c.label for label in CLASSES for c in selection.of(label)}
  ids = list(
    dict.fromkeys([*chosen, *(i for r in random.values() for i in r.ids)])
  )
  activations = dict(
    zip(
      ids,
      latents_at_positions(
        model,
        [(sae_of(id, saes), id.latent) for id in ids],
        data['test'].rows,
      ),
      strict=True,
    )
  )
  detectors = [
    *latent_detectors(selection, random, activations, entities['test']),
    *fitted_detectors(model, selection, train, data, skipped),
  ]
  return Findings(
    settings=settings,
    entities={split: one.counts() for split, one in entities.items()},
    chosen_on=chosen_on,
    test=test,
    test_entities=entities['test'],
    selection=selection,
    activations={str(id): activations[id] for id in chosen},
    random=random,
    null=null,
    detectors=detectors,
    meaning={
      str(c.id): _meaning(
        c.id, model, tokenizer, saes, entities['test'], activations, settings
      )
      for label in CLASSES
      for c in selection.of(label)[: settings.num_described]
    },
    examples=()
    if examples is None
    else read_examples(
      model, tokenizer, list(selection.best.values()), saes, examples
    ),
    skipped=skipped,
  )


def _check(saes, groups, sums, entities, settings):
  """Raises ValueError for what does not fit, before the model runs."""
  reads = [(sae.origin.site, sae.origin.layer) for sae in saes]
  if reads != [(one.site, one.layer) for one in sums]:
    raise ValueError(
      f'SAEs read {reads}, and sums are of '
      f'{[(one.site, one.layer) for one in sums]}; give both in one order.'
    )
  for split, one in entities.items():
    if one.types != groups.types:
      raise ValueError(
        f'Entities of {split} are of types {one.types}, groups of '
        f'{groups.types}.'
      )
    summed = class_sums(sums[0], groups, (split,)).n
    if not np.array_equal(one.counts(), summed):
      raise ValueError(
        f'{split} has {one.counts().tolist()} entities (known, unknown) of '
        f'{groups.types}; the sums are over {summed.tolist()}.'
      )
  check_classes(
    groups.types, entities['train'].counts(), 'train', settings.at_least
  )
  check_classes(groups.types, entities['test'].counts(), 'test', 2)


def _check_order(null: SelectionNull | None, selection: Selection):
  """Raises ValueError if entities and sums are not of the same rows.

  Their scores may differ by rounding: a latent at its threshold, which fires
  on an entity in one batch and not in another.
  """
  if null is None:
    return
  smallest = min(
    n for of_type in selection.n.values() for n in of_type.values()
  )
  for label in CLASSES:
    score, again = selection.of(label)[0].score, null.observed_best[label]
    if abs(score - again) > max(0.01, 2 / smallest):
      raise ValueError(
        f'The best {label} latent scores {score:.3g} by the sums and '
        f'{again:.3g} by the entities: labels are not in the order of the '
        'rows, or the sums are of other SAEs.'
      )


def _null(model, saes, sums, data, settings, skipped) -> SelectionNull | None:
  if not settings.num_permutations:
    skipped.append('The null of the selection: num_permutations is 0.')
    return None
  if settings.metric != 'absolute_difference':
    skipped.append(
      f"The null of the selection: it is of 'absolute_difference', and the "
      f'metric is {settings.metric!r}.'
    )
    return None
  used = [data[split] for split in settings.splits]
  return permutation_null(
    stream_firing(model, saes, join(*(one.rows for one in used))),
    LabelledEntities.joined([one.entities for one in used]),
    keep=text_filter(sums, settings.max_text_frequency)[1],
    num_permutations=settings.num_permutations,
    seed=settings.seed,
  )


def _controls(of, selection, sums, saes, settings) -> RandomLatents:
  (mine,) = (one for one in sums if one.where == of[:2])
  norms = np.linalg.norm(np.asarray(sae_of(of, saes).W_dec[...]), axis=1)
  if settings.random_pool == 'zero_score':
    return zero_score_random(of, mine, count=settings.num_random, norms=norms)
  return matched_random(
    of,
    mine,
    count=settings.num_random,
    seed=settings.seed,
    norms=norms,
    exclude=[c.id for label in CLASSES for c in selection.of(label)],
  )


def _meaning(id, model, tokenizer, saes, entities, activations, settings):
  direction = np.asarray(sae_of(id, saes).directions(id.latent), np.float32)
  found = {
    'entities': top_entities(entities, activations[id], settings.num_listed)
  }
  if len(direction) != model.config.d_model:
    return found | {
      'promoted': [],
      'suppressed': [],
      'note': f'{id.site} is not written to the residual stream.',
    }
  return found | promoted_tokens(
    model,
    tokenizer,
    direction,
    settings.num_listed,
    final_norm_gain=settings.final_norm_gain,
  )
