"""SAEs go from format to format and stay what they are."""

import functools

import numpy as np

from sae.formats.loading import load_sae
from sae.formats.releases import list_saes
from sae.formats.sae_lens import save_sae_lens
from sae.jumprelu import WEIGHTS, Origin
from tests.experiments import worlds
from tests.sae.formats.test_loading import (
  random_sae,
  random_weights,
  write_params,
)
from tools import convert_sae

run = functools.partial(worlds.run, convert_sae)


def test_there_and_back(tmp_path, capsys):
  root = tmp_path / 'gemma-scope-2b-pt-att'
  where = 'layer_3/width_4/average_l0_83'
  write_params(root / where, random_weights(4, 2048))
  there, back = tmp_path / 'sae_lens', tmp_path / 'back'
  assert run(f'--sae={root}', f'--sae_id={where}', f'--target={there}') == 0
  assert 'written in the format of sae_lens' in capsys.readouterr().out
  more = '--to=gemma_scope', '--l0=83'
  assert run(f'--sae={there}', f'--target={back}', *more) == 0
  loaded = [
    load_sae(root, where),
    load_sae(there),
    load_sae(back / where, site='z'),
  ]
  for other in loaded[1:]:
    assert (other.origin.site, other.origin.layer) == ('z', 3)
    for name in WEIGHTS:
      np.testing.assert_array_equal(
        getattr(other, name)[...], getattr(loaded[0], name)[...], name
      )


def test_the_ids_of_a_release(capsys):
  assert run('--list=gemma-scope-2b-pt-res-canonical') == 0
  printed = capsys.readouterr().out.split()
  assert printed == list_saes('gemma-scope-2b-pt-res-canonical')
  assert 'layer_20/width_16k/canonical' in printed


def test_refused(tmp_path, capsys):
  def refused(*arguments):
    assert run(*arguments) == 1
    return capsys.readouterr().err

  assert '--sae is needed' in refused()
  assert '--target is needed' in refused('--sae=x')
  assert "'gemma-scope-2b-pt-rez'" in refused('--list=gemma-scope-2b-pt-rez')
  long = random_sae(Origin(site='resid_post', layer=2))
  long.W_dec[...] *= 2
  save_sae_lens(long, tmp_path / 'mine')
  target = f'--target={tmp_path}/out'
  to = '--to=gemma_scope'
  mine = f'--sae={tmp_path}/mine'
  assert 'Give --l0' in refused(mine, to, target)
  assert 'normalise=True' in refused(mine, to, target, '--l0=3')
  assert run(mine, to, target, '--l0=3', '--normalise') == 0
  assert 'exist' in refused(mine, to, target, '--l0=3', '--normalise')
