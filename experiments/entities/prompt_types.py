"""What is asked about entities: the table of arXiv 2411.14257.

Prompts, tolerances and relations are those of its code; `PROMPT_TYPES` has
them by name, which is the entity's type and the attribute: 'city_country'.
"""

from collections.abc import Sequence
import dataclasses

from experiments.entities.answer_judging import (
  Genre,
  Judge,
  Name,
  Names,
  Number,
  NumberInList,
  Place,
  PlaceName,
  SongGenre,
  Substring,
  Year,
)
from experiments.entities.entity import Entity

# Words that a year of publication follows.
_RELEASED = 'released?|premiered|published|publication|came out'

ENTITY_TYPES = ('city', 'movie', 'player', 'song')


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptType:
  """A question about one attribute of entities of one type.

  In texts '{}' is where the entity's name goes.

  Attributes:
    entity_type: One of ENTITY_TYPES.
    attribute: Attribute of an entity; its value is the answer.
    question: What a user asks.
    base_stub: Follows the question where a base model is to go on.
    chat_stub: Beginning of a chat model's answer, where it is given one.
    judge: Says whether a completion is right.
    relation: 'In which country is', which ' the city X?' makes a question; or
      None, if the paper has none.
    statement: 'is located in', which follows 'The city X '; or None.
    counts: True if it counts for known and unknown. The paper leaves weight,
      height and is_known out.
  """

  entity_type: str
  attribute: str
  question: str
  base_stub: str
  chat_stub: str
  judge: Judge
  relation: str | None = None
  statement: str | None = None
  counts: bool = True

  @property
  def name(self) -> str:
    """The name in files and results: 'city_country'."""
    return f'{self.entity_type}_{self.attribute}'


def prompt_types_of(entity: Entity, counting: bool = True) -> list[PromptType]:
  """Returns the types that an entity has the attribute for, in order.

  Args:
    entity: Any.
    counting: Only those that count for known and unknown.
  """
  return [
    prompt_type
    for prompt_type in PROMPT_TYPES.values()
    if prompt_type.entity_type == entity.type
    and prompt_type.attribute in entity.attributes
    and (prompt_type.counts or not counting)
  ]


def attributes_of(entity_type: str) -> dict[str, Judge]:
  """Returns the attributes that a type may have, and their judges."""
  return {
    p.attribute: p.judge
    for p in PROMPT_TYPES.values()
    if p.entity_type == entity_type and p.attribute != 'is_known'
  }


def _is_known(entity_type: str) -> PromptType:
  return PromptType(
    entity_type=entity_type,
    attribute='is_known',
    question=f"Do you know the {entity_type} '{{}}'?",
    base_stub='',
    chat_stub='',
    judge=Substring(),
    counts=False,
  )


