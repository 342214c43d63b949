"""From a model and text to SAEs, exports and a report; and what is refused."""

import hashlib
import json
import re

from absl import flags
import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments import inputs
from experiments.inputs import corpus
from experiments.inputs.token_rows import TokenRows
from experiments.runs import define_flags, read_flags
from experiments.sae_training import evaluate as evaluate_sae
from experiments.sae_training import study, train
from experiments.sae_training.token_activations import read_batch
import gemma_jax as gj
from sae.formats.loading import load_sae
from sae.formats.sae_lens import read_sparsity
from sae.metrics.evaluation import evaluate
from tests.experiments import worlds

TRAIN = (
  '--layer=3,1',
  '--width=16',
  '--recipe=short',
  '--sparsity=0.01,0.01,0.3',
  '--tokens=1030',
  '--batch_size=50',
  '--bucket_size=250',
  '--learning_rate=0.01',
  '--threshold_learning_rate=0.3',
  '--context=10',
  '--harvest_batch=6',
  '--eval_tokens=60',
  '--uniformity_tokens=7',
  '--eval_fraction=0.2',
  '--log_every=5',
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A model with a tokenizer, and texts with an empty one among them."""
  folder = tmp_path_factory.mktemp('world')
  worlds.save(folder / 'model')
  documents = [*worlds.texts(60), ' ', 'Paris <eos> art']
  worlds.write_jsonl(folder / 'text.jsonl', documents)
  return folder


def settings(*arguments):
  """What a command line asks for."""
  values = flags.FlagValues()
  define_flags(train.Settings, values)
  values(['test', '--out=x', *arguments])
  return read_flags(train.Settings, values)


def arguments(folder, out, *more):
  return (
    f'--model={folder}/model',
    f'--text={folder}/text.jsonl',
    f'--out={out}',
    *TRAIN,
    *more,
  )


@pytest.fixture(scope='module')
def out(folder):
  assert worlds.run(train, *arguments(folder, folder / 'out')) == 0
  return folder / 'out'


@pytest.fixture(scope='module')
def results(out):
  return json.loads((out / 'results.json').read_text())


def test_every_file_is_there(out, results):
  for name in ('flags.txt', 'report.html', 'metrics.jsonl', 'run.json'):
    assert (out / name).is_file()
  saes = results['saes']
  assert [sae['layer'] for sae in saes] == [3, 3, 3, 1, 1, 1]
  paths = [path for sae in saes for path in sae['files'].values()]
  assert len(set(paths)) == 18
  assert all((out / path).exists() for path in paths)
  assert not [
    path for path in out.rglob('.*') if 'tensorboard' not in str(path)
  ]


def test_equal_l0s_do_not_overwrite_each_other(out, results):
  """Two runs of a layer are the same, so they round to the same L0."""
  first, second = (sae['files'] for sae in results['saes'][:2])
  assert second['gemma_scope'] == first['gemma_scope'].replace(
    'gemma_scope/', 'gemma_scope/same_l0_2/'
  )
  assert second['sae_lens'] == first['sae_lens'] + '_2'
  assert second['latents'] == first['latents'].replace('.saf', '_2.saf')


def test_exports_give_the_metrics_of_the_results(folder, out, results):
  """Loaded anew, on a stream of the held-out text."""
  rows = TokenRows(out / 'tokens' / 'eval')
  model = gj.load_checkpoint(folder / 'model')
  stop = rows.find(59)[0] + 1
  batches = [read_batch(rows, i, 6, stop) for i in range(-(-stop // 6))]
  for entry in results['saes'][1::2]:
    saes = [
      load_sae(out / entry['files'][k]) for k in ('gemma_scope', 'sae_lens')
    ]
    for sae in saes:
      assert (sae.origin.site, sae.origin.layer) == (
        'resid_post',
        entry['layer'],
      )
      look = gj.capture('resid_post', layers=[entry['layer']])
      metrics = evaluate(
        sae,
        [
          (gj.run(model, *b[:2], capture=look)['resid_post'][0], b.keep)
          for b in batches
        ],
      )
      assert metrics.to_dict() == entry['metrics']
      assert sae.origin.l0 == entry['metrics']['l0']
    latents = load_file(out / entry['files']['latents'])
    np.testing.assert_array_equal(latents['frequency'], metrics.frequency)
    sparsity = read_sparsity(out / entry['files']['sae_lens'])
    np.testing.assert_allclose(10**sparsity, latents['frequency'], atol=1e-6)
    delta = entry['fidelity']['delta_loss']['value']
    losses = latents['sequence_loss_spliced'] - latents['sequence_loss_clean']
    total = latents['sequence_tokens'].sum()
    assert delta == pytest.approx(losses.sum() / total)


def test_results_say_what_was_run(folder, results):
  assert results['config']['num_steps'] == 20
  assert results['training_tokens'] == 1000
  assert results['tokens_left_over'] == 30
  data = results['data']
  assert data['train']['documents'] == [0, 48]  # 13 of 61 are held out
  assert data['eval']['documents'] == [48, 61] and data['eval']['held_out']
  assert data['train']['empty_documents_skipped'] == 1
  assert len(data['train']['sha256']) == 64
  assert data['train']['used']['tokens_kept'] >= 1000
  assert {'jax', 'flax', 'numpy', 'python'} <= results['versions'].keys()
  for entry in results['saes']:
    assert entry['metrics']['num_tokens'] >= 60
    assert entry['metrics']['metric_version']
    assert entry['uniformity']['num_tokens'] <= 7
    assert entry['training']['sparsity'] in (0.01, 0.3)
    assert entry['fidelity']['delta_loss'].keys() >= {'low', 'high', 'value'}
  assert (
    results['saes'][0]['metrics']['l0'] > results['saes'][2]['metrics']['l0']
  )


def test_the_flagfile_resumes_to_the_same_bytes(out, monkeypatch):
  def never(*args, **kwargs):
    raise AssertionError('The model ran for training.')

  monkeypatch.setattr(study, 'ActivationStream', never)
  kept = ('results.json', 'flags.txt', 'run.json', 'metrics.jsonl')
  before = {name: (out / name).read_bytes() for name in kept}
  exports = {p: p.read_bytes() for p in (out / 'gemma_scope').rglob('*.npz')}
  assert worlds.run(train, f'--flagfile={out}/flags.txt') == 0
  assert before == {name: (out / name).read_bytes() for name in kept}
  assert exports == {
    p: p.read_bytes() for p in (out / 'gemma_scope').rglob('*.npz')
  }


def test_another_run_is_not_taken_for_this_one(folder, out, capsys):
  code = worlds.run(train, *arguments(folder, out, '--layer=0,1'))
  assert code == 1
  error = capsys.readouterr().err
  assert 'layers=[3, 1] (now [0, 1])' in error
  code = worlds.run(train, *arguments(folder, out, '--bandwidth=0.3'))
  assert code == 1 and 'bandwidth' in capsys.readouterr().err


def test_evaluate_gives_the_same_numbers(
  folder, out, results, tmp_path, capsys
):
  """The same text, from its first document on."""
  held_out = worlds.write_jsonl(
    tmp_path / 'held_out.jsonl', [*worlds.texts(60)[48:], 'Paris <eos> art']
  )
  entry = results['saes'][5]
  flags_of_text = [f for f in TRAIN if 'context' in f or 'harvest' in f]
  code = worlds.run(
    evaluate_sae,
    f'--model={folder}/model',
    f'--sae={out / entry["files"]["gemma_scope"]}',
    f'--text={held_out}',
    '--tokens=60',
    '--uniformity_tokens=7',
    '--force',
    f'--out={tmp_path}/out',
    *flags_of_text,
  )
  assert code == 0, capsys.readouterr().err
  found = json.loads((tmp_path / 'out/results.json').read_text())
  for name in ('metrics', 'fidelity', 'uniformity', 'intervals'):
    assert found['saes'][0][name] == entry[name], name
  assert found['sae']['l0_over_label'] == 1
  assert (tmp_path / 'out/report.html').is_file()


@pytest.mark.slow
def test_on_a_mesh(folder, out, results, tmp_path, capsys):
  """Trained, measured and measured again over 8 devices, as on one."""
  devices = '--data=4', '--model_parallel=2'
  again = tmp_path / 'again'
  assert worlds.run(train, *arguments(folder, again, *devices)) == 0
  found = json.loads((again / 'results.json').read_text())
  for mine, one in zip(found['saes'], results['saes'], strict=True):
    for name in ('l0', 'fvu', 'mse'):
      assert mine['metrics'][name] == pytest.approx(
        one['metrics'][name], rel=1e-3
      )
    loss = [x['fidelity']['spliced_loss']['value'] for x in (mine, one)]
    assert loss[0] == pytest.approx(loss[1], rel=1e-3)
  entry = found['saes'][5]
  capsys.readouterr()
  code = worlds.run(
    evaluate_sae,
    f'--model={folder}/model',
    '--model_name=another',
    f'--sae={again / entry["files"]["gemma_scope"]}',
    f'--text={folder}/text.jsonl',
    '--context=10',
    '--tokens=60',
    '--force',
    f'--out={tmp_path}/measured',
    *devices,
  )
  said = capsys.readouterr()
  assert code == 0, said.err
  assert 'the model model; this one is another' in said.err


def test_names_of_site_and_model(folder, tmp_path):
  code = worlds.run(
    train,
    *arguments(folder, tmp_path / 'out'),
    '--site=hook_resid_post',
    '--uniformity_tokens=0',
    '--model_name=tiny',
  )
  assert code == 0
  results = json.loads((tmp_path / 'out/results.json').read_text())
  entry = results['saes'][3]
  assert (entry['site'], entry['layer']) == ('resid_post', 1)
  assert entry['model'] == 'tiny' and entry['uniformity'] is None


def test_a_model_without_text_is_refused(folder, tmp_path, capsys):
  model = f'--model={folder}/model'
  assert worlds.run(train, model, f'--out={tmp_path}/out', *TRAIN) == 1
  assert '--text is needed' in capsys.readouterr().err


def test_a_killed_run_goes_on_to_the_same_bytes(folder, out, monkeypatch):
  """Killed in its third bucket, with two in a checkpoint."""

  class Killed(study.ActivationStream):
    def __call__(self, first):
      for number, item in enumerate(super().__call__(first)):
        if number == 14:
          raise KeyboardInterrupt
        yield item

  again = folder / 'again'
  with monkeypatch.context() as patched:
    patched.setattr(study, 'ActivationStream', Killed)
    with pytest.raises(KeyboardInterrupt):
      worlds.run(train, *arguments(folder, again))
  steps = sorted(int(x.name) for x in (again / 'checkpoints').glob('[0-9]*'))
  assert steps == [5, 10]
  assert worlds.run(train, *arguments(folder, again)) == 0
  paths = list((out / 'gemma_scope').rglob('*.npz'))
  assert len(paths) == 6
  for path in paths:
    other = again / path.relative_to(out)
    assert other.read_bytes() == path.read_bytes()
  results = [(x / 'results.json').read_bytes() for x in (out, again)]
  assert results[0] == results[1]


@pytest.mark.parametrize(
  'arguments, expected',
  [
    ([], ('resid_post', [2])),
    (['--site=blocks.1.hook_mlp_out'], ('mlp_out', [1])),
    (['--site=hook_z', '--layer=4,0'], ('z', [4, 0])),
  ],
)
def test_site_and_layers(arguments, expected):
  config = worlds.model().config
  assert study.site_and_layers(settings(*arguments), config) == expected


@pytest.mark.parametrize(
  'more, expected',
  [
    (['--text=none.txt'], 'no text file none.txt'),
    (['--text={folder}/bad.jsonl'], r'bad.jsonl, line 2 is not JSON'),
    (['--text={folder}/empty.txt'], 'empty.txt has no document'),
    (['--text={folder}/one.txt'], 'has 1 document'),
    (['--site=nowhere'], "Unknown site 'nowhere'"),
    (['--site=pattern'], 'pattern has none'),
    (['--site=blocks.1.hook_resid_post'], 'names a layer'),
    (['--layer=5'], 'layers from 0 to 4'),
    (['--layer=1,1'], 'distinct layers'),
    (['--layer=x'], '--layer=x: each of them must be'),
    (['--tokens=49'], 'less than one batch of 50'),
    (['--tokens=100000'], r'1,\d\d\d tokens to train on .* 100,000 are asked'),
    (['--sparsity=a'], '--sparsity=a: each of them must be'),
    (['--sparsity=1,2', '--seed=1,2,3'], 'Give lists of one length'),
    (['--bucket_size=60'], 'not a multiple of batch_size'),
    (['--context=9000'], 'more than the 8192'),
    (['--model={folder}/none'], 'does not exist'),
    (['--model={folder}/bare'], '--text needs the tokenizer'),
    (['--width=10000000'], 'make it smaller with'),
    (['--data=3'], 'A mesh of data=3'),
    (['--context=2'], 'No two kept tokens .* Raise --context'),
  ],
)
def test_refused_before_any_work(folder, tmp_path, capsys, more, expected):
  (folder / 'bad.jsonl').write_text('{"text": "a"}\n{\n')
  (folder / 'empty.txt').write_text('\n')
  (folder / 'one.txt').write_text('a document\n')
  if not (folder / 'bare').exists():
    worlds.save(folder / 'bare', tokenizer=False)
  more = [flag.format(folder=folder) for flag in more]
  assert worlds.run(train, *arguments(folder, tmp_path / 'out', *more)) == 1
  error = capsys.readouterr().err
  assert error.startswith('Error: ')
  assert re.search(expected, error), error
  assert not (tmp_path / 'out' / 'checkpoints').exists()


def test_a_model_with_other_weights_is_another_run(folder, tmp_path):
  """Any matrix of any layer; norms and embedding are not all there is."""
  reader = gj.CheckpointReader(folder / 'model')
  before = corpus.fingerprint(reader)
  assert corpus.fingerprint(gj.CheckpointReader(reader.folder)) == before
  model = gj.load_checkpoint(reader.folder)
  for name in ('wq', 'down', 'gate'):
    weights = model.weights()
    weights[name] = weights[name].at[3].multiply(1.5)
    gj.save_checkpoint(gj.Decoder(model.config, weights), tmp_path / name)
    other = gj.CheckpointReader(tmp_path / name)
    assert corpus.fingerprint(other) != before, name


def test_a_text_is_told_by_its_bytes_wherever_it_is(folder, monkeypatch):
  monkeypatch.setenv('HOME', str(folder))
  reader = gj.CheckpointReader(folder / 'model')
  identity = corpus.text_identity(settings('--text=~/text.jsonl'), reader)
  bytes_read = (folder / 'text.jsonl').read_bytes()
  assert identity['text_sha256'] == hashlib.sha256(bytes_read).hexdigest()


def test_no_bundled_world_names_the_tool(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(inputs, 'BASE', tmp_path / 'base')
  assert worlds.run(train, f'--out={tmp_path / "out"}') == 1
  assert 'python -m tools.train_miniworld' in capsys.readouterr().err


def test_recipes():
  def config(*arguments):
    return settings(*arguments).train_config(d_in=64)

  short = config('--tokens=1000000')
  assert short.batch_size == 1024 and short.decay == 'linear'
  assert len(short.runs) == 3 and short.bucket_size == 131072
  paper = config('--recipe=paper', '--tokens=40000000', '--sparsity=6e-4')
  assert paper.batch_size == 4096 and paper.learning_rate == 7e-5
  assert paper.bandwidth == 1e-3 and paper.bucket_size == 2**20
  assert paper.sparsity_warmup_steps == 10_000 and paper.decay == 'none'
  steered = config('--target_l0=20,40', '--decay=none')
  assert [run.target_l0 for run in steered.runs] == [20, 40]
  assert [run.sparsity for run in steered.runs] == [1e-3, 1e-3]
  assert steered.decay_steps == 0
  assert config('--tokens=3000').bucket_size == 2048
  with pytest.raises(ValueError, match='updates of 1, more than int32'):
    config('--tokens=1000000000000', '--batch_size=1')


class TestEvaluateRefuses:
  """What does not fit is said before the model is loaded, or right after."""

  @pytest.fixture
  def run(self, folder, tmp_path, capsys):
    def run(*more):
      code = worlds.run(
        evaluate_sae,
        f'--model={folder}/model',
        f'--text={folder}/text.jsonl',
        f'--out={tmp_path}/out',
        '--context=10',
        '--harvest_batch=6',
        '--tokens=60',
        '--uniformity_tokens=0',
        *more,
      )
      return code, capsys.readouterr()

    return run

  @pytest.fixture
  def params(self, tmp_path):
    """An npz that names no site, and whose weights are of no use."""
    rng = np.random.default_rng(0)

    def write(D=40, F=8):
      path = tmp_path / 'params.npz'
      arrays = {
        'W_enc': rng.standard_normal((D, F)),
        'W_dec': 9 * rng.standard_normal((F, D)),
        'b_enc': np.zeros(F),
        'b_dec': np.zeros(D),
        'threshold': np.zeros(F),
      }
      np.savez(path, **{k: v.astype(np.float32) for k, v in arrays.items()})
      return path

    return write

  def test_unknown_site(self, run, params):
    code, said = run(f'--sae={params()}')
    assert code == 1 and 'which site' in said.err

  def test_width_and_layer(self, run, params, monkeypatch):
    monkeypatch.setattr(evaluate_sae, 'load', None)
    code, said = run(f'--sae={params(64)}', '--site=resid_post', '--layer=1')
    assert code == 1 and 'width 64; resid_post' in said.err
    code, said = run(f'--sae={params()}', '--site=resid_post', '--layer=7')
    assert code == 1 and 'layers 0 to 4' in said.err

  def test_fvu_above_1(self, run, params, tmp_path):
    where = [f'--sae={params()}', '--site=resid_post', '--layer=1']
    code, said = run(*where)
    assert code == 1 and 'another layer or site' in said.err
    assert not (tmp_path / 'out/results.json').exists()
    code, said = run(*where, '--force')
    assert code == 0 and 'Warning' in said.err
    results = json.loads((tmp_path / 'out/results.json').read_text())
    assert 'a constant would' in results['warnings'][0]
    assert 'a constant would' in (tmp_path / 'out/report.html').read_text()
