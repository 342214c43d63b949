"""What a model would say next: two words, of all words it could say.

A row is one question under one arm, run as `experiments.steering` runs them;
nothing is generated, the numbers are read off the logits after the prompt.

Letters: A arms, Q questions, B rows, V vocabulary, k tokens.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runs.stages import Chunks
from experiments.steering import (
  Arm,
  Question,
  identity_of,
  pad,
  run_rows,
  steering,
)
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Replies:
  """Holds what every arm says to every question.

  Attributes:
    logits: float32 [A, Q, 2], logits of yes and no.
    log_sum: float32 [A, Q], log of the sum of exp of all V logits.
  """

  logits: np.ndarray
  log_sum: np.ndarray

  @property
  def probabilities(self) -> np.ndarray:
    """Returns float64 [A, Q, 2], of yes and no among all tokens."""
    return np.exp(self.logits.astype(np.float64) - self.log_sum[..., None])

  def metric(self, name: str) -> np.ndarray:
    """Returns float64 [A, Q], yes less no.

    Args:
      name: 'logit', which is the difference of log-probabilities, too: both
        have the same sum taken off; or 'prob'.

    Raises:
      KeyError: it is neither.
    """
    values = {'logit': self.logits, 'prob': self.probabilities}[name]
    return values[..., 0].astype(np.float64) - values[..., 1]


def measure(
  model: gj.Decoder,
  questions: Sequence[Question],
  arms: Sequence[Arm],
  token_ids: tuple[int, int],
  *,
  rows_per_batch: int = 256,
  folder: str | os.PathLike | None = None,
  identity: Mapping | None = None,
) -> Replies:
  """Reads the logits of yes and no, of every arm at every question.

  Args:
    model: The chat model, stacked.
    questions: Q questions.
    arms: A arms.
    token_ids: Tokens of yes and no.
    rows_per_batch: B, which bounds memory.
    folder: Where replies are kept, batch by batch. Called again with the same
      arguments, those that are there are not made anew.
    identity: What replies depend on besides the other arguments: the model.

  Raises:
    ValueError: the folder has replies to other questions or of other arms, or
      an arm does not fit the model.
  """

  def run(ready, batch) -> list[list[float]]:
    asked = [questions[question].ids for _, question in batch.filled]
    padded = pad(model, asked, batch)
    out = gj.run(
      ready.model,
      *padded,
      interventions=ready.everywhere or steering(questions, arms, batch),
      logits_at='last',
      prefix=ready.prefix,
    )
    found = next_tokens(out.logits[:, 0], jnp.asarray(token_ids))
    numbers = np.column_stack([found['logits'], found['log_sum']])
    return numbers[: len(batch.rows)].tolist()

  about = {
    **identity_of(questions, arms),
    'token_ids': list(map(int, token_ids)),
    'rows_per_batch': rows_per_batch,
    **(identity or {}),
  }
  numbers = np.zeros((len(arms), len(questions), 3), np.float32)
  for arm, question, found in run_rows(
    model,
    questions,
    arms,
    [question.length for question in questions],
    run,
    rows_per_batch=rows_per_batch,
    kept=Chunks(folder, about),
    description='Asking',
    unit='reply',
  ):
    numbers[arm, question] = found
  return Replies(logits=numbers[..., :2], log_sum=numbers[..., 2])


@jax.jit
def next_tokens(
  logits: jax.Array, token_ids: jax.Array
) -> dict[str, jax.Array]:
  """Reads the next token off logits float32 [B, V].

  Args:
    logits: Logits of all tokens.
    token_ids: int [k], the tokens that count.

  Returns:
    'logits' [B, k], of k tokens; 'log_sum' [B]; 'entropy' [B], in nats.
  """
  log_sum = jax.nn.logsumexp(logits, axis=-1)
  logp = logits - log_sum[:, None]
  return {
    'logits': logits[:, token_ids],
    'log_sum': log_sum,
    'entropy': -(jnp.exp(logp) * logp).sum(-1),
  }
