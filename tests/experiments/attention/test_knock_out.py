"""The binary on a planted world in files, which reads the entity in layer 1."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments.attention import knock_out as knock_out_attention
from tests.experiments import worlds
from tests.experiments.attention import statements
from tests.experiments.steering import planted

FEW = ('--questions=4', '--max_new_tokens=8', '--window=1,from')
EDGES = '--edges=last:entity,last:bos,after:entity'


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  return statements.save(tmp_path_factory.mktemp('base'))


def knock_out(world, base, out, *arguments):
  return worlds.run(
    knock_out_attention,
    f'--model={base}',
    f'--chat_model={base}',
    f'--sae={world / "saes"}',
    f'--entities={world / "entities"}',
    f'--run={world / "run"}',
    f'--out={out}',
    *arguments,
  )


def changes(study, name, edges, width):
  """Layer -> change of the probability."""
  return {
    e['centre']: e['probability']['value']
    for e in study['effects']
    if (e['class'], e['edges'], e['width']) == (name, edges, width)
  }


def test_where_the_entity_is_read(world, base, tmp_path, capsys):
  """Without it in layer 1, no unknown entity is declined; elsewhere all are."""
  out = tmp_path / 'out'
  assert knock_out(world, base, out, *FEW, EDGES, '--studies=refusals') == 0
  said = capsys.readouterr().out
  assert 'The first token tells refusals in 100.0% of answers' in said
  results = json.loads((out / 'results.json').read_text())
  study = results['studies']['refusals']
  (opening,) = [o for o in study['openings']['openings'] if o['refusals']]
  assert opening == {'text': 'sorry', 'answers': 8, 'refusals': 8}
  assert study['uncut']['unknown']['says']['value'] == 1
  assert study['uncut']['known']['says']['value'] == 0
  layer = planted.LAYER
  for edges in ('last:entity', 'after:entity'):
    alone = changes(study, 'unknown', edges, 1)
    onwards = changes(study, 'unknown', edges, 'from')
    lost = alone.pop(layer)
    assert lost < -0.1
    assert max(map(abs, alone.values())) < 1e-5
    for start, change in onwards.items():
      expected = lost if start <= layer else 0
      assert change == pytest.approx(expected, abs=1e-5)
  nothing = changes(study, 'unknown', 'last:bos', 1)
  assert max(map(abs, nothing.values())) < 1e-5
  known = changes(study, 'known', 'last:entity', 'from')
  assert max(map(abs, known.values())) < 1e-5
  until = {(r['edges'], r['class']): r['last_layer'] for r in study['read_out']}
  assert until['last:entity', 'unknown'] == layer
  assert until['last:bos', 'unknown'] is None
  # What makes it decline is written by the edge that is cut.
  effect = next(
    e
    for e in study['effects']
    if (e['class'], e['edges'], e['width'], e['centre'])
    == ('unknown', 'last:entity', 1, layer)
  )
  uncut = study['uncut']['unknown']['latents']['unknown']['last']['value']
  assert uncut > 1
  moved = effect['latents']['unknown']
  assert moved['last']['value'] == pytest.approx(-uncut)
  assert 'entity_last' not in moved  # it is not run again
  assert effect['p_max_t'] < 0.05
  assert effect['says_after']['value'] == 0 and effect['says']['value'] == -1
  cost = study['cost']
  assert cost['flops'] < cost['naive_flops']
  arrays = load_file(out / 'refusals' / 'effects.safetensors')
  L = planted.model().config.num_layers
  assert arrays['log_prob'].shape == (1 + 2 * L, 16, 3)
  lines = (out / 'refusals' / 'examples.jsonl').read_text().splitlines()
  assert json.loads(lines[-1])['answer_given'] == 'sorry'
  assert np.isfinite(arrays['log_prob']).all()
  assert (out / 'report.html').stat().st_size > 1e6


def test_heads_one_by_one_and_resuming(world, base, tmp_path):
  out = tmp_path / 'out'
  arguments = (*FEW, '--heads=all,H0', '--edges=last:entity')
  few = '--rows_per_batch=7'
  assert knock_out(world, base, out, *arguments, few) == 0
  results = json.loads((out / 'results.json').read_text())
  assert set(results['studies']) == {'answers', 'refusals'}
  for study in results['studies'].values():
    assert {e['heads'] for e in study['effects']} == {'all', 'H0'}
    # Two rows of each prompt: no more than seven of them run at once.
    assert study['cost']['timed']['prompts'] == 3
  files = sorted((out / 'work').rglob('*.safetensors'))
  times = [file.stat().st_mtime_ns for file in files]
  flagfile = f'--flagfile={out / "flags.txt"}'
  assert worlds.run(knock_out_attention, flagfile) == 0
  assert [file.stat().st_mtime_ns for file in files] == times and files
  # Shorter answers are new ones; the sweeps do not depend on them.
  shorter = (*arguments, few, '--max_new_tokens=4')
  assert knock_out(world, base, out, *shorter) == 0
  assert '--max_new_tokens=4' in (out / 'flags.txt').read_text()
  again = [
    file
    for file, time in zip(files, times, strict=True)
    if file.stat().st_mtime_ns == time
  ]
  assert again == files
  # Fewer questions are others, and so is all of the work.
  fewer = ('--questions=2', *arguments[1:], few)
  assert knock_out(world, base, out, *fewer) == 0
  results = json.loads((out / 'results.json').read_text())
  assert results['studies']['refusals']['uncut']['known']['n'] == 4


@pytest.mark.parametrize(
  'arguments, said',
  [
    (['--edges=last'], 'QUERIES:KEYS'),
    (['--edges='], 'Give --edges'),
    (['--edges=-50:entity'], 'no token in'),
    (['--window=3'], 'widths from 1 to 2'),
    (['--heads=H7'], 'names no head'),
    (['--studies=lies'], 'expected some of answers, refusals'),
  ],
)
def test_what_is_wrong_is_said_before_any_work(
  world,
  base,
  tmp_path,
  capsys,
  arguments,
  said,
):
  out = tmp_path / 'out'
  assert knock_out(world, base, out, '--window=1', *arguments) == 1
  assert said in capsys.readouterr().err
  assert not out.exists()
