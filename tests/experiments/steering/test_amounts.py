"""What flags say of how much is added, and what they may not say."""

from absl import flags
import pytest

from experiments.steering import amounts


def parsed(*arguments):
  values = flags.FlagValues()
  amounts.define_flags(values)
  flags.DEFINE_string('chat_model', 'miniworld', '', flag_values=values)
  values(['x', *arguments])
  return values


@pytest.mark.parametrize(
  'given', ['--alpha_known=-3', '--alpha_known=0', '--dose=-0.5', '--dose=nan']
)
def test_what_is_added_is_positive(given):
  """At a negative dose, both signs would be one line at matched divergence."""
  with pytest.raises(flags.Error, match=f'{given}.* must be a number above 0'):
    parsed(given)


def test_the_other_label_has_its_own_coefficient():
  values = parsed('--alpha_known=3', '--alpha_unknown=2')
  assert amounts.amount(values, 'unknown').alpha == 2


@pytest.mark.parametrize('given', ['0.1,.10', '1,2,1.0', '0.1,0.10000001'])
def test_a_dose_is_there_once(given):
  with pytest.raises(ValueError, match='twice'):
    amounts.doses(parsed(f'--sweep={given}').sweep)


def test_doses():
  assert amounts.doses(parsed('--sweep=.1,2').sweep) == [0.1, 2.0]
  assert amounts.doses(parsed('--sweep=').sweep) == []
