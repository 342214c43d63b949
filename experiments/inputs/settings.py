"""What studies are told alike: settings that theirs inherit from.

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Settings(ChatStudy, ControlledLatents):
    '''What this study is told besides.'''

Where nothing is said a study works on the bundled world
(experiments/miniworld), whose files are read by the very code that reads public
ones.
"""

from collections.abc import Sequence
import dataclasses
from typing import Annotated, Literal

from experiments.entities.modes import MODES
from experiments.inputs.models import BUNDLED, SAES, resolve_path
from experiments.inputs.saes import SAESpec, choose_saes
from experiments.runs import Layer, Seed, check_numbers, real, whole
import gemma_jax as gj

Dtype = Literal['float32', 'bfloat16']
Mode = Literal[*MODES]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
  """Holds what every run is told.

  Attributes:
    out: Folder for everything that is written.
    mode: 'reference' does what the published code did, its defects included.
    seed: Random seed of all draws.
  """

  out: str
  mode: Mode = 'default'
  seed: Seed = 0

  def __post_init__(self):
    check_numbers(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision:
  """How a model is computed.

  Attributes:
    dtype: Data type of models and activations. Default: that of the checkpoint.
  """

  dtype: Dtype | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseModel(Precision):
  """The base model.

  Attributes:
    model: The base model: the folder of a checkpoint (config.json,
      *.safetensors, tokenizer.json), or a hub id such as google/gemma-2-2b.
      'miniworld' is the small one that comes with the project.
  """

  model: str = BUNDLED


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatModel(Precision):
  """The chat model.

  Attributes:
    chat_model: The chat model that was tuned from the base model, such as
      google/gemma-2-2b-it. Its latents are those of the base model.
  """

  chat_model: str = BUNDLED


@dataclasses.dataclass(frozen=True, kw_only=True)
class SAEs:
  """SAEs of the base model, one per layer.

  Attributes:
    sae: SAEs of the base model: a release such as gemma-scope-2b-pt-res, or a
      folder laid out like one (layer_12/width_16k/average_l0_82/params.npz).
    width: Number of latents of the SAEs, as their folders spell it (16k, 65k,
      1m). Default: the only one there is, else 16k.
    l0: Mean number of active latents per token (L0). Among several SAEs of a
      layer and width, the nearest one is taken. Default: the only one there is,
      else the canonical one of its release.
  """

  sae: str = BUNDLED
  width: str | None = None
  l0: Annotated[float, real(0, 1e6)] | None = None

  def choose_saes(
    self, config: gj.ModelConfig, layers: Sequence[int] | None
  ) -> list[SAESpec]:
    """Returns the SAEs of some layers, one each; see `inputs.choose_saes`."""
    return choose_saes(
      resolve_path(self.sae, SAES),
      config,
      layers=layers,
      width=self.width,
      l0=self.l0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SAELayers(SAEs):
  """SAEs of some layers.

  Attributes:
    layers: Layers of the SAEs, counted from 0. Default: all that have an SAE,
      except the last layer of the model, whose output no layer reads. The paper
      counts resid_pre: its layer 13 is layer 12 here.
  """

  layers: tuple[Layer, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entities:
  """Entities that a model is asked about.

  Attributes:
    entities: Folder of entity files, one <type>.json per type (player, movie,
      city, song), in the processed or the raw format of arXiv 2411.14257.
  """

  entities: str = BUNDLED


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecognisedEntities(Entities):
  """Entities split by what the base model knows of them.

  Attributes:
    run: Folder of an entity_recognition run of the same SAEs and entities,
      whose labels, latents and controls are used. Default: out/demo, which
      `make demo` writes; with --labels, no run. An empty value is no run too.
    labels: Folder of answers of the base model, which say what it knows.
      Default: those of the run.
  """

  run: str | None = None
  labels: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChosenLatents(SAEs):
  """The two latents that a study is about.

  Attributes:
    known_latent: Latent that fires on known entities, such as
      resid_post.12/7957. Default: the one that the run found.
    unknown_latent: Latent that fires on unknown entities. Default: the one
      that the run found.
  """

  known_latent: str | None = None
  unknown_latent: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlledLatents(ChosenLatents):
  """Chosen latents and their controls.

  Attributes:
    num_random: Number of random latents that each latent is compared with.
      They are matched to it if there is a run.
  """

  num_random: Annotated[int, whole(0, 10_000)] = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseStudy(RunSettings, BaseModel, RecognisedEntities):
  """A study of the base model, with known and unknown entities."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatStudy(RunSettings, ChatModel, RecognisedEntities):
  """A study of the chat model, with known and unknown entities."""
