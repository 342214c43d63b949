"""The file that a training goes on from, whole and damaged."""

import jax.numpy as jnp
import numpy as np
import pytest

from gemma_jax.training.snapshot import Snapshot

STATE = {'w': jnp.arange(4.0), 'n': jnp.array(3)}


def test_what_is_written_comes_back(tmp_path):
  snapshot = Snapshot(tmp_path / 'a' / 's', {'seed': (1, 2)})
  assert snapshot.read(STATE) is None
  snapshot.write(7, STATE, [{'loss': 0.5}])
  step, state, records = snapshot.read(STATE)
  assert step == 7 and records == [{'loss': 0.5}]
  for name, array in STATE.items():
    assert state[name].dtype == array.dtype
    np.testing.assert_array_equal(state[name], array)
  with pytest.raises(ValueError, match='seed=.1, 2. .now 3'):
    Snapshot(tmp_path / 'a' / 's', {'seed': 3}).read(STATE)


@pytest.mark.parametrize('cut', [0, 5, 60, -1])
def test_a_damaged_one_is_named(tmp_path, cut):
  snapshot = Snapshot(tmp_path / 's', {})
  snapshot.write(7, STATE, [])
  content = (tmp_path / 's').read_bytes()
  (tmp_path / 's').write_bytes(content[:cut])
  with pytest.raises(ValueError, match=f'{tmp_path / "s"} is damaged.*Delete'):
    snapshot.read(STATE)


@pytest.mark.parametrize(
  'like', [{'w': jnp.arange(5.0), 'n': jnp.array(3)}, {'n': jnp.array(3)}]
)
def test_one_of_another_state(tmp_path, like):
  snapshot = Snapshot(tmp_path / 's', {})
  snapshot.write(7, STATE, [])
  with pytest.raises(ValueError, match='Delete'):
    snapshot.read(like | {'x': jnp.arange(2)})
