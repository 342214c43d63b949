"""Sums that were written are read back."""

import dataclasses

import numpy as np

from experiments.activations import GroupSums, read_sums, write_sums


def sums(site, layer):
  rng = np.random.default_rng(layer)
  return GroupSums(
    site=site,
    layer=layer,
    n=rng.integers(0, 9, 3),
    active=rng.integers(0, 9, (3, 7)),
    total=rng.standard_normal((3, 7)),
    squares=rng.standard_normal((3, 7)).T.copy().T,  # not in C order
    stream_total=rng.standard_normal((3, 4)),
    norm_total=rng.standard_normal(3),
  )


def test_round_trip(tmp_path):
  """In the order of site and layer, as numbers."""
  made = [sums('resid_post', 10), sums('resid_post', 9), sums('mlp_out', 11)]
  path = tmp_path / 'new' / 'sums.safetensors'
  write_sums(path, made)
  read = read_sums(path)
  assert [(one.site, one.layer) for one in read] == [
    ('mlp_out', 11),
    ('resid_post', 9),
    ('resid_post', 10),
  ]
  for before, after in zip(reversed(made), read, strict=True):
    for field in dataclasses.fields(GroupSums):
      mine, its = (getattr(one, field.name) for one in (before, after))
      np.testing.assert_array_equal(mine, its)
      assert np.asarray(mine).dtype == np.asarray(its).dtype
  assert [file.name for file in path.parent.iterdir()] == [path.name]
