"""The pages of training and evaluation, made from their results.json."""

from collections.abc import Mapping, Sequence
import os
import pathlib

from experiments import charts
from experiments.charts.style import number
from experiments.runs import outputs
from experiments.sae_training import figures

_COLUMNS = (
  'SAE',
  'site',
  'layer',
  'F',
  'n tokens',
  'L0',
  'FVU',
  'cosine',
  '|y| / |x|',
  'dead',
  '> 1 %',
  '> 10 %',
  'clean loss',
  'delta loss',
  '95 % interval',
  'recovered (zero)',
  'recovered (mean)',
  'uniformity',
)


def write_report(
  out: str | os.PathLike,
  results: Mapping,
  *,
  title: str,
  runs: Mapping[str, Sequence[Mapping]] | None = None,
):
  """Writes report.html.

  Args:
    out: The run's folder.
    results: What results.json holds.
    title: Title of the page.
    runs: Name -> records of metrics.jsonl, if there was training.
  """
  entries = results['saes']
  data = results['data']
  n = entries[0]['metrics']['num_tokens']
  sequences = entries[0]['fidelity']['num_sequences']
  summary = [
    f'{len(entries)} sparse autoencoder(s) of {results["model"]["name"]}, '
    f'measured on {n:,} tokens in {sequences:,} sequences '
    f'({_source(data["eval"])}).',
  ]
  if results.get('warnings'):
    summary += [f'Warning: {warning}' for warning in results['warnings']]
  sections = [
    charts.Section(
      title='Sparsity against fidelity',
      text=[
        'Delta loss is how many nats per token the model loses when what the '
        'SAE reconstructs takes the place of what it reads. 95 % intervals, '
        'with sequences as units, are shaded; hover for those of L0.',
      ],
      figures=[
        figures.frontier(entries, 'delta_loss'),
        figures.frontier(entries, 'fvu'),
      ],
    )
  ]
  if runs is not None:
    sections.append(
      charts.Section(
        title='Training',
        text=[
          'Means over the updates between two records, of training batches. '
          'L0 on a log axis: it falls while the coefficient rises. A latent '
          'counts as dead after '
          f'{results["config"]["dead_after"]:,} tokens without firing.',
        ],
        figures=figures.training_curves(runs),
      )
    )
  sections += [
    charts.Section(
      title='How often latents fire',
      text=[
        f'Over {n:,} tokens: what fires less often than once is not in the '
        'figure, and counted as dead.',
      ],
      figures=[figures.frequency_histograms(entries)],
    ),
    charts.Section(
      title='All numbers',
      text=[f'{k}: {v}.' for k, v in results['definitions'].items()],
      tables=[charts.Table(columns=_COLUMNS, rows=list(map(_row, entries)))],
    ),
    charts.Section(
      title='What was run',
      text=[
        f'Flags are in {outputs.FLAGS_FILE}, every number is in '
        f'{outputs.RESULTS_FILE}.',
      ],
      tables=[
        charts.Table(
          columns=['', ''],
          rows=[[key, str(value)] for key, value in _facts(results)],
        )
      ],
    ),
  ]
  charts.write_report(
    pathlib.Path(out) / outputs.REPORT_FILE, title, summary, sections
  )


def _row(entry: Mapping) -> list[str]:
  metrics, fidelity = entry['metrics'], entry['fidelity']
  delta, uniformity = fidelity['delta_loss'], entry['uniformity']
  return [
    entry['name'],
    entry['site'],
    str(entry['layer']),
    number(entry['width']),
    number(metrics['num_tokens']),
    number(metrics['l0']),
    number(metrics['fvu']),
    number(metrics['cosine']),
    number(metrics['l2_ratio']),
    f'{metrics["num_dead"]:,} of {metrics["num_latents"]:,}',
    number(metrics['num_above_1_percent']),
    number(metrics['num_above_10_percent']),
    number(fidelity['clean_loss']['value']),
    number(delta['value']),
    f'{number(delta["low"])} to {number(delta["high"])}',
    number(fidelity['loss_recovered_zero']['value']),
    number(fidelity['loss_recovered_mean']['value']),
    'not measured'
    if uniformity is None
    else f'{number(uniformity["mean"])} (n = {uniformity["num_tokens"]:,})',
  ]


def _source(about: Mapping) -> str:
  held_out = {True: 'held out', False: 'not held out'}
  said = held_out.get(about.get('held_out'), '')
  return ', '.join(filter(None, [about['file'], said]))


def _facts(results: Mapping):
  """Yields names and values of what was run."""
  yield 'model', f'{results["model"]["path"]} ({results["model"]["dtype"]})'
  for split, about in results['data'].items():
    yield f'text ({split})', _source(about)
    for key in ('sha256', 'documents', 'empty_documents_skipped', 'used'):
      if key in about:
        yield f'text ({split}): {key}', about[key]
  for entry in results['saes']:
    for kind, path in entry.get('files', {}).items():
      if path is not None:
        yield f'{entry["name"]}: {kind}', path
  yield from results['versions'].items()
  yield 'metrics', results['saes'][0]['metrics']['metric_version']
