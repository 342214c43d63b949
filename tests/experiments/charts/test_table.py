"""Cells are spelled in one way, with the digits that their interval bears."""

import math

import numpy as np
import pytest

from experiments.charts import Table, table
from experiments.stats.intervals import Estimate


def spelled(cell, **given):
  (row,) = table(['a'], [[cell]], **given).rows
  return row[0]


def estimate(value, low, high):
  return Estimate(value=value, low=low, high=high, n=9)


@pytest.mark.parametrize(
  ('cell', 'text'),
  [
    ('<b>as it is', '<b>as it is'),
    ('', ''),
    (1234567, '1,234,567'),
    (np.int64(12345), '12,345'),
    (0, '0'),
    (0.123456, '0.1235'),
    (np.float32(0.5), '0.5'),
    (1e-7, '1e-07'),
    (None, 'not defined'),
    (math.nan, 'not defined'),
    (-math.inf, 'not defined'),
    (True, 'yes'),
    (np.False_, 'no'),
    (estimate(0.5312, 0.4149, 0.6571), '0.53 [0.41, 0.66]'),
    (estimate(0.9541, 0.9274, 0.9716), '0.954 [0.927, 0.972]'),
    (estimate(-3.94, -4.14, -3.55), '-3.94 [-4.14, -3.55]'),
    (estimate(12.34, 8.1, 16.5), '12.3 [8.1, 16.5]'),
    (estimate(43210.4, 40000, 50000), '43,210 [40,000, 50,000]'),
    (estimate(1.0, 0.9, 1.0), '1.00 [0.90, 1.00]'),
    (estimate(-0.0001, -0.04, 0.04), '0.000 [-0.040, 0.040]'),
    (estimate(1e-8, 0.5e-8, 2e-8), '1e-08 [5e-09, 2e-08]'),
    (estimate(0.5, math.nan, math.nan), '0.5'),
    (estimate(math.nan, math.nan, math.nan), 'not defined'),
    (estimate(0.5312, 0.4149, 0.6571).to_dict(), '0.53 [0.41, 0.66]'),
    (estimate(2.0, 2.0, 2.0), '2'),
  ],
)
def test_cells(cell, text):
  assert spelled(cell) == text


def test_shares_are_in_percent():
  columns = ['name', 'rate']
  rows = [
    ['a', estimate(0.5312, 0.4149, 0.6571)],
    ['b', 0.25],
    ['c', None],
    ['d', 'as it is'],
  ]
  found = table(columns, rows, percent=['rate'])
  assert isinstance(found, Table)
  assert [row[1] for row in found.rows] == [
    '53 % [41, 66]',
    '25.0 %',
    'not defined',
    'as it is',
  ]


@pytest.mark.parametrize(
  ('columns', 'rows', 'given', 'message'),
  [
    ([], [], {}, '0 columns and 0 rows'),
    (['a'], [], {}, '1 columns and 0 rows'),
    (['a', 'b'], [['1', '2'], ['1']], {}, 'Row 1 has 1 cells for 2 columns'),
    (['a'], [['1']], {'percent': ['b']}, r"names \['b'\]"),
  ],
)
def test_bad_input_is_refused(columns, rows, given, message):
  with pytest.raises(ValueError, match=message):
    table(columns, rows, **given)


def test_a_cell_of_another_kind_is_refused():
  with pytest.raises(TypeError, match="not \\['a'\\]"):
    spelled(['a'])
