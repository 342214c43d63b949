r"""Makes MiniWorld from nothing: a small Gemma 2 that knows some entities.

  python -m tools.train_miniworld --out=experiments/miniworld/bundle  # bundled
  python -m tools.train_miniworld --seed=1 --out=out/world_1
  python -m tools.train_miniworld --size=tiny --out=out/tiny          # a minute

In this order, each stage once: a base model is trained on the texts of the
world, then tuned to chats with Gemma's template, a JumpReLU SAE is trained on
every layer of the base model, and all of it is measured. --out gets

  base/, chat/    checkpoints as HF writes them, with tokenizer and template
  saes/           Gemma Scope's layout, resid_post of every layer of base/
  entities/       <type>.json, known and unseen ones, split
  rare/           <type>.json, those that pre-training has seldom
  text.txt        documents like those it was trained on, to retrain SAEs
  audit.json      the recipe, what the models can do, and what they should
  run.json        what a further run of the command must agree with

The same command goes on where it was killed: in training from the last
snapshot, else from the last finished stage. The same seed gives the same bytes
on one kind of device.
"""

import dataclasses
import itertools
import json
import pathlib
import shutil
import sys
from typing import Literal

import jax
import numpy as np

from experiments.miniworld import audit as audit_lib
from experiments.miniworld.bundle import (
  write_documents,
  write_model,
  write_people,
)
from experiments.miniworld.chat_tuning import Chats
from experiments.miniworld.pretraining_text import Corpus, texts_of
from experiments.miniworld.recipes import SIZES, Recipe, make_recipe
from experiments.miniworld.world import make_world
from experiments.miniworld.world_vocabulary import make_tokenizer
from experiments.runs import KeepFlags, Seed, check_numbers, outputs, start
from experiments.sae_training.token_activations import read_batch
import gemma_jax as gj
from gemma_jax.training import Weights, fit, next_token_loss
from sae.formats.gemma_scope import save_gemma_scope
from sae.jumprelu import Origin
from sae.metrics.evaluation import evaluate
from sae.training.train import train

SITE = 'resid_post'
# Rows of text that SAEs are measured on, and rows per run of the model.
_EVAL_ROWS, _HARVEST_ROWS = 512, 64
_DOCUMENTS = 20_000