_ALL: Sequence[PromptType] = (
  PromptType(
    entity_type='player',
    attribute='place_birth',
    question="What is the place of birth for the player '{}'?",
    base_stub="The city of birth for the player '{}' is",
    chat_stub='City of birth=',
    judge=PlaceName(),
    relation='Where was born',
    statement='was born in the city of',
  ),
  PromptType(
    entity_type='player',
    attribute='date_birth',
    question="What is the year of birth for the player '{}'?",
    base_stub="The year of birth for the player '{}' is",
    chat_stub='Year of birth=',
    judge=Year(5, event='born|birth'),
    relation='When was born',
    statement='was born in the year',
  ),
  PromptType(
    entity_type='player',
    attribute='teams_list',
    question="What team (name at least one) signed the player '{}'?",
    base_stub="The team that signed the player '{}' is",
    chat_stub='Team=',
    judge=Names(),
    relation='In which teams have played',
    statement='has played for',
  ),
  PromptType(
    entity_type='player',
    attribute='weight',
    question="What is the weight, in kg, of the player '{}'?",
    base_stub="The weight of the player '{}' is",
    chat_stub='Weight=',
    judge=Number(5, unit='kg'),
    counts=False,
  ),
  PromptType(
    entity_type='player',
    attribute='height',
    question="What is the height, in cm, of the player '{}'?",
    base_stub="The height of the player '{}' is",
    chat_stub='Height=',
    judge=Number(3, unit='cm'),
    counts=False,
  ),
  PromptType(
    entity_type='movie',
    attribute='directors',
    question="Who is the director of the movie '{}'?",
    base_stub="The director of the movie '{}' is",
    chat_stub='Director=',
    judge=Names(),
    relation='Who directed',
    statement='is directed by',
  ),
  PromptType(
    entity_type='movie',
    attribute='cast',
    question="What is the name of an actor starring in the movie '{}'?",
    base_stub="The actor starring in the movie '{}' is",
    chat_stub='Actor=',
    judge=Names(),
    relation='Who is starring in',
    statement='has starring',
  ),
  PromptType(
    entity_type='movie',
    attribute='release_year',
    question="What was the release year for the movie '{}'?",
    base_stub="The release year for the movie '{}' is",
    chat_stub='Release year=',
    judge=Year(2, event=_RELEASED),
    relation='What is the release year of',
    statement='was released in',
  ),
  PromptType(
    entity_type='movie',
    attribute='screenwriters',
    question="Who is the screenwriter of the movie '{}'?",
    base_stub="The screenwriter of the movie '{}' is",
    chat_stub='Screenwriter=',
    judge=Names(),
    relation='Who wrote',
    statement='is written by',
  ),
  PromptType(
    entity_type='movie',
    attribute='genres',
    question="What genre label best describes the movie '{}'?",
    base_stub="The genre label that best describes the movie '{}' is",
    chat_stub='Genre=',
    judge=Genre(),
    relation='What is the genre of',
    statement='has the genre',
  ),
  PromptType(
    entity_type='movie',
    attribute='durations',
    question="What is the duration, in minutes, of the movie '{}'?",
    base_stub="The duration of the movie '{}' is",
    chat_stub='Duration(minutes)=',
    judge=NumberInList(3, unit='min'),
    relation='What is the duration of',
    statement='has a duration of',
  ),
  PromptType(
    entity_type='city',
    attribute='country',
    question="What country contains the city of '{}'?",
    base_stub="The country that contains the city '{}' is",
    chat_stub='Country (official name)=',
    judge=Name(),
    relation='In which country is',
    statement='is located in',
  ),
  PromptType(
    entity_type='city',
    attribute='location',
    question="What geographic coordinates correspond to the city of '{}'?",
    base_stub="The geographic coordinates that correspond to the city '{}' are",
    chat_stub='Latitude=',
    judge=Place(1),
  ),
  PromptType(
    entity_type='city',
    attribute='population',
    question="How large, in number, is the population of the city '{}'?",
    base_stub="The population of the city '{}' is",
    chat_stub='Population=',
    judge=Number(0.1, relative=True),
    relation='What is the population of',
    statement='has a population of',
  ),
  PromptType(
    entity_type='city',
    attribute='elevation',
    question="What is the altitude, in meters, of the city '{}'?",
    base_stub="The altitude of the city '{}' is",
    chat_stub='Altitude=',
    judge=Number(20, unit='m'),
    relation='What is the elevation of',
    statement='is at an elevation of',
  ),
  PromptType(
    entity_type='song',
    attribute='album',
    question="What is the album of the song '{}'?",
    base_stub="The album of the song '{}' is",
    chat_stub='Album=',
    judge=Name(),
    relation='In which album appears',
    statement='appears in the album',
  ),
  PromptType(
    entity_type='song',
    attribute='publication_year',
    question="What is the publication year of the song '{}'?",
    base_stub="The publication year for the song '{}' is",
    chat_stub='Publication year=',
    judge=Year(0, event=_RELEASED),
    relation='What is the release year of',
    statement='was released in',
  ),
  PromptType(
    entity_type='song',
    attribute='genres',
    question="What is the genre of the song '{}'?",
    base_stub="The genre label that best describes the song '{}' is",
    chat_stub='Genre=',
    judge=SongGenre(),
    relation='What is the genre of',
    statement='has the genre',
  ),
  PromptType(
    entity_type='song',
    attribute='performers',
    question="Who is the performer of the song '{}'?",
    base_stub="The performer of the song '{}' is",
    chat_stub='Performer=',
    judge=Names(),
    relation='Who is the singer of',
    statement='is sung by',
  ),
  *map(_is_known, ENTITY_TYPES),
)
PROMPT_TYPES: dict[str, PromptType] = {p.name: p for p in _ALL}
