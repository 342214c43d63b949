"""Names of Gemma Scope's SAEs, against SAELens' and Neuronpedia's."""

import pytest

from sae.formats import releases
from sae.formats.gemma_scope_table import L0S
from sae.formats.releases import list_saes, released_at, resolve
from sae.jumprelu import Origin

# Canonical L0s by layer, as clients have them.
CANONICAL = {
  ('gemma-scope-2b-pt-res', '16k'): (
    '105 102 141 59 124 68 70 69 71 73 77 80 82 84 84 78 78 77 74 73 71 70 72 '
    '75 73 116'
  ),
  ('gemma-scope-2b-pt-res', '65k'): (
    '73 121 77 89 89 105 107 107 111 118 128 70 72 75 73 127 128 125 116 115 '
    '114 111 116 123 124 93'
  ),
  ('gemma-scope-2b-pt-att', '16k'): (
    '104 79 93 117 116 135 61 99 129 127 70 80 85 92 71 98 71 79 72 122 62 65 '
    '106 73 96 77'
  ),
  ('gemma-scope-2b-pt-mlp', '65k'): (
    '72 127 134 68 66 86 101 115 110 77 95 88 96 98 89 72 66 136 88 88 88 86 '
    '92 102 128 107'
  ),
  ('gemma-scope-9b-pt-att', '16k'): (
    '61 77 69 102 126 125 108 70 65 71 132 67 68 77 81 79 81 110 80 86 76 86 '
    '70 80 79 73 75 136 71 76 73 73 74 78 91 77 69 82 81 77 91 129'
  ),
  ('gemma-scope-9b-pt-res', '131k'): (
    '41 56 70 103 101 94 120 119 72 75 84 88 96 99 105 103 121 117 113 110 114 '
    '109 105 101 97 96 97 96 98 97 95 92 88 91 89 94 93 96 101 99 94 84'
  ),
}
SPARSE_CANONICAL = {
  'gemma-scope-2b-pt-res': {
    '32k': {12: 76},
    '262k': {12: 121},
    '524k': {12: 115},
    '1m': {5: 114, 12: 107, 19: 88},
  },
  'gemma-scope-9b-pt-res': {
    '32k': {20: 57},
    '65k': {20: 55},
    '524k': {20: 48},
    '1m': {9: 122, 20: 101, 31: 77},
  },
  'gemma-scope-9b-it-res': {
    '16k': {9: 88, 20: 91, 31: 76},
    '131k': {9: 121, 20: 81, 31: 109},
  },
  'gemma-scope-27b-pt-res': {'131k': {10: 106, 22: 82, 34: 72}},
}


@pytest.mark.parametrize(('release', 'width'), CANONICAL)
def test_canonical_saes_are_those_that_clients_know(release, width):
  wanted = CANONICAL[release, width].split()
  for layer, l0 in enumerate(wanted):
    found = resolve(
      f'{release}-canonical', f'layer_{layer}/width_{width}/canonical'
    )
    assert found.path == f'layer_{layer}/width_{width}/average_l0_{l0}'


@pytest.mark.parametrize('release', SPARSE_CANONICAL)
def test_canonical_saes_of_few_layers(release):
  for width, layers in SPARSE_CANONICAL[release].items():
    for layer, l0 in layers.items():
      found = resolve(release, f'layer_{layer}/width_{width}/canonical')
      assert found.origin.l0 == l0
    ids = [x for x in list_saes(f'{release}-canonical') if f'_{width}/' in x]
    assert [int(x.split('/')[0][6:]) for x in ids if 'layer' in x] == [*layers]


def test_canonical_is_the_one_closest_to_100():
  count = 0
  for release in releases.RELEASES[::2]:
    if not any(f'gemma-scope-{name}' == release for name, _ in L0S):
      continue
    known = list_saes(release)
    for canonical in list_saes(f'{release}-canonical'):
      what = canonical.removesuffix('canonical') + 'average_l0_'
      l0s = [int(x[len(what) :]) for x in known if x.startswith(what)]
      chosen = resolve(release, canonical).origin.l0
      assert abs(chosen - 100) == min(abs(l0 - 100) for l0 in l0s)
      count += 1
  assert count == 429


@pytest.mark.parametrize(
  ('release', 'count'),
  [
    ('gemma-scope-2b-pt-res', 312),
    ('gemma-scope-2b-pt-att', 260),
    ('gemma-scope-2b-pt-mlp', 260),
    ('gemma-scope-9b-pt-res', 532),
    ('gemma-scope-9b-pt-att', 492),
    ('gemma-scope-9b-pt-mlp', 492),
    ('gemma-scope-27b-pt-res', 18),
    ('gemma-scope-9b-it-res', 30),
  ],
)
def test_all_saes_are_listed_and_resolve_to_themselves(release, count):
  ids = list_saes(release)
  assert len(ids) == len(set(ids)) == count
  for sae_id in ids:
    assert resolve(release, sae_id).path == sae_id


