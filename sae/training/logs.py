"""Where the numbers of a training run go.

A `Log` gets records, one per interval of updates. `metrics.jsonl` has them all:
one JSON object per line and run of the sweep. TensorBoard has the same under
one name per run, Weights & Biases too where it is asked for.
"""

from collections.abc import Mapping
import contextlib
import functools
import json
import math
import os
import pathlib
import secrets
import time

import tqdm

from sae.formats.folders import parse_json

METRICS_FILE = 'metrics.jsonl'
# Which run of Weights & Biases a folder's is.
WANDB_FILE = 'wandb_id.txt'


class Log:
  """Writes records to a progress bar, and to files if there is a folder."""

  def __init__(
    self,
    folder: str | os.PathLike | None,
    *,
    num_steps: int,
    tokens_per_step: int,
    first_step: int = 0,
    wandb_project: str | None = None,
    config: Mapping | None = None,
    progress: bool = True,
  ):
    """Prepares the outputs; records of updates after `first_step` are dropped.

    Args:
      folder: For `metrics.jsonl` and TensorBoard's files; None is neither.
      num_steps: Number of steps of the whole run.
      tokens_per_step: B.
      first_step: From which training goes on.
      wandb_project: Also log to this project of Weights & Biases, where a run
        that goes on stays one run if there is a folder.
      config: What Weights & Biases shows as the run's.
      progress: Show a bar.

    Raises:
      ImportError: Weights & Biases was asked for and is not installed.
    """
    self._tokens_per_step = tokens_per_step
    self._folder = self._file = self._board = self._wandb = None
    self._first_step = first_step
    if wandb_project is not None:
      _import_wandb()  # before any work
    self._open_wandb = wandb_project and functools.partial(
      self._init_wandb, wandb_project, dict(config or {})
    )
    if folder is not None:
      self._folder = pathlib.Path(folder)
      self._folder.mkdir(parents=True, exist_ok=True)
      _drop_after(self._folder / METRICS_FILE, first_step)
    self._bar = tqdm.tqdm(
      desc='Training',
      total=num_steps * tokens_per_step,
      initial=first_step * tokens_per_step,
      unit=' tokens',
      unit_scale=True,
      dynamic_ncols=True,
      disable=not progress or None,  # None leaves it to TQDM_DISABLE
    )
    self._since = time.monotonic(), self._bar.n

  def write(self, step: int, runs: Mapping[str, Mapping[str, float]]):
    """Logs what was measured in the updates since the last call.

    Args:
      step: Updates made so far.
      runs: Name of a run -> metrics; not finite is written as null.

    Raises:
      OSError: the disk is full.
    """
    if self._folder is not None and self._file is None:
      self._open()
    if self._open_wandb and self._wandb is None:
      self._wandb = self._open_wandb()
    # From the first record on, so that compiling does not count.
    now, tokens = time.monotonic(), step * self._tokens_per_step
    rate = (tokens - self._since[1]) / max(now - self._since[0], 1e-9)
    if self._since[1] == self._first_step * self._tokens_per_step:
      self._since = now, tokens
    lines = []
    for name, metrics in runs.items():
      record = {'step': step, 'tokens': tokens}
      record |= {'run': name, 'tokens_per_second': rate} | metrics
      lines.append(json.dumps(_finite(record)) + '\n')
      if self._board:
        for key, value in metrics.items():
          self._board.add_scalar(f'{name}/{key}', value, step)
    if self._file:
      self._write_lines(lines)
    if self._wandb:
      flat = {
        f'{name}/{key}': value
        for name, metrics in runs.items()
        for key, value in metrics.items()
      }
      self._wandb.log(flat | {'tokens_per_second': rate}, step=step)
    self._bar.update(tokens - self._bar.n)
    self._bar.set_postfix_str(
      ', '.join(f'{key} {_range(runs, key)}' for key in ('l0', 'fvu', 'dead'))
    )

  def _write_lines(self, lines):
    try:
      self._file.writelines(lines)
      self._file.flush()
    except OSError as error:
      with contextlib.suppress(OSError):  # what is left of the same lines
        self._file.close()
      self._file = None
      raise OSError(
        f'{self._folder / METRICS_FILE} could not be written: {error}. Make '
        'space and repeat the command, which goes on from the last checkpoint.'
      ) from error

  def _open(self):
    """Opens the files; a run with nothing left to do leaves them alone."""
    # Imported here: it is slow, and nobody needs it without a folder.
    from tensorboardX import SummaryWriter

    self._file = open(self._folder / METRICS_FILE, 'a', encoding='utf-8')
    self._board = SummaryWriter(
      str(self._folder / 'tensorboard'),
      purge_step=self._first_step + 1 if self._first_step else None,
    )

  def _init_wandb(self, project, config):
    """Opens the run, under the id that the folder keeps."""
    number = None
    if self._folder is not None:
      path = self._folder / WANDB_FILE
      if not (self._first_step and path.is_file()):
        path.write_text(secrets.token_hex(8), encoding='utf-8')
      number = path.read_text(encoding='utf-8')
    return _import_wandb().init(
      project=project, config=config, id=number, resume='allow'
    )

  def close(self):
    """Closes the outputs."""
    self._bar.close()
    for output in (self._file, self._board):
      if output:
        output.close()
    if self._wandb:
      self._wandb.finish()


def read_metrics(folder: str | os.PathLike) -> list[dict]:
  """Reads the records of `metrics.jsonl`, in order.

  A last line that a kill cut short is dropped.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: another line is damaged; the error names it.
  """
  path = pathlib.Path(folder) / METRICS_FILE
  records = []
  # A whole line ends with a line break.
  for number, line in enumerate(path.read_bytes().split(b'\n')[:-1], 1):
    source = f'{path}, line {number}'
    record = parse_json(line, source, 'Restore the file, or remove it.')
    if type(record.get('step')) is not int:
      raise ValueError(
        f'{source}: step is {record.get("step")!r}, expected an integer. '
        'Restore the file, or remove it.'
      )
    records.append(record)
  return records


def _drop_after(path: pathlib.Path, step: int):
  """Removes records of updates that will be made again."""
  if not path.exists():
    return
  kept = [
    record for record in read_metrics(path.parent) if record['step'] <= step
  ]
  partial = path.with_name(path.name + '.partial')
  partial.write_text(
    ''.join(json.dumps(record) + '\n' for record in kept), encoding='utf-8'
  )
  os.replace(partial, path)


def _import_wandb():
  try:
    import wandb
  except ImportError as error:
    raise ImportError(
      'Logging to Weights & Biases needs it: '
      "`pip install 'knowledge-awareness-jax[wandb]'`. metrics.jsonl and "
      'TensorBoard need nothing.'
    ) from error
  return wandb


def _range(runs, key) -> str:
  """Returns the value, or over a sweep the smallest and the largest."""
  values = [metrics[key] for metrics in runs.values()]
  low, high = f'{min(values):.3g}', f'{max(values):.3g}'
  return low if low == high else f'{low}..{high}'


def _finite(record):
  return {
    key: None if isinstance(v, float) and not math.isfinite(v) else v
    for key, v in record.items()
  }
