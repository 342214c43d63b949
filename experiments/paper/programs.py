"""The binaries that make the paper's numbers, in order, with their flags."""

from collections.abc import Mapping, Sequence
import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """One binary of `experiments`.

  Attributes:
    name: Name of the module; its results are in a folder of this name.
    flags: Flag -> value, besides --out.
    needs: Names of programs whose results it reads.
  """

  name: str
  flags: Mapping[str, str]
  needs: Sequence[str] = ()

  def command(self, out: str) -> list[str]:
    """Returns arguments for Python."""
    given = {'out': out, **self.flags}
    return [
      '-m',
      f'experiments.{self.name}',
      *(f'--{name}={value}' for name, value in given.items()),
    ]


# What a family's checkpoints and SAEs are called.
_GEMMA = {
  f'gemma-2-{size}': {
    'model': f'google/gemma-2-{size}',
    'chat_model': f'google/gemma-2-{size}-it',
    'sae': f'gemma-scope-{size}-pt-res',
  }
  for size in ('2b', '9b')
}
_RECOGNITION = 'entity_recognition'
# The second paper, arXiv 2403.19521: family -> the model of its one known pair
# of numbers, and what it was asked.
_RECALL = 'factual_recall'
_RECALL_ONLY = {
  'gpt2': {
    'model': 'openai-community/gpt2',
    'tasks': 'capitals',
    'shots': '0',
    'prompts': '225',
    'mode': 'reference',
  }
}
# Name -> which of the given models and files it takes.
_AFTER = {
  'patching': ('model',),
  'attention.shift': ('model', 'sae'),
  'attention.knock_out': ('model', 'chat_model', 'sae'),
  'steering.layers': ('chat_model', 'sae'),
  'circuits': ('chat_model', 'sae'),
  'self_report': ('chat_model', 'sae'),
  'uncertainty': ('chat_model', 'sae'),
  'weight_ablation': ('chat_model', 'sae'),
  'confounds': ('model', 'chat_model', 'sae', 'text'),
}
# Flags of its own that a program has with a family. The published error latents
# are of SAEs of the chat model, of which there are three.
_OWN = {
  ('gemma-2-9b', 'uncertainty'): {
    'sae': 'gemma-scope-9b-it-res',
    'layers': '9,20,31',
  },
}
PROGRAMS = (_RECOGNITION, *_AFTER, _RECALL)


def programs(
  family: str,
  out: str,
  *,
  entities: str | None = None,
  text: str | None = None,
  mode: str | None = None,
  seed: int = 0,
  questions: int | None = None,
  only: Sequence[str] = PROGRAMS,
) -> list[Program]:
  """Returns what to run for a family.

  Args:
    family: One of `claims.FAMILIES`.
    out: The folder that has a folder per program.
    entities: Folder of entity files; needed except for MiniWorld.
    text: Plain text for the frequency filter of entity_recognition and for what
      `confounds` counts and reads; needed except for MiniWorld.
    mode: 'default' or 'reference'. By default that in which published numbers
      were made, where they are to be compared with.
    seed: Random seed of all draws.
    questions: Number of questions per entity type and class that
      entity_recognition steers.
    only: Names of the programs to run.

  Raises:
    ValueError: entities or text are missing, or a program does not exist.
  """
  unknown = sorted(set(only) - set(PROGRAMS))
  if unknown:
    raise ValueError(
      f'There is no program {", ".join(unknown)}; there are '
      f'{", ".join(PROGRAMS)}.'
    )
  if family in _RECALL_ONLY:
    flags = {'seed': str(seed), **_RECALL_ONLY[family]}
    if mode is not None:
      flags['mode'] = mode
    return [Program(name=_RECALL, flags=flags)] if _RECALL in only else []
  real = family in _GEMMA
  if real and (entities is None or text is None):
    raise ValueError(
      f'{family} needs --entities, a folder of entity files, and --text, plain '
      'text for the frequency filter (the paper has pile-10k as .jsonl).'
    )
  given = dict(_GEMMA.get(family, {}))
  shared = {
    'mode': mode or ('reference' if real else 'default'),
    'seed': str(seed),
  }
  if entities is not None:
    shared['entities'] = entities
  if text is not None:
    given['text'] = text
  first = {**given, **shared}
  if questions is not None:
    first['questions'] = str(questions)
  found = [Program(name=_RECOGNITION, flags=first)]
  run = {'run': f'{out}/{_RECOGNITION}'}
  for name, takes in _AFTER.items():
    mine = {key: given[key] for key in takes if key in given}
    own = _OWN.get((family, name), {})
    found.append(
      Program(
        name=name,
        flags={**mine, **shared, **run, **own},
        needs=[_RECOGNITION],
      )
    )
  recall = {key: given[key] for key in ('model', 'text', 'sae') if key in given}
  recall |= {key: shared[key] for key in ('mode', 'seed')}
  found.append(Program(name=_RECALL, flags=recall))
  return [each for each in found if each.name in only]
