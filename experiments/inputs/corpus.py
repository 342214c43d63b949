"""Flags that say which model reads which text, and what they stand for.

Text is a local file (`--text`), tokenised once into the run's folder, or, where
none is given, the bundled generator, which needs no tokenizer.
"""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import math
import os
import pathlib

from absl import flags

from experiments import inputs
from experiments.inputs.documents import SEPARATORS, DocumentFile
from experiments.inputs.synthetic_text import SyntheticRows
from experiments.inputs.token_rows import Rows, TokenRows, write_rows
from experiments.runs import SEED, checksums, define_number, whole
import gemma_jax as gj
from gemma_jax.text.tokenizer import FILES as TOKENIZER_FILES

# Streams of the generator.
_TRAINING, _EVALUATION = 0, 1


def define_flags(values: flags.FlagValues) -> list[str]:
  """Defines them; returns their names."""
  before = set(values)
  common = {'flag_values': values}
  flags.DEFINE_string(
    'model',
    None,
    'Folder of a checkpoint (config.json, *.safetensors), or a hub id '
    'such as google/gemma-2-2b. Default: that of the bundled world, with its '
    'text, repeated.',
    **common,
  )
  flags.DEFINE_string(
    'model_name',
    None,
    'What exports call the model. Default: the hub id, or the name of the '
    'folder.',
    **common,
  )
  flags.DEFINE_enum(
    'dtype',
    None,
    ['float32', 'bfloat16'],
    'Of the model and of the activations. Default: that of the checkpoint.',
    **common,
  )
  flags.DEFINE_string(
    'text',
    None,
    'UTF-8 file of documents: .txt, or .jsonl with one object per line. '
    'Default: tokens from a bundled generator (Zipf frequencies, a sparse '
    'Markov chain), to try things without text; SAEs of it mean nothing.',
    **common,
  )
  flags.DEFINE_string(
    'text_field',
    'text',
    'Field of a .jsonl object that has the text.',
    **common,
  )
  flags.DEFINE_enum(
    'separator',
    'line',
    list(SEPARATORS),
    'What ends a document of a .txt file: every line, or a blank one.',
    **common,
  )
  flags.DEFINE_bool(
    'parse_special',
    True,
    "Whether '<eos>', '<start_of_turn>' written out in a text are those "
    'tokens, as in HF, or ordinary text.',
    **common,
  )
  define_number(
    'context',
    256,
    'Most tokens the model sees at once, BOS included; longer documents are '
    'continued in another row. Gemma Scope has 1024.',
    whole(2),
    **common,
  )
  flags.DEFINE_bool(
    'pack',
    False,
    'Fill rows with several documents, each after a BOS. Faster where '
    'documents are short; later ones then see earlier ones.',
    **common,
  )
  define_number('text_seed', 0, "Of the generator's language.", SEED, **common)
  define_number(
    'harvest_batch',
    16,
    'Rows of tokens per run of the model. Only speed and memory depend on it.',
    whole(),
    **common,
  )
  define_number(
    'uniformity_tokens',
    256,
    'Measure the uniformity of active latent importance on so many tokens, '
    'each of another row; 0 leaves it out. Costs a backward pass per row.',
    whole(0),
    **common,
  )
  flags.DEFINE_bool(
    'check_memory',
    True,
    'Refuse to start where much more memory is needed than there is.',
    **common,
  )
  return sorted(set(values) - before)


def open_model(values: flags.FlagValues) -> gj.CheckpointReader:
  """The checkpoint; no weight is read yet. Settles --model.

  Raises:
    ValueError, OSError, ImportError: none is named, or see `CheckpointReader`.
  """
  if values.model is None:
    values.model = inputs.resolve_path(inputs.BUNDLED, inputs.BASE)
    if values.text is None:
      values.text = str(inputs.BUNDLE / 'text.txt')
      if 'repeat' in values and not values['repeat'].present:
        values.repeat = True
  reader = gj.CheckpointReader(values.model, dtype=values.dtype)
  whole = reader.config
  if whole.truncated_from is not None:
    raise ValueError(
      f'{reader.folder} holds the first {whole.num_layers} of '
      f'{whole.truncated_from} layers, and delta loss needs all.'
    )
  if values.context > whole.max_positions:
    raise ValueError(
      f'--context={values.context} is more than the {whole.max_positions} '
      'tokens the model was made for.'
    )
  return reader


