"""The whole check: models run, numbers, and what they were computed from."""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools

import numpy as np

from experiments.confounds import study
from experiments.confounds.baselines import (
  balance_of_tokens,
  covariate_detectors,
  held_out_tokens,
)
from experiments.confounds.chat_stages import ChatStages, question_prompts
from experiments.confounds.covariates import Covariates
from experiments.confounds.kept_stages import Stages
from experiments.confounds.likelihood import PAPER, token_likelihood
from experiments.confounds.linear_readout import LinearReadout
from experiments.confounds.matched_names import compare_saes
from experiments.confounds.plan import ConfoundPlan
from experiments.confounds.prompt_variants import (
  TEST,
  PromptVariant,
  labelled,
  make_prompts,
)
from experiments.confounds.reselection import shuffled_selection, stability
from experiments.confounds.settings import Settings
from experiments.entities import activation_prompt
from experiments.inputs.study_inputs import StudyInputs
from experiments.latents import (
  SPLITS,
  Firing,
  LabelledEntities,
  name_tokens,
  permutation_null,
  text_filter,
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
  """Holds what a check found.

  Attributes:
    results: Numbers for results.json.
    records: A dict per prompt, for examples.jsonl.
    arrays: Arrays for effects.safetensors.
  """

  results: dict
  records: list[dict]
  arrays: dict[str, np.ndarray]


def measure(
  settings: Settings, given: StudyInputs, plan: ConfoundPlan
) -> Measured:
  """Runs everything; what work/ has is not run again.

  Raises:
    ValueError: entities or SAEs do not fit the model.
  """
  parts = {part: labelled(given.people, part) for part in SPLITS}
  prompts = {
    part: [activation_prompt(entity) for entity in found]
    for part, (found, _) in parts.items()
  }
  entities = parts[TEST][1]
  shown, unmade = make_prompts(
    given.people,
    given.tokenizer,
    taken=plan.taken,
    familiar=plan.familiar,
    seed=settings.seed,
  )
  skipped = plan.skipped + [f'{kind}: {why}.' for kind, why in unmade.items()]
  stages = Stages(given)
  readers = stages.readers(parts['train'][1], prompts['train'])
  read, norms, covariates = stages.names(
    readers, shown, len(entities), plan.texts, plan.frequencies
  )
  on_test = read[:, : len(entities)]
  results = {
    'readers': study.detected(readers, entities, on_test),
    'names': study.describe_balance(entities, covariates),
    'names_alone': _names_alone(settings, given, parts, prompts, covariates),
    'alike': study.compared_alike(
      readers,
      entities,
      on_test,
      covariates,
      bins=settings.bins,
      seed=settings.seed,
    ),
    'adjusted': study.adjusted(
      readers, entities, on_test, covariates, seed=settings.seed
    ),
    'changed': study.altered_names(readers, shown, read),
    'norms': study.residual_norms(
      entities, norms[:, : len(entities)], seed=settings.seed
    ),
    'likelihood': None,
    'paper_likelihood': PAPER,
  }
  arrays = {
    'values': read,
    'norms': norms,
    'covariates': covariates.values.astype(np.float32),
  }
  if plan.read:
    logp, said = stages.text(
      readers, plan.read, settings.text_window, settings.text_batch
    )
    results['likelihood'] = token_likelihood(
      readers, logp, said, seed=settings.seed
    )
    arrays |= {
      'text_logp': np.concatenate(logp),
      'text_values': np.concatenate(said, axis=1),
      'text_lengths': np.array([len(one) for one in logp]),
    }
  results |= _searches(settings, given, plan, stages, parts, prompts)
  stages.release()
  records = _records(readers, shown, read, covariates)
  results['chat'] = results['refusals'] = None
  if plan.chat is not None:
    results |= _chat(
      settings, given, plan, readers, shown, on_test, entities, records, arrays
    )
  results |= {
    'covariates': list(covariates.names),
    'counts': {
      kind: sum(one.kind == kind for one in shown)
      for kind in dict.fromkeys(one.kind for one in shown)
    },
    'entities': {
      name: {'known': int(known), 'unknown': int(unknown)}
      for name, (known, unknown) in zip(
        entities.types, entities.counts(), strict=True
      )
    },
    'bundled': plan.bundled,
    'skipped': skipped,
  }
  return Measured(results=results, records=records, arrays=arrays)


def _names_alone(
  settings, given, parts, prompts, covariates: Covariates
) -> dict:
  """Returns what names tell without the model's latents."""
  tokens = {
    part: name_tokens(given.tokenizer, found) for part, found in prompts.items()
  }
  every = LabelledEntities.joined([parts[part][1] for part in SPLITS])
  return {
    'covariates': covariate_detectors(parts[TEST][1], covariates),
    'tokens': held_out_tokens(
      {part: (parts[part][1], tokens[part]) for part in SPLITS}
    ),
    'balance': balance_of_tokens(
      every,
      list(itertools.chain(*(tokens[part] for part in SPLITS))),
      seed=settings.seed,
    ),
  }


def _searches(
  settings: Settings,
  given: StudyInputs,
  plan: ConfoundPlan,
  stages: Stages,
  parts,
  prompts,
) -> dict:
  """Searches with shuffled labels, on other splits, in other SAEs."""
  everyone = list(itertools.chain(*(prompts[part] for part in SPLITS)))
  entities = LabelledEntities.joined([parts[part][1] for part in SPLITS])
  sizes = [len(prompts[part]) for part in SPLITS]
  part_of = np.repeat(np.arange(len(SPLITS)), sizes)
  train, test = (part_of == SPLITS.index(part) for part in ('train', TEST))
  saes = [given.sae(layer) for layer in plan.layers]
  firings = stages.firing('firing', saes, everyone)
  if plan.text_sums:
    keep = text_filter(plan.text_sums)[1]
  else:
    keep = [np.ones(sae.width, bool) for sae in saes]
  null = permutation_null(
    [
      Firing(site=one.site, layer=one.layer, matrix=one.fires[train])
      for one in firings
    ],
    entities.take(train),
    keep=keep,
    num_permutations=settings.num_permutations,
    seed=settings.seed,
  )
  chosen = {label: target.id for label, target in given.targets.items()}
  mine = {
    firing.where: (sae, firing)
    for sae, firing in zip(saes, firings, strict=True)
  }
  others = {}
  for number, (name, named) in enumerate(plan.others.items()):
    loaded = [one.load(given.reader) for one in named]
    theirs = stages.firing(f'firing_{number}', loaded, everyone)
    others[name] = compare_saes(
      chosen,
      mine,
      list(zip(loaded, theirs, strict=True)),
      entities,
      train,
      test,
    )
  return {
    'searched': [f'{one.site}.{one.layer}' for one in firings],
    'text_filter': bool(plan.text_sums),
    'null': null.to_dict(),
    'null_best': {c: null.null_best[c].tolist() for c in null.null_best},
    'shuffled': shuffled_selection(
      firings,
      entities,
      train,
      test,
      keep,
      num_shuffles=settings.num_shuffles,
      seed=settings.seed,
    ),
    'stability': stability(
      firings,
      entities,
      chosen,
      keep,
      num_splits=settings.num_splits,
      seed=settings.seed,
    ),
    'other_saes': others,
  }


def _chat(
  settings, given, plan, readers, shown, on_test, entities, records, arrays
) -> dict:
  """Reads and asks the chat model; adds to records and arrays."""
  chat = plan.chat
  stages = ChatStages(given, chat.reader, chat.tokenizer)
  test = shown[: len(entities)]
  plain = [one.prompt for one in test]
  contexts = stages.values(
    readers,
    {
      'chat model': (plain, False),
      'chat model, in its template': (plain, True),
      'chat model, a question': (question_prompts(test), True),
    },
    chat.about,
  )
  arrays |= {f'{name}, values': found for name, found in contexts.items()}
  found = {'chat': study.on_chat(readers, entities, on_test, contexts)}
  if settings.refusals:
    asked = _asked(shown, settings.refusals)
    answers = stages.refusals(
      [shown[i] for i in asked],
      max_new_tokens=settings.max_new_tokens,
      rows_per_batch=settings.rows_per_batch,
      mode=settings.mode,
      identity=chat.about,
    )
    for i, answer in zip(asked, answers, strict=True):
      records[i] |= answer
    found['refusals'] = study.refused([shown[i] for i in asked], answers)
  return found


def _asked(shown: Sequence[PromptVariant], per_type: int) -> list[int]:
  """Returns which prompts become questions: a few of each kind and type.

  Changed names are those of the entities that are asked about unchanged, where
  there are such. A question names the type, so that 'no type' is none.
  """
  counts, asked, unchanged = {}, [], set()
  for i, one in enumerate(shown):
    if one.kind == 'no type':
      continue
    changed = one.kind != TEST and one.of >= 0
    if changed and one.of not in unchanged:
      continue
    key = one.kind, one.label, one.entity.type
    counts[key] = counts.get(key, 0) + 1
    if changed or counts[key] <= per_type:
      asked.append(i)
      if one.kind == TEST:
        unchanged.add(i)
  return asked


def _records(
  readers: Sequence[LinearReadout],
  shown: Sequence[PromptVariant],
  read: np.ndarray,
  covariates: Covariates,
) -> list[dict]:
  """Returns a dict per prompt."""
  found: list[dict] = []
  for i, one in enumerate(shown):
    record: dict[str, object] = {
      'kind': one.kind,
      'name': one.entity.name,
      'type': one.entity.type,
      'label': one.label,
      'of': one.of if one.kind != TEST else None,
      'prompt': one.prompt.text,
      'values': {
        reader.name: float(value)
        for reader, value in zip(readers, read[:, i], strict=True)
      },
      'fires': {
        reader.name: bool(reader.fires(value))
        for reader, value in zip(readers, read[:, i], strict=True)
      },
    }
    if one.kind == TEST:
      record['covariates'] = _named(covariates, i)
    found.append(record)
  return found


def _named(covariates: Covariates, i: int) -> Mapping[str, float]:
  return dict(zip(covariates.names, covariates.values[i].tolist(), strict=True))
