"""What flags say of how much is added, and what they may not say."""

from absl import flags
import pytest

from experiments.runs import define_flags, read_flags
from experiments.steering import refusal
from experiments.steering.strength import strength_of


def parsed(*arguments) -> refusal.Settings:
  values = flags.FlagValues()
  define_flags(refusal.Settings, values)
  values(['x', '--out=x', *arguments])
  return read_flags(refusal.Settings, values)


@pytest.mark.parametrize(
  'given', ['--alpha_known=-3', '--alpha_known=0', '--dose=-0.5', '--dose=nan']
)
def test_what_is_added_is_positive(given):
  """At a negative dose, both signs would be one line at matched divergence."""
  with pytest.raises(flags.Error, match=f'{given}.* must be a number above 0'):
    parsed(given)


def test_the_other_label_has_its_own_coefficient():
  settings = parsed('--alpha_known=3', '--alpha_unknown=2')
  assert strength_of(settings, 'unknown').alpha == 2


@pytest.mark.parametrize('given', ['0.1,.10', '1,2,1.0', '0.1,0.10000001'])
def test_a_dose_is_there_once(given):
  with pytest.raises(ValueError, match='twice'):
    parsed(f'--sweep={given}')


def test_doses():
  assert parsed('--sweep=.1,2').sweep == (0.1, 2.0)
  assert parsed('--sweep=').sweep == ()
