"""What experiments after recognition work on, from flags."""

from absl import flags
import pytest

from experiments import subject


def _open(*arguments, model='chat', latents=True):
  values = flags.FlagValues()
  subject.define_flags(values, model=model, latents=latents)
  values(['x', *arguments])
  return subject.open_subject(values, ['out'], model=model)


@pytest.fixture
def given(world):
  return (
    f'--chat_model={world / "chat"}',
    f'--sae={world / "saes"}',
    f'--entities={world / "entities"}',
    f'--out={world / "out"}',
  )


def test_of_a_run(world, given):
  found = _open(*given, f'--run={world / "run"}', '--num_random=2')
  assert found.run == str(world / 'run')
  assert found.people.types == ('city', 'player')
  assert set(found.targets) == {'known', 'unknown'}
  for target in found.targets.values():
    assert len(target.controls) == 2
    assert target.mean_difference is not None
  assert found.drawn['known'] == 'as the run chose them'


def test_of_labels_and_named_latents(world, given):
  found = _open(
    *given,
    f'--labels={world / "run" / "labels" / "records"}',
    '--unknown_latent=resid_post.1/0',
  )
  assert found.run is None
  assert set(found.targets) == {'unknown'}
  assert 'uniform' in found.drawn['unknown']


def test_without_latents(world, given):
  run = f'--run={world / "run"}'
  assert _open(*given, run, latents=False).targets == {}


@pytest.mark.parametrize(
  ('arguments', 'says'),
  [
    ([], 'make demo'),
    (['--run='], '--known_latent'),
    (['--run=nowhere'], 'nowhere'),
  ],
)
def test_errors(given, arguments, says, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)  # no out/demo here
  with pytest.raises((ValueError, OSError), match=says):
    _open(*given, *arguments)
