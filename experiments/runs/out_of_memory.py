"""What is said when a device has too little memory."""

import contextlib

import jax


class OutOfMemory(RuntimeError):
  """A device has too little memory; the message says what to change."""


@contextlib.contextmanager
def explain_out_of_memory(said: str):
  """Turns a device's error into one that says what to change.

  Args:
    said: What ran out of memory, and the flags that need less.

  Raises:
    OutOfMemory: the block ran out of memory.
  """
  try:
    yield
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    text = str(error)
    if not isinstance(error, MemoryError) and 'RESOURCE_EXHAUSTED' not in text:
      raise
    raise OutOfMemory(
      f'{said}\nWhat JAX said: {(text.splitlines() or [""])[0]}'
    ) from error
