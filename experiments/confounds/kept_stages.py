"""What the base model is run for; each stage is kept in the run's folder.

means     differences of means, from the entities of train
names     readers, norms and covariates at all prompts
text      readers and likelihoods at the tokens of plain text
firing    where all latents of all SAEs fire, on the entities of all splits
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import json
import pathlib

import numpy as np
from scipy import sparse

from experiments.activations import HarvestRows, make_rows
from experiments.confounds.covariates import Covariates, describe_names
from experiments.confounds.linear_readout import (
  LinearReadout,
  latent_reader,
  mean_readers,
  read_rows,
  read_tokens,
)
from experiments.confounds.prompt_variants import PromptVariant
from experiments.entities import Prompt
from experiments.inputs import sae_fingerprint
from experiments.inputs.sae_fit import check_fit
from experiments.inputs.study_inputs import StudyInputs
from experiments.latents import (
  Firing,
  LabelledEntities,
  read_arrays,
  stream_firing,
  write_arrays,
)
from experiments.runs import outputs
from experiments.runs.stages import digest, stage
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE

ARRAYS, _ABOUT = 'arrays.safetensors', 'about.json'


class Stages:
  """Runs the base model where a stage is not there yet.

  Attributes:
    given: The study's inputs.
  """

  def __init__(self, given: StudyInputs):
    """Keeps what it is given; the model is loaded when a stage needs it."""
    self.given = given

  @functools.cached_property
  def base(self) -> gj.Decoder:
    """Returns the base model."""
    return self.given.load()

  def release(self):
    """Lets go of the base model."""
    self.__dict__.pop('base', None)

  def readers(
    self, train: LabelledEntities, prompts: Sequence[Prompt]
  ) -> list[LinearReadout]:
    """Returns the latents' readers, and beside each the difference of means."""
    given = self.given
    latents = {label: t.id for label, t in given.targets.items()}
    rows = _unique(given.tokenizer, prompts)

    def make(folder):
      found = mean_readers(self.base, latents, train, rows)
      write_arrays(folder / ARRAYS, {one.label: one.weight for one in found})
      about = [dataclasses.asdict(one) | {'weight': None} for one in found]
      outputs.write_text(folder / _ABOUT, json.dumps(about))

    folder = self._stage(
      'means',
      make,
      places=[(label, *id[:2]) for label, id in latents.items()],
      rows=digest(rows.tokens, train.known),
    )
    weights = read_arrays(folder / ARRAYS)
    about = outputs.read_json(folder / _ABOUT, list)
    found = []
    for one in about:
      label = one['label']
      id = latents[label]
      # Those of the latents need no model; they are of the SAEs given now.
      found += [
        latent_reader(label, id, given.sae(id.layer)),
        LinearReadout(**one | {'weight': weights[label]}),
      ]
    return found

  def names(
    self,
    readers: Sequence[LinearReadout],
    shown: Sequence[PromptVariant],
    num_test: int,
    texts: Sequence[str],
    frequencies: Mapping[str, float] | None,
  ) -> tuple[np.ndarray, np.ndarray, Covariates]:
    """Returns readers [R, n], norms [L, n]; covariates of the first prompts."""
    given = self.given
    prompts = [one.prompt for one in shown]
    rows = all_read(make_rows(given.tokenizer, prompts))

    def make(folder):
      values, norms = read_rows(self.base, readers, rows)
      covariates = describe_names(
        self.base,
        given.tokenizer,
        prompts[:num_test],
        texts=texts,
        frequencies=frequencies,
      )
      write_arrays(
        folder / ARRAYS,
        {
          'values': values[:, rows.prompt_rows],
          'norms': norms[:, rows.prompt_rows],
          'covariates': covariates.values,
        },
      )
      about = {'names': covariates.names, 'sources': dict(covariates.sources)}
      outputs.write_text(folder / _ABOUT, json.dumps(about))

    folder = self._stage(
      'names',
      make,
      readers=identity_of(readers),
      rows=digest(rows.tokens, rows.prompt_rows),
      texts=digest(np.frombuffer('\n'.join(texts).encode(), np.uint8)),
      frequencies=frequencies and sorted(frequencies.items()),
      counted='whole words',
    )
    arrays = read_arrays(folder / ARRAYS)
    about = outputs.read_json(folder / _ABOUT)
    return (
      arrays['values'],
      arrays['norms'],
      Covariates(
        names=tuple(about['names']),
        values=arrays['covariates'],
        sources=about['sources'],
      ),
    )

  def text(
    self,
    readers: Sequence[LinearReadout],
    texts: Sequence[str],
    window: int,
    batch_size: int,
  ) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns per document ln p of its tokens [T - 1], readers [R, T - 1]."""
    # Whole documents are read; which word is drawn does not matter.
    rows = make_rows(
      self.given.tokenizer, texts, tokens='random', window=window
    )

    def make(folder):
      logp, values = read_tokens(
        self.base, readers, rows, batch_size=batch_size
      )
      write_arrays(
        folder / ARRAYS,
        {
          'lengths': np.array([len(one) for one in logp]),
          'logp': np.concatenate(logp),
          'values': np.concatenate(values, axis=1),
        },
      )

    folder = self._stage(
      'text', make, readers=identity_of(readers), rows=digest(rows.tokens)
    )
    arrays = read_arrays(folder / ARRAYS)
    cuts = np.cumsum(arrays['lengths'])[:-1]
    return (
      np.split(arrays['logp'], cuts),
      np.split(arrays['values'], cuts, axis=1),
    )

  def firing(
    self, name: str, saes: Sequence[JumpReLUSAE], prompts: Sequence[Prompt]
  ) -> list[Firing]:
    """Returns where latents fire on entities, [n, F] of each SAE.

    Args:
      name: Name of the folder.
      saes: SAEs of any layers.
      prompts: n of them.
    """
    rows = _unique(self.given.tokenizer, prompts)

    def make(folder):
      arrays = {}
      given = self.given
      check_fit(
        self.base, given.tokenizer, saes, rows.texts, given.reader.folder
      )
      for one in stream_firing(self.base, saes, rows):
        place = f'{one.site}.{one.layer}'
        arrays[f'{place}/indices'] = one.matrix.indices.astype(np.int32)
        arrays[f'{place}/indptr'] = one.matrix.indptr.astype(np.int64)
      write_arrays(folder / ARRAYS, arrays)

    folder = self._stage(
      name,
      make,
      rows=digest(rows.tokens),
      saes=list(map(sae_fingerprint, saes)),
    )
    arrays = read_arrays(folder / ARRAYS)
    found = []
    for sae in saes:
      place = f'{sae.origin.site}.{sae.origin.layer}'
      indices = arrays[f'{place}/indices']
      found.append(
        Firing(
          site=sae.origin.site,
          layer=sae.origin.layer,
          matrix=sparse.csr_array(
            (np.ones(len(indices), bool), indices, arrays[f'{place}/indptr']),
            shape=(len(rows), sae.width),
          ),
        )
      )
    return found

  def _stage(self, name: str, make, **identity) -> pathlib.Path:
    folder = self.given.out / 'work' / name
    stage(folder, {'model': dict(self.given.about), **identity}, make)
    return folder


def all_read(rows: HarvestRows) -> HarvestRows:
  """Returns the rows; raises ValueError unless every prompt was read."""
  if rows.dropped:
    first = rows.dropped[0]
    raise ValueError(
      f'{len(rows.dropped)} prompts cannot be read, the first number '
      f'{first.prompt}: {first.reason}.'
    )
  return rows


def _unique(tokenizer, prompts) -> HarvestRows:
  """Returns rows in the order of the prompts.

  Raises:
    ValueError: two prompts read alike, or one cannot be read.
  """
  rows = make_rows(tokenizer, prompts)
  if len(rows) != len(prompts):
    raise ValueError(
      f'{len(prompts)} prompts about entities have {len(rows)} distinct texts '
      'that can be read. Take entities of distinct names.'
    )
  return rows


def identity_of(readers: Sequence[LinearReadout]) -> str:
  """Returns a hash of what readers compute."""
  return digest(
    *(np.asarray(one.weight) for one in readers),
    np.array([[one.bias, one.threshold or 0.0] for one in readers]),
  )