def test_the_2b_residual_l0s():
  ids = list_saes('google/gemma-scope-2b-pt-res')
  for what, l0s in {
    'layer_0/width_16k': '13 25 46 105 226',
    'layer_13/width_16k': '23 43 83 84 173 403',
    'layer_13/width_65k': '22 40 74 75 142 288',
    'layer_12/width_131k': '12 20 36 67 129 264',
    'layer_19/width_1m': '16 18 29 50 88 157',
  }.items():
    assert [x for x in ids if x.startswith(what + '/')] == [
      f'{what}/average_l0_{l0}' for l0 in l0s.split()
    ]


def test_what_is_known_of_an_sae():
  found = resolve('gemma-scope-2b-pt-att', 'layer_3/width_65k/average_l0_83')
  assert found.repo == 'google/gemma-scope-2b-pt-att'
  assert (found.d_in, found.width) == (2048, 65536)
  assert found.origin == Origin(
    model='google/gemma-2-2b',
    site='z',
    layer=3,
    release='gemma-scope-2b-pt-att',
    sae_id='layer_3/width_65k/average_l0_83',
    l0=83.0,
  )
  chat = resolve('gemma-scope-9b-it-res', 'layer_9/width_16k/canonical')
  assert chat.origin.model == 'google/gemma-2-9b-it'
  assert (chat.origin.site, chat.d_in) == ('resid_post', 3584)


@pytest.mark.parametrize(
  ('release', 'site', 'd_in'),
  [
    ('gemma-scope-2b-pt-res', 'resid_post', 2304),
    ('gemma-scope-2b-pt-mlp', 'mlp_out', 2304),
    ('gemma-scope-9b-pt-att', 'z', 4096),
    ('gemma-scope-9b-pt-mlp', 'mlp_out', 3584),
    ('gemma-scope-27b-pt-res', 'resid_post', 4608),
    ('gemma-scope-27b-pt-att', 'z', 4096),
  ],
)
def test_sites_and_their_widths(release, site, d_in):
  layer = 10
  width = '131k' if '27b' in release else '16k'
  sae_id = f'layer_{layer}/width_{width}/average_l0_106'
  if 'att' not in release or '27b' not in release:
    sae_id = f'layer_{layer}/width_{width}/canonical'
  found = resolve(release, sae_id)
  assert (found.origin.site, found.d_in) == (site, d_in)


@pytest.mark.parametrize(
  ('name', 'same'),
  [
    (
      ('gemma-2-2b/20-gemmascope-res-16k',),
      ('gemma-scope-2b-pt-res', 'layer_20/width_16k/average_l0_71'),
    ),
    (
      ('gemma-2-2b', '20-gemmascope-res-16k'),
      ('gemma-scope-2b-pt-res', 'layer_20/width_16k/average_l0_71'),
    ),
    (
      ('gemma-2-2b/12-gemmascope-res-16k__l0-22',),
      ('gemma-scope-2b-pt-res', 'layer_12/width_16k/average_l0_22'),
    ),
    (
      ('gemma-2-9b-it/31-gemmascope-res-131k',),
      ('gemma-scope-9b-it-res', 'layer_31/width_131k/average_l0_109'),
    ),
    (
      ('gemma-2-9b/0-gemmascope-att-16k',),
      ('gemma-scope-9b-pt-att', 'layer_0/width_16k/average_l0_61'),
    ),
    (
      ('google/gemma-scope-27b-pt-res', 'layer_34/width_131k/canonical'),
      ('gemma-scope-27b-pt-res', 'layer_34/width_131k/average_l0_72'),
    ),
  ],
)
def test_other_spellings(name, same):
  assert resolve(*name) == resolve(*same)


