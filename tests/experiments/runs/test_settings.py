"""Flags that a dataclass defines, parsed as absl parses a command line."""

import dataclasses
from typing import Annotated, Any, Literal, Optional

from absl import flags
import pytest

from experiments.runs import (
  Seed,
  check_numbers,
  define_flags,
  read_flags,
  real,
  whole,
)

Whole = Annotated[int, whole(-5, 100)]
Real = Annotated[float, real(-2, 1e3)]


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
  shots: tuple[Whole, ...] = (0, 4)
  rates: tuple[Real, ...] = (0.5, 1.0)
  tasks: tuple[str, ...] = ()
  chosen: tuple[Whole, ...] | None = None
  mode: Literal['fast', 'slow'] = 'fast'
  dtype: Literal['float32', 'bfloat16'] | None = None
  limit: Optional[Whole] = None  # noqa: UP045
  scale: Real = 1
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
    '--scale=1001',
    '--rates=-2.1',
  ],
)
def test_numbers_are_finite_and_within_bounds(argument):
  with pytest.raises(
    flags.IllegalFlagValueError,
    match=f'{argument}: .*must be a number from -2 to 1000',
  ):
    parsed('--out=x', argument)


@pytest.mark.parametrize(
  'argument', ['--shots=1,b', '--shots=1.5', '--rates=1;2', '--chosen=1,,2']
)
def test_bad_items_of_lists_are_named(argument):
  kind = 'a number' if 'rates' in argument else 'a whole number'
  with pytest.raises(flags.IllegalFlagValueError) as error:
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
    int,
    float | None,
    tuple[int, ...],
    Annotated[int, 'many'],
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
  made = of_type(Seed, 1)
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
      shots: Numbers of demonstrations.
    """

    seed: Seed = 0
    shots: tuple[Whole, ...] | None = None

    def __post_init__(self):
      check_numbers(self)
      if self.seed == 7:
        raise ValueError(f'--seed={self.seed} is no number of luck.')

  with pytest.raises(ValueError, match='no number of luck'):
    parsed('--seed=7', settings=Checked)
  assert Checked(shots=(1, 2)).shots == (1, 2)
  for wrong in ({'seed': -1}, {'seed': 2**31}, {'seed': 0.5}, {'seed': True}):
    with pytest.raises(ValueError, match='--seed=.* must be a whole number'):
      Checked(**wrong)
  with pytest.raises(ValueError, match='--shots=101 must be a whole number'):
    Checked(shots=(1, 101))