def model_name(values: flags.FlagValues) -> str:
  """What to call the model in exports."""
  name = values.model_name or values.model
  folder = pathlib.Path(name).expanduser()
  if values.model_name is None and folder.is_dir():
    return folder.resolve().name
  return name


def model_identity(reader: gj.CheckpointReader) -> dict:
  """What tells a model and its tokenizer apart, by their contents.

  For identities of work, and for results.json.

  Returns:
    'folder' and 'dtype'; 'fingerprint' and 'tokenizer', see below; and 'files',
    the SHA-256 of each file of weights by its name.
  """
  return {
    'folder': os.fspath(reader.folder),
    'dtype': str(reader.dtype),
    'fingerprint': fingerprint(reader),
    'tokenizer': tokenizer_sha256(reader),
    'files': {
      os.path.relpath(path, reader.folder): sha256
      for path, sha256 in _weight_files(reader).items()
    },
  }


def fingerprint(reader: gj.CheckpointReader) -> str:
  """Tells models apart by all of their weights: a hash in hex.

  It covers the configuration, the dtype, and which tensor comes from a file of
  which SHA-256. Where the files are, and what they are called, does not matter.
  """
  sha256 = _weight_files(reader)
  digest = hashlib.sha256(repr(reader.config).encode())
  digest.update(str(reader.dtype).encode())
  for tensor, path in sorted(reader.files.items()):
    digest.update(f'{tensor} {sha256[path]}\n'.encode())
  return digest.hexdigest()


def tokenizer_sha256(reader: gj.CheckpointReader) -> str | None:
  """Tells tokenizers apart by their files: a hash in hex; None for none."""
  files = reader.companions()
  mine = {name: files[name] for name in TOKENIZER_FILES if name in files}
  if not mine:
    return None
  digest = hashlib.sha256()
  for name, content in mine.items():
    digest.update(f'{name} {len(content)}\n'.encode() + content)
  return digest.hexdigest()


def _weight_files(reader: gj.CheckpointReader) -> dict[pathlib.Path, str]:
  """The SHA-256 of each file that weights are read from."""
  return checksums.sha256_of(sorted(set(reader.files.values())))


