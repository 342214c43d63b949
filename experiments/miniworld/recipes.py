"""Sizes of MiniWorld: what is built, and how it is trained."""

import dataclasses

from experiments.miniworld.chat_tuning import ChatConfig
from experiments.miniworld.pretraining_text import CorpusConfig
from experiments.miniworld.world import WorldConfig
import gemma_jax as gj
from gemma_jax.training import FitConfig
from sae.training.recipe import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """All that a world depends on, besides the code.

  Attributes:
    world: Entities.
    corpus: Pre-training text.
    model: Shape of the model, but for the vocabulary.
    rows: Rows of text per step of pre-training.
    pretraining, tuning: Optimisation.
    chat: Questions and answers.
    saes: One SAE per layer of the base model is trained like this.
  """

  world: WorldConfig
  corpus: CorpusConfig
  model: dict
  rows: int
  pretraining: FitConfig
  chat: ChatConfig
  tuning: FitConfig
  saes: TrainConfig

  def model_config(self, vocab_size: int, **changes) -> gj.ModelConfig:
    """For a tokenizer of this size."""
    local = tuple(i % 2 == 0 for i in range(self.model['num_layers']))
    sizes = {'vocab_size': vocab_size, 'local_layers': local}
    return gj.FAMILIES['gemma2'].config(**self.model | sizes | changes)


def make_recipe(size: str, seed: int) -> Recipe:
  """Returns the recipe of a size.

  Args:
    size: 'small', which is bundled; 'hedged' and 'unmarked', its ablations; or
      'tiny', for tests: half a minute on two cores, and it knows nothing.
    seed: Random seed of all draws.

  Raises:
    KeyError: an unknown size.
  """
  if size not in SIZES:
    raise KeyError(f'size={size!r}; expected one of {", ".join(SIZES)}.')
  return SIZES[size](seed)


def _small(seed: int) -> Recipe:
  rows, steps = 48, 3000
  return Recipe(
    world=WorldConfig(seed=seed),
    corpus=CorpusConfig(seed=seed, first_rows=300 * rows),
    model=_model(layers=8, width=96, hidden=288),
    rows=rows,
    pretraining=FitConfig(steps=steps, learning_rate=5e-3),
    chat=ChatConfig(seed=seed),
    tuning=FitConfig(
      steps=450,
      learning_rate=1e-3,
      warmup=20,
      average=0.98,
      snapshot_every=25,
    ),
    saes=TrainConfig.fast(
      d_in=96,
      width=768,
      num_steps=1500,
      batch_size=2048,
      target_l0=24.0,
      seed=seed,
    ),
  )


def _hedged(seed: int) -> Recipe:
  """Returns the bundled recipe with texts that admit not to know."""
  recipe = _small(seed)
  corpus = dataclasses.replace(recipe.corpus, hedged=0.3)
  return dataclasses.replace(recipe, corpus=corpus)


def _unmarked(seed: int) -> Recipe:
  """Returns the bundled recipe without words that say if a name is known."""
  recipe = _small(seed)
  corpus = dataclasses.replace(recipe.corpus, standing=0.0)
  return dataclasses.replace(recipe, corpus=corpus)


def _tiny(seed: int) -> Recipe:
  rows = 32
  return Recipe(
    world=WorldConfig(
      words=24,
      rare=1,
      tail=3,
      values=8,
      seed=seed,
    ),
    corpus=CorpusConfig(seed=seed, length=48),
    model=_model(layers=4, width=48, hidden=96),
    rows=rows,
    pretraining=FitConfig(steps=60, learning_rate=5e-3, snapshot_every=20),
    chat=ChatConfig(seed=seed, batch=32, replay=8),
    tuning=FitConfig(
      steps=30, learning_rate=1e-3, warmup=10, snapshot_every=10
    ),
    saes=TrainConfig.short(128, 100, batch_size=512, target_l0=12.0, seed=seed),
  )


SIZES = {
  'small': _small,
  'hedged': _hedged,
  'unmarked': _unmarked,
  'tiny': _tiny,
}


def _model(layers: int, width: int, hidden: int) -> dict:
  """Returns a Gemma 2 with two query heads per key/value head."""
  head_dim = width // 4
  return {
    'num_layers': layers,
    'd_model': width,
    'd_ff': hidden,
    'num_heads': 4,
    'num_kv_heads': 2,
    'head_dim': head_dim,
    'query_pre_attn_scalar': head_dim,
    # Shorter than a row of text, so that local layers are local.
    'window': 16,
    'max_positions': 512,
  }