class Builder:
  """The stages, each of which leaves a folder that is complete or absent."""

  def __init__(self, recipe: Recipe, out: pathlib.Path):
    self.recipe, self.out = recipe, out
    self.work = out / 'work'  # snapshots
    self.world = make_world(recipe.world)
    self.backend = make_tokenizer(texts_of(self.world))
    self.tokenizer = gj.Tokenizer(self.backend)
    self.corpus = Corpus(self.world, self.tokenizer, recipe.corpus)
    V = self.tokenizer.vocab_size
    self.config = recipe.model_config(V)
    turn = self.tokenizer.end_of_turn_id
    self.chat_config = dataclasses.replace(
      self.config, eos_ids=(*self.config.eos_ids, turn)
    )

  def build(self) -> dict:
    """Runs the stages that are not done yet; returns the audit."""
    out = self.out
    if not (out / 'base').is_dir():
      self._write('base', self.config, self.base())
    if not (out / 'chat').is_dir():
      weights = gj.load_checkpoint(out / 'base').weights()
      self._write('chat', self.chat_config, self.chat(weights))
    if not (out / 'saes').is_dir():
      with outputs.replaced_folder(out / 'saes') as folder:
        self.saes(folder)
    if not (out / 'entities').is_dir():
      with outputs.replaced_folder(out / 'entities') as folder:
        write_people(folder, self.world)
    if not (out / 'rare').is_dir():
      with outputs.replaced_folder(out / 'rare') as folder:
        write_people(folder, self.world, ['rare'])
    if not (out / 'text.txt').is_file():
      write_documents(out / 'text.txt', self.corpus, self.tokenizer, _DOCUMENTS)
    found = audit_lib.audit(out / 'base', out / 'chat', self.world, self.corpus)
    outputs.write_text(
      out / 'audit.json',
      json.dumps(
        {
          'recipe': dataclasses.asdict(self.recipe),
          'versions': outputs.versions(),
          'found': found,
          'saes': [
            {'layer': about['origin']['layer'], **about['training']}
            for about in map(
              outputs.read_json,
              sorted((out / 'saes').glob('layer_*/**/metadata.json')),
            )
          ],
          'bounds': audit_lib.BOUNDS,
        },
        indent=2,
      )
      + '\n',
    )
    shutil.rmtree(self.work, ignore_errors=True)
    return found

  def _write(self, name, config, weights):
    with outputs.replaced_folder(self.out / name) as folder:
      write_model(folder, config, weights, self.backend)

  def base(self) -> Weights:
    """Pre-trains."""
    recipe, rows = self.recipe, self.recipe.rows
    key = jax.random.key(recipe.world.seed)

    def loss(weights, batch):
      return next_token_loss(weights, self.config, *batch)

    def batch(step):
      tokens = self.corpus.read(step * rows, rows)
      return tokens, self.corpus.learnt(tokens)

    weights, _ = fit(
      loss,
      gj.init_model(self.config, key).weights(),
      batch,
      recipe.pretraining,
      snapshot=self.work / 'base.safetensors',
      name='Pre-training',
    )
    return weights

  def chat(self, weights: Weights) -> Weights:
    """Tunes to chats; the best weights by groups kept for that."""
    recipe = self.recipe
    chats = Chats(self.world, self.tokenizer, self.corpus, recipe.chat)

    def loss(weights, batch):
      learnt = next_token_loss(
        weights, self.config, batch.tokens, batch.answers, batch.positions
      )
      kept = next_token_loss(weights, self.config, *batch.replay)
      return learnt + recipe.chat.replay_weight * kept

    judge = chats.judge(self.config, 'stopping', 'unseen_stopping')
    weights, _ = fit(
      loss,
      weights,
      chats.batch,
      recipe.tuning,
      snapshot=self.work / 'chat.safetensors',
      name='Chat tuning',
      judge=judge,
    )
    return weights

  def saes(self, folder: pathlib.Path):
    """Trains an SAE on every layer of the base model."""
    model = gj.unstack_layers(gj.load_checkpoint(self.out / 'base'))
    layers = list(range(self.config.num_layers))
    look = gj.capture(SITE, layers=layers)

    def activations(first_batch):
      for number in itertools.count(first_batch):
        batch = read_batch(self.corpus, number, _HARVEST_ROWS)
        x = gj.run(model, *batch[:2], capture=look)[SITE]  # [L, B, T, D]
        yield x.reshape(len(layers), -1, x.shape[-1]), batch.keep.reshape(-1)

    trained = train(
      self.recipe.saes,
      activations(10**6),
      origins=[
        Origin(model='miniworld', site=SITE, layer=layer) for layer in layers
      ],
    )
    x = audit_lib.streams(
      model,
      self.tokenizer,
      [e for group in audit_lib.TEST for e in self.world.entities(group)],
    )
    for layer, (sae,) in enumerate(trained.saes):
      at_entities = evaluate(sae, [(x[layer], np.ones(x.shape[1], bool))])
      held_out = itertools.islice(
        activations(2 * 10**6), _EVAL_ROWS // _HARVEST_ROWS
      )
      metrics = evaluate(sae, ((x[layer], keep) for x, keep in held_out))
      save_gemma_scope(
        sae,
        folder,
        l0=metrics.l0,
        normalise=True,
        metadata={
          'l0': metrics.l0,
          'fvu': metrics.fvu,
          'num_tokens': metrics.num_tokens,
          'entity_l0': at_entities.l0,
          'entity_fvu': at_entities.fvu,
        },
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Says which world is made.

  Attributes:
    out: Folder to write.
    seed: Random seed of the world and of its training.
    size: 'small' is what is bundled; 'hedged' has texts that admit not to know,
      'unmarked' none of the words that say whether a name is known; 'tiny'
      knows nothing, and is for tests.
    sae_seed: Random seed of the SAEs. Default: that of the world.
    must_pass: Exit with an error if the audit finds the world out of its
      bounds. A tiny one is.
  """

  out: str
  seed: Seed = 0
  size: Literal[*SIZES] = 'small'
  sae_seed: Seed | None = None
  must_pass: bool = True

  def __post_init__(self):
    check_numbers(self)


def work(settings: Settings, keep_flags: KeepFlags) -> str | int:
  """Makes the world; returns what was found, or the exit code."""
  del keep_flags  # run.json says what was made
  out = pathlib.Path(settings.out)
  recipe = make_recipe(settings.size, settings.seed)
  if settings.sae_seed is not None:
    saes = dataclasses.replace(recipe.saes, seed=settings.sae_seed)
    recipe = dataclasses.replace(recipe, saes=saes)
  # What JSON makes of it is what the next run will find.
  outputs.check_same_run(
    out / 'run.json',
    json.loads(json.dumps(dataclasses.asdict(recipe))),
    resumes=any((out / name).exists() for name in ('work', 'base')),
  )
  found = Builder(recipe, out).build()
  said = '\n'.join(f'{name:30} {value}' for name, value in found.items())
  outside = audit_lib.failures(found)
  for line in outside:
    print(f'Out of bounds: {line}', file=sys.stderr)
  if outside and settings.must_pass:
    print(said)
    return 1
  return said


if __name__ == '__main__':
  start(Settings, work)
