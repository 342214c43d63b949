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
from experiments.latents.criteria import CRITERIA, mean_norm, scores_of
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
from experiments.latents.ranking import Ranked, rank
from experiments.latents.scores import separation
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
    selections: Criterion -> the latents chosen by it.
    scores: Score of each SAE's latents by the settings' criterion, [E, F].
    activations: Activations of chosen latents on test: str(id) -> float32 [n].
    random: Label -> controls of its best latent.
    candidates: Label -> the best latent of each SAE by the settings' criterion,
      its score and its controls; to choose by what they cause.
    nulls: Criterion -> the same selection with shuffled labels; {} if it was
      left out.
    detectors: Detectors on test.
    directions: Name of a detector -> its direction, float [D].
    meaning: str(id) -> 'entities', 'promoted', 'suppressed'.
    examples: See `meaning.read_examples`; () if there are none.
    skipped: What was left out, and why.
  """

  settings: AnalysisOptions
  entities: dict[str, np.ndarray]
  chosen_on: Sequence[ClassSums]
  test: Sequence[ClassSums]
  test_entities: LabelledEntities
  selections: dict[str, Selection]
  scores: Sequence[np.ndarray]
  activations: dict[str, np.ndarray]
  random: dict[str, RandomLatents]
  candidates: dict[str, list[tuple[Ranked, RandomLatents]]]
  nulls: dict[str, SelectionNull]
  detectors: Sequence[Detector]
  directions: dict[str, np.ndarray]
  meaning: dict[str, dict]
  examples: Sequence[dict] = ()
  skipped: Sequence[str] = ()

  @property
  def selection(self) -> Selection:
    """Returns the latents chosen by the settings' criterion."""
    return self.selections[self.settings.criterion]


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
  used = [data[split] for split in settings.splits]
  selected_on = LabelledEntities.joined([one.entities for one in used])
  firings = stream_firing(model, saes, join(*(one.rows for one in used)))
  scores = {
    criterion: scores_of(firings, selected_on, criterion, chosen_on)
    for criterion in CRITERIA
  }
  _check_order(chosen_on, scores['frequency'])
  selections = {
    criterion: select(
      chosen_on,
      of,
      criterion=criterion,
      split=settings.selection_split,
      k=settings.num_chosen,
      max_text_frequency=settings.max_text_frequency,
      at_least=settings.at_least,
    )
    for criterion, of in scores.items()
  }
  selection = selections[settings.criterion]
  random = {
    label: _controls(
      selection.best[label], selection, chosen_on, saes, settings
    )
    for label in CLASSES
  }
  candidates = {label: [] for label in CLASSES}
  if settings.random_pool == 'matched':
    keep = text_filter(chosen_on, settings.max_text_frequency)[1]
    for one, score, kept in zip(
      chosen_on, scores[settings.criterion], keep, strict=True
    ):
      for label, sign in zip(CLASSES, (1, -1), strict=True):
        lowest = (sign * score).min(axis=0)
        for best in rank([one.where], [lowest], 1, [kept]):
          drawn = _controls(best.id, selection, chosen_on, saes, settings)
          candidates[label].append((best, drawn))
  skipped, nulls = [], {}
  if settings.num_permutations:
    nulls = {
      criterion: permutation_null(
        firings,
        selected_on,
        criterion=criterion,
        norms=[mean_norm(one) for one in chosen_on],
        keep=text_filter(chosen_on, settings.max_text_frequency)[1],
        num_permutations=settings.num_permutations,
        seed=settings.seed,
      )
      for criterion in CRITERIA
    }
  else:
    skipped.append('The null of the selection: num_permutations is 0.')
  chosen = {
    c.id: c.label
    for each in selections.values()
    for label in CLASSES
    for c in each.of(label)
  }
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
  directions = {}
  detectors = [
    *latent_detectors(
      selections, settings.criterion, random, activations, entities['test']
    ),
    *fitted_detectors(model, selection, train, data, skipped, directions),
  ]
  return Findings(
    settings=settings,
    entities={split: one.counts() for split, one in entities.items()},
    chosen_on=chosen_on,
    test=test,
    test_entities=entities['test'],
    selections=selections,
    scores=scores[settings.criterion],
    activations={str(id): activations[id] for id in chosen},
    random=random,
    candidates=candidates,
    nulls=nulls,
    detectors=detectors,
    directions=directions,
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


def _check_order(sums: Sequence[ClassSums], scores: Sequence[np.ndarray]):
  """Raises ValueError if entities and sums are not of the same rows.

  Their scores may differ by rounding: a latent at its threshold, which fires
  on an entity in one batch and not in another.
  """
  for one, by_entity in zip(sums, scores, strict=True):
    by_sums = separation(one)
    apart = np.abs(by_sums - by_entity)
    e, latent = np.unravel_index(apart.argmax(), apart.shape)
    if apart[e, latent] > max(0.01, 2 / one.n.min()):
      raise ValueError(
        f'Latent {latent} of {one.site}.{one.layer} separates the classes of '
        f'{one.types[e]} by {by_sums[e, latent]:.3g} by the sums and by '
        f'{by_entity[e, latent]:.3g} by the entities: labels are not in the '
        'order of the rows, or the sums are of other SAEs.'
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
