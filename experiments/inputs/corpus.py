"""A model that reads text: what both are, and what tells them apart.

Text is a local file, tokenised once into the run's folder.
"""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import math
import os
import pathlib
from typing import Annotated, Literal

from experiments import inputs
from experiments.inputs.documents import SEPARATORS, DocumentFile, Scan
from experiments.inputs.settings import BaseModel
from experiments.inputs.token_rows import Rows, TokenRows, write_rows
from experiments.runs import checksums, whole
import gemma_jax as gj
from gemma_jax.text.tokenizer import FILES as TOKENIZER_FILES


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadingModel(BaseModel):
  """A model, the text that it reads, and how.

  Attributes:
    model: The model: the folder of a checkpoint (config.json, *.safetensors,
      tokenizer.json), or a hub id such as google/gemma-2-2b. 'miniworld' is the
      small one that comes with the project.
    model_name: Name of the model in exports. Default: the hub id, or the name
      of the folder.
    text: UTF-8 file of documents: .txt, or .jsonl with one object per line.
      Default: the text of the bundled model; any other model needs one.
    text_field: Field of a .jsonl object that has the text.
    separator: What ends a document of a .txt file: every line, or a blank one.
    parse_special: Read '<eos>' or '<start_of_turn>' written out in a text as
      those tokens, as HF does, and not as ordinary text.
    context: Most tokens that the model sees at once, BOS included. Longer
      documents are continued in another row. Gemma Scope has 1024.
    pack: Fill rows with several documents, each after a BOS. This is faster
      where documents are short, but later ones then see earlier ones.
  """

  model_name: str | None = None
  text: str | None = None
  text_field: str = 'text'
  separator: Literal[*SEPARATORS] = 'line'
  parse_special: bool = True
  context: Annotated[int, whole(2)] = 256
  pack: bool = False

  def __post_init__(self):
    if self.text is None and self.model != inputs.BUNDLED:
      raise ValueError(
        f'--text is needed with --model={self.model}: a file of documents for '
        'the model to read.'
      )

  @property
  def model_path(self) -> str:
    """Returns the folder or the hub id of the model.

    Raises:
      FileNotFoundError: the bundled model is meant, and is not there.
    """
    return inputs.resolve_path(self.model, inputs.BASE)

  @property
  def text_path(self) -> str:
    """Returns the path of the text."""
    return str(inputs.BUNDLE / 'text.txt') if self.text is None else self.text

  @property
  def exported_name(self) -> str:
    """Returns what exports call the model."""
    if self.model_name is not None:
      return self.model_name
    folder = pathlib.Path(self.model_path).expanduser()
    return folder.resolve().name if folder.is_dir() else self.model_path

  def open_model(self) -> gj.CheckpointReader:
    """Opens the checkpoint; no weight is read yet.

    Raises:
      ValueError, OSError, ImportError: the model has too few positions; or see
        `inputs.open_model`.
    """
    reader = inputs.open_model(self.model_path, self.dtype)
    if self.context > reader.config.max_positions:
      raise ValueError(
        f'--context={self.context} is more than the '
        f'{reader.config.max_positions} tokens the model was made for.'
      )
    return reader


def model_identity(reader: gj.CheckpointReader) -> dict:
  """Returns what tells a model and its tokenizer apart, by their contents.

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
  """Returns a hash in hex that tells models apart by all of their weights.

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
  """Returns a hash in hex of the tokenizer's files; None if there are none."""
  files = reader.companions()
  mine = {name: files[name] for name in TOKENIZER_FILES if name in files}
  if not mine:
    return None
  digest = hashlib.sha256()
  for name, content in mine.items():
    digest.update(f'{name} {len(content)}\n'.encode() + content)
  return digest.hexdigest()


def _weight_files(reader: gj.CheckpointReader) -> dict[pathlib.Path, str]:
  """Returns the SHA-256 of each file that weights are read from."""
  return checksums.sha256_of(sorted(set(reader.files.values())))


