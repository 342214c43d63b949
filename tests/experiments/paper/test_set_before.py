"""When bounds were set, against git; and the table in the documentation."""

import json
import pathlib
import subprocess

import pytest

from experiments.paper import Claim, Compared, claims, read_claims
from experiments.paper.__main__ import docs_table, renewed

ROOT = pathlib.Path(__file__).parents[3]
FILE = ROOT / 'experiments/paper/claims/miniworld.json'
# What docs/studies.md must have for the table.
MARKS = '<!-- claims -->', '<!-- end of claims -->'


def git(*arguments):
  done = subprocess.run(
    ['git', '-C', ROOT, *arguments], capture_output=True, text=True
  )
  return done.stdout if done.returncode == 0 else None


def at_commit(commit):
  """Returns the bounds by claim as a commit has them; {} before the file."""
  listed = git('ls-tree', '-r', '--name-only', '--full-tree', commit)
  assert listed is not None, commit
  files = [
    path
    for path in listed.splitlines()
    if path.endswith('paper/claims/miniworld.json')
  ]
  if not files:
    return {}
  return bounds(json.loads(git('show', f'{commit}:{files[0]}')))


def bounds(found):
  return {
    (one['section'], one['what']): [
      one.get(name) for name in ('published', 'low', 'high')
    ]
    for one in found
  }


history = pytest.mark.skipif(
  git('rev-parse', '--is-shallow-repository') != 'false\n',
  reason='the history is not here',
)


@history
def test_each_commit_is_the_last_that_changed_the_claim():
  """No bound that was only taken away is overlooked, as by `git blame`."""
  kept = json.loads(FILE.read_text())
  pending = [one['what'] for one in kept if one['commit'] == claims.PENDING]
  assert not pending, f'commit them, then put the hash into {FILE}'
  for commit in {one['commit'] for one in kept}:
    then, parent = at_commit(commit), at_commit(f'{commit}^')
    for one in kept:
      if one['commit'] == commit:
        ((key, now),) = bounds([one]).items()
        assert then.get(key) == now, (commit, key)
        assert parent.get(key) != now, (commit, key)


@history
def test_before_is_before_the_bundle():
  bundle = git('log', '-1', '--format=%H', '--', 'experiments/miniworld/bundle')
  for claim in read_claims('miniworld'):
    if claim.set == 'before':
      order = git('merge-base', '--is-ancestor', claim.commit, bundle.strip())
      assert order is not None, claim.what


def test_every_claim_about_miniworld_says_when(tmp_path, monkeypatch):
  found = read_claims('miniworld')
  assert {claim.set for claim in found} <= {'before', 'after'}
  assert {claim.kind for claim in found} == set(claims.KINDS)
  kept = json.loads(FILE.read_text())
  monkeypatch.setattr(claims, '_FOLDER', tmp_path)
  file = tmp_path / 'miniworld.json'
  for wrong in ({'set': ''}, {'set': 'now'}, {'commit': 'HEAD'}):
    file.write_text(json.dumps([kept[0] | wrong]))
    with pytest.raises(ValueError, match='miniworld.json.*before, after'):
      read_claims('miniworld')
  file.write_text(json.dumps([kept[0] | {'kind': 'truth'}]))
  with pytest.raises(ValueError, match="kind 'truth'"):
    read_claims('miniworld')


def row(what, kind, verdict='inside', **changes):
  claim = Claim(
    section='s',
    what=what,
    source='x',
    low=0.5,
    experiment='e',
    at='a',
    set='before',
    commit='1234567',
    kind=kind,
    **changes,
  )
  return Compared(claim=claim, verdict=verdict, value=0.75, n=8)


def test_the_table_counts_results_alone():
  rows = [
    row('a result', 'result'),
    row('another | with a bar', 'result', 'outside'),
    row('the same as itself', 'identity'),
    row('made so', 'construction'),
  ]
  table = docs_table(rows)
  assert table.startswith('2 claims: 1 inside, 1 outside')
  assert '2 identities and rows by construction are not counted' in table
  counted, apart = table.split('By construction of the world')
  assert '| a result | [0.5, ] | 0.75 |  | 8 | inside | before 1234567 |' in (
    counted
  )
  assert 'a bar' in counted and 'another \\| with' in counted
  assert 'made so' not in counted and 'made so' in apart


def test_only_the_table_is_renewed(tmp_path):
  page = tmp_path / 'page.md'
  page.write_text(f'before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n')
  text = renewed(page, 'new')
  assert text == f'before\n{MARKS[0]}\n\nnew\n{MARKS[1]}\nafter\n'
  page.write_text(text)
  assert renewed(page, 'new') == text
  page.write_text('nothing')
  with pytest.raises(ValueError, match='no place for the table'):
    renewed(page, 'new')
  with pytest.raises(FileNotFoundError):
    renewed(tmp_path / 'none.md', 'new')


def test_the_documentation_has_a_place_for_it():
  text = (ROOT / 'docs' / 'studies.md').read_text()
  assert all(mark in text for mark in MARKS)