@pytest.mark.parametrize(
  ('release', 'sae_id', 'says'),
  [
    ('gemma-scope-2b-pt-ress', 'x', ['pt-ress', 'Did you mean gemma-scope-2b']),
    ('gemma-2b-res', 'x', ['gemma-2b-res', 'gemma-scope-2b-pt-res']),
    ('gemma-scope-2b-pt-res', None, ['is a release', 'layer_']),
    (
      'gemma-scope-2b-pt-res',
      'layer_12/width_16k/average_l0_80',
      ['layer_12/width_16k/average_l0_82', '22, 41, 82, 176, 445'],
    ),
    (
      'gemma-scope-2b-pt-res',
      'layer_26/width_16k/average_l0_82',
      ['layer 26', 'layers 0 to 25', 'layer_25'],
    ),
    (
      'gemma-scope-9b-it-res',
      'layer_10/width_16k/canonical',
      ['layer 10', '[9, 20, 31]', 'layer_9'],
    ),
    (
      'gemma-scope-2b-pt-res',
      'layer_12/width_64k/average_l0_82',
      ['64k', 'width_', '16k, 32k, 65k, 131k, 262k, 524k, 1m'],
    ),
    (
      'gemma-scope-2b-pt-res',
      'layer_11/width_1m/canonical',
      ['1m', 'Nearest: layer_11/width_65k', '16k, 65k'],
    ),
    (
      'gemma-scope-2b-pt-res',
      'layer_12/width_131k/canonical',
      ['none', 'layer_12/width_131k/average_l0_129'],
    ),
    (
      'gemma-scope-2b-pt-res',
      'layer_12/width_16k/l0_82',
      ['l0_82', 'Did you mean layer_12/width_16k/average_l0_82'],
    ),
    ('gemma-scope-27b-pt-att', 'layer_10/width_131k/canonical', ['not known']),
    ('gemma-scope-27b-pt-att', 'layer_46/width_131k/average_l0_9', ['0 to 45']),
    ('gemma-2-2b/26-gemmascope-res-16k', None, ['layers 0 to 25']),
    ('gemma-2-2b/5-gemmascope-foo-16k', None, ['gemma-scope-2b-pt-foo']),
  ],
)
def test_unknown_names_suggest_the_nearest(release, sae_id, says):
  with pytest.raises(KeyError) as error:
    resolve(release, sae_id)
  for text in says:
    assert text in str(error.value)


@pytest.mark.parametrize(
  ('release', 'sae_id', 'says'),
  [
    ('gemma-scope-2b-pt-transcoders', 'x', 'transcoder reads one tensor'),
    ('gemma-2-2b/5-gemmascope-transcoder-16k', None, 'transcoder'),
    ('gemma-scope-2b-pt-res', 'embedding/width_4k/average_l0_6', 'embedding'),
    ('google/gemma-scope-2-4b-pt-res', 'x', 'Gemma 3'),
  ],
)
def test_what_is_no_sae_of_a_layer_is_refused_with_the_reason(
  release, sae_id, says
):
  with pytest.raises(ValueError, match=says):
    resolve(release, sae_id)


def test_releases_without_a_list():
  found = resolve('gemma-scope-27b-pt-mlp', 'layer_10/width_131k/average_l0_7')
  assert found.origin.l0 == 7
  with pytest.raises(KeyError, match='huggingface.co/google/gemma-scope-27b'):
    list_saes('gemma-scope-27b-pt-mlp')


@pytest.mark.parametrize(
  ('width', 'label'),
  [
    (4, '4'),
    (512, '512'),
    (1000, '1000'),
    (1024, '1k'),
    (2**11, '2k'),
    (2**12, '4k'),
    (2**13, '8k'),
    (2**14, '16k'),
    (2**15, '32k'),
    (2**16, '65k'),
    (2**17, '131k'),
    (2**18, '262k'),
    (2**19, '524k'),
    (2**20, '1m'),
    (2**24, '16m'),
    (16000, '16000'),
  ],
)
def test_width_labels(width, label):
  assert releases.width_label(width) == label
  assert releases.parse_width_label(label) == width


def test_labels_that_are_no_width():
  for label in ('64k', '3k', 'wide', '0k', ''):
    with pytest.raises(ValueError, match='is not a width'):
      releases.parse_width_label(label)


def test_what_a_path_says():
  tail = 'layer_3/width_16k/average_l0_77'
  for root in (
    '/data/gemma-scope-2b-pt-att',
    '/cache/models--google--gemma-scope-2b-pt-att/snapshots/c0ffee',
    '/data/transcoders/gemma-scope-2-4b-pt-res/gemma-scope-2b-pt-att',
  ):
    found = released_at(f'{root}/{tail}')
    # The folder is there, whether the table has it or not.
    assert found.origin.site == 'z' and found.origin.l0 == 77
    assert found.origin.sae_id == tail
  assert released_at('/data/gemma-scope-2b-pt-att') is None
  assert released_at(f'/data/my-saes/{tail}') is None
  assert released_at('/data/gemma-scope-2b-pt-att/somewhere') is None
  with pytest.raises(ValueError, match='transcoder'):
    released_at(f'/data/gemma-scope-2b-pt-transcoders/{tail}')
  with pytest.raises(ValueError, match='embedding'):
    released_at('/d/gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6')