def about_model(settings: ReadingModel, reader: gj.CheckpointReader) -> dict:
  """Returns what results.json says of the model."""
  return {
    'name': settings.exported_name,
    'path': settings.model_path,
    **model_identity(reader),
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
  """Rows of tokens, and what results.json says of them."""

  rows: Rows
  about: dict


def training_text(
  settings: ReadingModel,
  reader: gj.CheckpointReader,
  folder: str | os.PathLike,
  *,
  num_tokens: int,
  eval_tokens: int,
  eval_fraction: float,
  repeat: bool,
) -> tuple[Text, Text]:
  """Returns what to train on, and what to evaluate on.

  Args:
    settings: What names the text.
    reader: The model's checkpoint.
    folder: Folder for tokenised text.
    num_tokens: Number of kept tokens that training needs.
    eval_tokens: Number of kept tokens that evaluation wants.
    eval_fraction: Share of a file's documents, at its end, that are held out.
    repeat: If true, training may begin the file anew.

  Raises:
    ValueError, OSError: the text is malformed, too short, or has no tokenizer.
  """
  tokenise = _Tokeniser(settings, reader, folder)
  file, count = tokenise.file, tokenise.scan.num_documents
  held_out = math.ceil(eval_fraction * count)
  last = count - held_out
  if last < 1:
    raise ValueError(
      f'{file.path} has {count} document(s); with '
      f'--eval_fraction={eval_fraction} none is left to train on. Give more '
      'documents (see --separator), or --eval_fraction=0 to evaluate on the '
      'training text.'
    )
  evaluated = (last, count) if held_out else (0, last)
  evaluation = tokenise('eval', *evaluated, eval_tokens)
  training = tokenise('train', 0, last, num_tokens)
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
  settings: ReadingModel,
  reader: gj.CheckpointReader,
  folder: str | os.PathLike,
  num_tokens: int,
) -> Text:
  """Returns what to evaluate on: a file from its first document on.

  Raises:
    ValueError, OSError: the text is malformed, or has no tokenizer.
  """
  tokenise = _Tokeniser(settings, reader, folder)
  return tokenise('eval', 0, tokenise.scan.num_documents, num_tokens)


def text_identity(settings: ReadingModel, reader: gj.CheckpointReader) -> dict:
  """Returns how text is read, and hashes of its file and of the tokenizer.

  Raises:
    ValueError, OSError: the file is malformed, or not there.
  """
  file, scan = _scan(settings)
  return {
    'text': file.path.name,
    'text_sha256': scan.sha256,
    'tokenizer': tokenizer_sha256(reader),
    'text_field': settings.text_field,
    'separator': settings.separator,
  }


class _Tokeniser:
  """Makes rows of ranges of a file's documents.

  Attributes:
    file: The text.
    scan: What the file holds.
  """

  def __init__(self, settings, reader, folder):
    self._settings, self._reader = settings, reader
    self._folder = pathlib.Path(folder)
    self._tokenizer = _tokenizer(reader)
    self.file, self.scan = _scan(settings)

  def __call__(self, name: str, start: int, stop: int, enough: int) -> Text:
    settings, config = self._settings, self._reader.config
    source = {
      'file': self.file.path.name,
      'sha256': self.scan.sha256,
      'field': settings.text_field,
      'separator': settings.separator,
      'tokenizer_sha256': tokenizer_sha256(self._reader),
      'documents': [start, stop],
    }
    rows = write_rows(
      self._folder / name,
      lambda: (text for _, text in self.file.read(start, stop)),
      self._tokenizer,
      identity=source,
      context=settings.context,
      vocab_size=config.vocab_size,
      special=_special(config, self._tokenizer),
      pack=settings.pack,
      parse_special=settings.parse_special,
      enough=enough,
      description=f'Tokenising ({name})',
    )
    about = {
      'source': 'file',
      **source,
      'bytes': self.scan.num_bytes,
      'documents_in_file': self.scan.num_documents,
      'empty_documents_skipped': self.scan.num_empty,
      'used': dataclasses.asdict(rows.counts),
    }
    return Text(rows=rows, about=about)


def _scan(settings) -> tuple[DocumentFile, Scan]:
  how = {'field': settings.text_field, 'separator': settings.separator}
  path = DocumentFile(settings.text_path, **how).path
  stat = path.stat()
  version = stat.st_size, stat.st_mtime_ns
  return _scanned(path, **how, version=version)


@functools.lru_cache(maxsize=1)
def _scanned(path, field, separator, version):
  """Scans a file once per version of it: a large one takes minutes."""
  del version
  file = DocumentFile(path, field=field, separator=separator)
  return file, file.scan()


def _tokenizer(reader: gj.CheckpointReader) -> gj.Tokenizer:
  try:
    return gj.Tokenizer.from_pretrained(reader.folder)
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f'--text needs the tokenizer of the model: {error}'
    ) from error


def _special(config: gj.ModelConfig, tokenizer: gj.Tokenizer) -> Sequence[int]:
  """Returns BOS, EOS and padding, as the model and its tokenizer have them."""
  ids = {config.bos_id, config.pad_id, *config.eos_ids}
  ids |= {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}
  return sorted(i for i in ids - {None} if 0 <= i < config.vocab_size)
