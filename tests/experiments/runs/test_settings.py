"""Flags that a dataclass defines, parsed as absl parses a command line."""

import dataclasses
from typing import Any, Literal, Optional

from absl import flags
import pytest

from experiments.runs import define_flags, read_flags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """A study.

  Words before the list are no help: and this is none.

  Attributes:
    out: Folder for everything.
    model: The model: a folder,
      a hub id
      or a file.
    shots: Numbers of demonstrations.
    rates: Rates, in units.
    tasks: Names of tasks.
    chosen: Numbers, or none.
    mode: How.
    dtype: Data type.
    limit: At most so many.
    scale: Of the picture.
    redo: Do it again.
    maybe: Yes, no or unknown.

  Raises:
    ValueError: this is not the help of a flag.
  """

  out: str
  model: str | None = None
  shots: tuple[int, ...] = (0, 4)
  rates: tuple[float, ...] = (0.5, 1.0)
  tasks: tuple[str, ...] = ()
  chosen: tuple[int, ...] | None = None
  mode: Literal['fast', 'slow'] = 'fast'
  dtype: Literal['float32', 'bfloat16'] | None = None
  limit: Optional[int] = None  # noqa: UP045
  scale: float = 1
  redo: bool = False
  maybe: bool | None = None


def parsed(*arguments, settings=Settings):
  values = flags.FlagValues()
  define_flags(settings, values)
  values(['test', *arguments])
  return read_flags(settings, values)


def of_type(hint: Any, default: Any):
  """A class of one field x."""
  made = dataclasses.make_dataclass('Made', [('x', hint, default)], frozen=True)
  made.__doc__ = 'One.\n\nAttributes:\n  x: Something.\n'
  return made


def test_names_and_defaults():
  values = flags.FlagValues()
  names = define_flags(Settings, values)
  assert names == [field.name for field in dataclasses.fields(Settings)]
  assert parsed('--out=here') == Settings(out='here')


def test_every_type():
  found = parsed(
    '--out=a=b',
    '--model=gpt2',
    '--shots=1,2, 3',
    '--rates=1e-3,-2',
    '--tasks=capitals,products',
    '--chosen=7',
    '--mode=slow',
    '--dtype=bfloat16',
    '--limit=-5',
    '--scale=2',
    '--redo',
    '--nomaybe',
  )
  assert found == Settings(
    out='a=b',
    model='gpt2',
    shots=(1, 2, 3),
    rates=(1e-3, -2.0),
    tasks=('capitals', 'products'),
    chosen=(7,),
    mode='slow',
    dtype='bfloat16',
    limit=-5,
    scale=2.0,
    redo=True,
    maybe=False,
  )
  assert [type(part) for part in found.rates] == [float, float]
  assert type(found.scale) is float


def test_an_empty_list_is_no_none():
  found = parsed('--out=x', '--shots=', '--chosen=')
  assert found.shots == () and found.chosen == ()


def test_a_field_without_default_is_required():
  with pytest.raises(flags.IllegalFlagValueError, match='out'):
    parsed()


def test_help_is_the_paragraph_of_the_docstring():
  values = flags.FlagValues()
  define_flags(Settings, values)
  assert values['model'].help == 'The model: a folder, a hub id or a file.'
  assert values['out'].help == 'Folder for everything.'
  assert values['maybe'].help == 'Yes, no or unknown.'


@pytest.mark.parametrize(
  'argument',
  [
    '--scale=nan',
    '--scale=inf',
    '--scale=-inf',
    '--scale=1e999',
    '--rates=1,nan',
    '--rates=-inf,2',
  ],
)
def test_numbers_must_be_finite(argument):
  name = argument.split('=')[0]
  with pytest.raises(ValueError, match=f'{name}=-?(nan|inf) must be a finite'):
    parsed('--out=x', argument)


@pytest.mark.parametrize(
  'argument', ['--shots=1,b', '--shots=1.5', '--rates=1;2', '--chosen=1,,2']
)
def test_bad_items_of_lists_are_named(argument):
  kind = 'float' if 'rates' in argument else 'int'
  with pytest.raises(ValueError) as error:
    parsed('--out=x', argument)
  assert argument in str(error.value) and kind in str(error.value)


@pytest.mark.parametrize(
  'argument',
  ['--mode=medium', '--limit=x', '--limit=1.5', '--scale=x', '--redo=perhaps'],
)
def test_other_bad_values_are_absls(argument):
  with pytest.raises(flags.IllegalFlagValueError, match=argument[2:6]):
    parsed('--out=x', argument)


@pytest.mark.parametrize(
  'hint',
  [
    dict,
    list[int],
    int | str,
    int | str | None,
    bytes,
    tuple,
    tuple[bool, ...],
    tuple[int, str],
    tuple[tuple[int, ...], ...],
    Literal[1, 2],
  ],
)
def test_types_without_a_flag(hint):
  with pytest.raises(TypeError, match='x'):
    parsed(settings=of_type(hint, None))


def test_a_field_without_help():
  made = of_type(int, 1)
  made.__doc__ = 'One.\n\nAttributes:\n  y: Another.\n'
  with pytest.raises(TypeError, match=r'Made\.x'):
    parsed(settings=made)
  made.__doc__ = 'x: this is no list of attributes.'
  with pytest.raises(TypeError, match=r'Made\.x'):
    parsed(settings=made)


def test_the_class_checks_its_values():
  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Checked:
    """Checked.

    Attributes:
      seed: Random seed.
    """

    seed: int = 0

    def __post_init__(self):
      if self.seed < 0:
        raise ValueError(f'--seed={self.seed} must not be negative.')

  with pytest.raises(ValueError, match='--seed=-1'):
    parsed('--seed=-1', settings=Checked)
