"""The parts of `tools.check_parity`, in the order in which a run uses them.

  prompts    which tokens, padded how
  reference  HF transformers' side, read through hooks
  ours       this project's side
  hostile    texts that tokenizers stumble over
  tokenization  the tokenizers of both sides, on them
  compare    errors of tensors and of predictions, summed over batches
  verdict    the gates, and the first place where the sides diverge
  run        one check, from a folder to a `Result`
  tables     a `Result` as text and as JSON

Only this package and the tests import torch and transformers.
"""
