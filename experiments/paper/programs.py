"""The binaries that make the paper's numbers, in order, with their flags."""

from collections.abc import Mapping, Sequence
import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """One binary of `experiments`.

  Attributes:
    name: Of the module; its results are in a folder of this name.
    flags: Name -> value, besides --out.
    needs: Names of programs whose results it reads.
  """

  name: str
  flags: Mapping[str, str]
  needs: Sequence[str] = ()

  def command(self, out: str) -> list[str]:
    """Arguments for Python."""
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
# Name -> the models it takes, and flags of its own.
_AFTER = {
  'patch_activations': (('model',), {}),
  'shift_attention': (('model',), {}),
  'knock_out_attention': (('model', 'chat_model'), {}),
  'steer_layers': (('chat_model',), {}),
  'trace_circuit': (('chat_model',), {}),
  'ask_self': (('chat_model',), {}),
  'find_uncertainty': (('chat_model',), {}),
  'orthogonalize_weights': (('chat_model',), {}),
  'check_confounds': (('model', 'chat_model'), {}),
}
PROGRAMS = (_RECOGNITION, *_AFTER)


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
  """What to run for a family.

  Args:
    family: One of `claims.FAMILIES`.
    out: The folder that has a folder per program.
    entities: Folder of entity files; needed but for MiniWorld.
    text: Plain text; likewise.
    mode: 'default' or 'reference'. By default that in which published numbers
      were made, where they are to be compared with.
    seed: Of all draws.
    questions: Per entity type and class, where it can be chosen.
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
  real = family in _GEMMA
  if real and (entities is None or text is None):
    raise ValueError(
      f'{family} needs --entities, a folder of entity files, and --text, plain '
      'text for the frequency filter (the paper has pile-10k as .jsonl).'
    )
  names = dict(_GEMMA.get(family, {}))
  shared = {
    'mode': mode or ('reference' if real else 'default'),
    'seed': str(seed),
  }
  if entities is not None:
    shared['entities'] = entities
  if 'sae' in names:
    shared['sae'] = names.pop('sae')
  first = {**names, **shared}
  if text is not None:
    first['text'] = text
  if questions is not None:
    first['questions'] = str(questions)
  found = [Program(name=_RECOGNITION, flags=first)]
  for name, (models, extra) in _AFTER.items():
    given = {key: names[key] for key in models if key in names}
    run = {'run': f'{out}/{_RECOGNITION}'}
    found.append(
      Program(
        name=name,
        flags={**given, **shared, **run, **extra},
        needs=[_RECOGNITION],
      )
    )
  return [each for each in found if each.name in only]
