"""What a model computes must be finite: one check, for all that is read of it.

The streams of many models pass 65,504, where float16 ends. What comes of that
is infinity, then NaN, in the logits too; the most likely of such logits is
token 0, and greedy decoding would give padding instead of an answer.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gemma_jax.where import concrete


def bad_row(
  values: jax.Array, counts: jax.Array | bool = True, axes: int = 1
) -> jax.Array:
  """Returns the first row that is not finite, int32 []; -1 if all are.

  Args:
    values: [B, ...], or [L, B, ...] with axes=2: rows then are numbered
      through all L.
    counts: bool, broadcast to the shape of values: the others are not looked
      at.
    axes: How many axes number the rows.
  """
  bad = ~jnp.isfinite(values) & counts
  bad = bad.any(axis=tuple(range(axes, bad.ndim))).reshape(-1)
  return jnp.where(bad.any(), bad.argmax(), -1).astype(jnp.int32)


def check_row(row: int, dtype, what: str):
  """Raises ValueError for a row that `bad_row` found in a model of a dtype."""
  if row >= 0:
    limit = ', whose largest number is 65,504' if dtype == jnp.float16 else ''
    raise ValueError(
      f'{what} of row {row} are not finite (NaN or infinity). The model runs '
      f'in {jnp.dtype(dtype).name}{limit}. Load it with dtype=float32 or '
      'dtype=bfloat16. If that does not help, its weights, its config.json or '
      'an intervention are at fault.'
    )


def all_finite(values) -> bool:
  """Returns False if a value is NaN or infinite; True while tracing."""
  if isinstance(values, jax.core.Tracer):
    return True
  with jax.ensure_compile_time_eval():  # under a jit of the caller's too
    return bool(_all_finite(values))


@jax.jit
def _all_finite(values):
  return jnp.isfinite(values).all()


def check_finite(values, dtype, what: str):
  """Raises ValueError unless what a model computed is finite.

  Args:
    values: [B, ...] or a number; while tracing, nothing is checked.
    dtype: That of the model.
    what: Names the values in the error, in the plural.
  """
  if (known := concrete(values)) is None or np.isfinite(known).all():
    return
  finite = np.isfinite(np.atleast_1d(known))
  rows = finite.reshape(len(finite), -1).all(axis=1)
  check_row(int(rows.argmin()), dtype, what)
