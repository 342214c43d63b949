"""Colours and dashes tell names apart, the same ones in all figures."""

from experiments.charts import colours, style


def test_colours_are_distinct_and_stable():
  names = [f'run {i}' for i in range(10)]
  found = colours(names)
  assert len(set(found.values())) == 10
  assert colours(names[:3]).items() <= found.items()
  more = [f'run {i}' for i in range(25)]
  looks = zip(colours(more).values(), style.dashes(more).values(), strict=True)
  assert len(set(looks)) == 25


def test_others_shine_through():
  assert style.faint('#0072B2', 0.2) == 'rgba(0,114,178,0.2)'
  assert style.faint('#888', 0.5) == 'rgba(136,136,136,0.5)'


def test_labels_are_cut_off():
  assert style.short('a' * 10, 10) == 'a' * 10
  assert style.short('a' * 11, 10) == 'a' * 9 + '…'


def test_mixed_colours():
  assert style.mixed('#ff0080', '#000000', 0) == '#ff0080'
  assert style.mixed('#ff0080', '#00ff00', 1) == '#00ff00'
  assert style.mixed('#ff0080', '#00ff00', 0.5) == '#808040'
