"""The numbers that are carried along."""

import importlib
import json
import re

from absl import flags
import pytest

from experiments.inputs import choose_saes
from experiments.paper import FAMILIES, programs, read_claims
from experiments.paper.programs import PROGRAMS
from experiments.runs import define_flags
import gemma_jax as gj
from tests.real_data import SAMPLES


@pytest.mark.parametrize('family', FAMILIES)
def test_claims_name_programs_and_sources(family):
  claims = read_claims(family)
  assert claims
  assert {claim.experiment for claim in claims} <= {*PROGRAMS, ''}
  assert all(claim.source for claim in claims)
  said = [(claim.section, claim.what) for claim in claims]
  assert len(set(said)) == len(said)


def test_unknown_family():
  with pytest.raises(ValueError, match='gemma-2-9b'):
    read_claims('gemma-7')


@pytest.mark.parametrize('family', ['gemma-2-2b', 'gemma-2-9b'])
@pytest.mark.parametrize('label', ['known', 'unknown'])
def test_layer_curves_are_the_published_ones(family, label):
  published = SAMPLES / 'paper' / 'layerwise_scores.json'
  scores = json.loads(published.read_text())
  claims = {
    claim.at: claim.published
    for claim in read_claims(family)
    if f'layers/{label}/' in claim.at
  }
  want = {
    f'latents/layers/{label}/[layer={int(layer) - 1}]/maxmin': score
    for layer, score in scores[f'{family}_{label}']['MaxMin'].items()
  }
  assert claims == want


@pytest.mark.parametrize('family', FAMILIES)
def test_programs_take_their_flags(family, tmp_path):
  """Every flag exists in its binary, with a value that it accepts."""
  found = programs(family, str(tmp_path), entities='e', text='t', questions=5)
  wanted = ['factual_recall'] if family == 'gpt2' else list(PROGRAMS)
  assert [each.name for each in found] == wanted
  for program in found:
    module = importlib.import_module(f'experiments.{program.name}')
    if hasattr(module, '__path__'):
      module = importlib.import_module(f'{module.__name__}.__main__')
    values = flags.FlagValues()
    define_flags(module.Settings, values)
    values(['x', *program.command('o')[2:]])
    assert values.out == 'o'


@pytest.mark.parametrize('family', FAMILIES)
def test_flags_that_claims_depend_on_are_set(family, tmp_path):
  """Those that notes name, and --text for what is read in text."""
  found = programs(family, str(tmp_path), entities='e', text='t')
  given = {program.name: program.flags for program in found}
  for claim in read_claims(family):
    if not claim.experiment:
      continue
    wanted = re.findall(r'--(\w+)(?:=([\w,-]+))?', claim.note)
    if claim.at.startswith('likelihood/'):
      wanted.append(('text', 't'))
    for name, value in wanted:
      set_to = given[claim.experiment].get(name)
      assert set_to is not None, (claim.what, name)
      assert value in ('', set_to), (claim.what, name)


def test_uncertainty_latents_are_of_the_chat_models_saes(tmp_path):
  """All layers that the release has, whose best is claimed."""
  (found,) = programs(
    'gemma-2-9b',
    str(tmp_path),
    entities='e',
    text='t',
    only=['uncertainty'],
  )
  chosen = choose_saes(
    found.flags['sae'],
    gj.preset('gemma-2-9b'),
    layers=list(map(int, found.flags['layers'].split(','))),
  )
  assert [one.layer for one in chosen] == [9, 20, 31]


def test_published_models_need_entities_and_text():
  with pytest.raises(ValueError, match='--entities'):
    programs('gemma-2-2b', 'out', text='t')
  with pytest.raises(ValueError, match='--text'):
    programs('gemma-2-2b', 'out', entities='e')
  with pytest.raises(ValueError, match='no program x'):
    programs('miniworld', 'out', only=['x'])
