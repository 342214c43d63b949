"""The binary on a planted world in files."""

import json

import pytest
from safetensors.numpy import load_file

from experiments.self_report import __main__ as self_report
from tests.experiments import worlds

QUESTION = (
  '--question=Where was born the {type} {name}?',
  '--prefix=',
  '--yes=Paris',
  '--no=sorry',
)
FEW = (
  '--num_random=2',
  '--sweep=0.5',
  '--questions=3',
  '--rows_per_batch=16',
  '--positions=entity_last_to_end',
)


def ask(world, out, *arguments):
  return worlds.run(
    self_report,
    f'--chat_model={world / "chat"}',
    f'--sae={world / "saes"}',
    f'--entities={world / "entities"}',
    f'--run={world / "run"}',
    f'--out={out}',
    *arguments,
  )


def test_a_run(world, tmp_path, capsys):
  out = tmp_path / 'out'
  assert ask(world, out, *QUESTION, *FEW) == 0
  said = capsys.readouterr().out
  assert 'tells known from unknown entities with AUROC 1.000' in said
  results = json.loads((out / 'results.json').read_text())
  assert results['experiment'] == 'self_report'
  assert results['amounts']['unknown']['dose'] == pytest.approx(1)
  assert results['amounts']['unknown']['source'] == 'default'
  assert results['asked']['known']['all'] == 6
  steered = {a['name']: a for a in results['arms'] if a['kind'] == 'steered'}
  effect = lambda arm, name: steered[arm]['classes'][name]['all']['logit'][
    'effect'
  ]['value']
  assert effect('+ unknown', 'known') < 0 < effect('+ known', 'unknown')
  lines = (out / 'examples.jsonl').read_text().splitlines()
  assert len(lines) == 12 and 'original' in json.loads(lines[0])['arms']
  arrays = load_file(out / 'effects.safetensors')
  assert arrays['logits'].shape == (len(results['arms']), 12, 2)
  assert (out / 'report.html').stat().st_size > 1e6
  before = (out / 'results.json').read_bytes()
  assert worlds.run(self_report, f'--flagfile={out / "flags.txt"}') == 0
  assert (out / 'results.json').read_bytes() == before


def test_as_published(world, tmp_path):
  out = tmp_path / 'out'
  arguments = (*QUESTION, *FEW, '--mode=reference', '--alpha_known=3')
  assert ask(world, out, *arguments) == 0
  results = json.loads((out / 'results.json').read_text())
  assert [arm['kind'] for arm in results['arms']] == [
    'original',
    *['steered'] * 2,
    *['random latent'] * 2,
  ]
  assert results['amounts']['known']['alpha'] == 3
  assert results['amounts']['known']['source'] == 'given'


@pytest.mark.parametrize(
  'arguments, said',
  [
    ((), "' Yes' is not one token"),
    (('--question=Who?',), '{type} once'),
    ((*QUESTION, '--run=nowhere'), 'nowhere'),
    ((*QUESTION, '--sweep=a'), '--sweep=a'),
    ((*QUESTION, '--unknown_latent=resid_post.1/99'), 'has 6 latents'),
  ],
)
def test_what_is_wrong_is_said_before_any_work(
  world,
  tmp_path,
  capsys,
  arguments,
  said,
):
  assert ask(world, tmp_path / 'out', *FEW, *arguments) == 1
  assert said in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