def about_model(values: flags.FlagValues, reader: gj.CheckpointReader) -> dict:
  """What results.json says of the model."""
  return {
    'name': model_name(values),
    'path': values.model,
    **model_identity(reader),
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
  """Rows of tokens, and what results.json says of them."""

  rows: Rows
  about: dict


def training_text(
  values: flags.FlagValues,
  reader: gj.CheckpointReader,
  folder: str | os.PathLike,
  *,
  num_tokens: int,
  eval_tokens: int,
  eval_fraction: float,
  repeat: bool,
) -> tuple[Text, Text]:
  """What to train on, and what to evaluate on.

  Args:
    values: Parsed flags.
    reader: Of the model.
    folder: For tokenised text.
    num_tokens: Kept tokens that training needs.
    eval_tokens: Those that evaluation wants.
    eval_fraction: Share of a file's documents, at its end, that are held out.
    repeat: Whether training may begin the file anew.

  Raises:
    ValueError, OSError: the text is malformed, too short, or has no tokenizer.
  """
  if values.text is None:
    about = {'source': 'generator', 'seed': values.text_seed}
    return tuple(
      Text(
        rows=_generated(values, reader.config, stream),
        about=about | {'stream': name, 'held_out': stream != _TRAINING},
      )
      for name, stream in (('train', _TRAINING), ('eval', _EVALUATION))
    )
  tokenizer = _tokenizer(reader)
  file, scan = _scan(values)
  held_out = math.ceil(eval_fraction * scan.num_documents)
  last = scan.num_documents - held_out
  if last < 1:
    raise ValueError(
      f'{file.path} has {scan.num_documents} document(s); with '
      f'--eval_fraction={eval_fraction} none is left to train on. Give more '
      'documents (see --separator), or --eval_fraction=0 to evaluate on the '
      'training text.'
    )
  make = _Tokeniser(values, reader, tokenizer, file, scan, folder)
  evaluated = (last, scan.num_documents) if held_out else (0, last)
  evaluation = make('eval', *evaluated, eval_tokens)
  training = make('train', 0, last, num_tokens)
  if training.rows.num_kept < num_tokens:
    if not repeat:
      raise ValueError(
        f'{file.path} has {training.rows.num_kept:,} tokens to train on '
        f'({last:,} documents; {held_out:,} more are held out for '
        f'evaluation); {num_tokens:,} are asked for. Lower --tokens, give more '
        'text, or pass --repeat to read it several times.'
      )
    training.about['times_read'] = num_tokens / training.rows.num_kept
    rows = TokenRows(pathlib.Path(folder) / 'train', repeat=True)
    training = Text(rows=rows, about=training.about)
  evaluation.about['held_out'] = bool(held_out)
  return training, evaluation


def evaluation_text(
  values: flags.FlagValues,
  reader: gj.CheckpointReader,
  folder: str | os.PathLike,
  num_tokens: int,
) -> Text:
  """What to evaluate on: a file from its first document on.

  Raises:
    ValueError, OSError: the text is malformed, or has no tokenizer.
  """
  if values.text is None:
    return Text(
      rows=_generated(values, reader.config, _EVALUATION),
      about={'source': 'generator', 'seed': values.text_seed, 'stream': 'eval'},
    )
  tokenizer = _tokenizer(reader)
  file, scan = _scan(values)
  make = _Tokeniser(values, reader, tokenizer, file, scan, folder)
  return make('eval', 0, scan.num_documents, num_tokens)


def text_identity(values, reader: gj.CheckpointReader) -> dict:
  """Flags that say which text is read, and hashes of file and tokenizer.

  Raises:
    ValueError, OSError: the file is malformed, or not there.
  """
  if values.text is None:
    return {'text': None, 'text_seed': values.text_seed}
  file, scan = _scan(values)
  return {
    'text': file.path.name,
    'text_sha256': scan.sha256,
    'tokenizer': tokenizer_sha256(reader),
    'text_field': values.text_field,
    'separator': values.separator,
    'repeat': values.repeat,
  }


class _Tokeniser:
  """Makes rows of ranges of a file's documents."""

  def __init__(self, values, reader, tokenizer, file, scan, folder):
    self._values, self._reader, self._tokenizer = values, reader, tokenizer
    self._file, self._scan = file, scan
    self._folder = pathlib.Path(folder)

  def __call__(self, name: str, start: int, stop: int, enough: int) -> Text:
    values, config = self._values, self._reader.config
    source = {
      'file': self._file.path.name,
      'sha256': self._scan.sha256,
      'field': values.text_field,
      'separator': values.separator,
      'tokenizer_sha256': tokenizer_sha256(self._reader),
      'documents': [start, stop],
    }
    rows = write_rows(
      self._folder / name,
      lambda: (text for _, text in self._file.read(start, stop)),
      self._tokenizer,
      identity=source,
      context=values.context,
      vocab_size=config.vocab_size,
      special=_special(config, self._tokenizer),
      pack=values.pack,
      parse_special=values.parse_special,
      enough=enough,
      description=f'Tokenising ({name})',
    )
    about = {'source': 'file'} | source
    about |= {
      'bytes': self._scan.num_bytes,
      'documents_in_file': self._scan.num_documents,
      'empty_documents_skipped': self._scan.num_empty,
      'used': dataclasses.asdict(rows.counts),
    }
    return Text(rows=rows, about=about)


def _scan(values):
  file = DocumentFile(
    values.text, field=values.text_field, separator=values.separator
  )
  stat = file.path.stat()
  return _scanned(
    file.path,
    values.text_field,
    values.separator,
    (stat.st_size, stat.st_mtime_ns),
  )


@functools.lru_cache(maxsize=1)
def _scanned(path, field, separator, version):
  """Once per version of a file: a large one takes minutes."""
  del version
  file = DocumentFile(path, field=field, separator=separator)
  return file, file.scan()


def _tokenizer(reader: gj.CheckpointReader) -> gj.Tokenizer:
  try:
    return gj.Tokenizer.from_pretrained(reader.folder)
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f'--text needs the tokenizer of the model: {error} Without --text, the '
      'bundled generator is used, which needs none.'
    ) from error


def _special(
  config: gj.ModelConfig, tokenizer: gj.Tokenizer | None = None
) -> Sequence[int]:
  """BOS, EOS and padding, as the model and its tokenizer have them."""
  ids = {config.bos_id, config.pad_id, *config.eos_ids}
  if tokenizer is not None:
    ids |= {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}
  return sorted(i for i in ids - {None} if 0 <= i < config.vocab_size)


def _generated(values, config, stream) -> SyntheticRows:
  return SyntheticRows(
    vocab_size=config.vocab_size,
    special=_special(config),
    bos=config.fill_id if config.bos_id is None else config.bos_id,
    context=values.context,
    seed=values.text_seed,
    stream=stream,
  )
