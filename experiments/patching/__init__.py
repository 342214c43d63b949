"""Activation patching between known and unknown entities.

Two prompts of equal length and the same relation, one about a known and one
about an unknown entity; an activation of one run is put into the other, and the
question is how far the answer moves:

  pairs, dropped = make_pairs(model, tokenizer, known, unknown, count=32)
  base, donor = record_pairs(model, pairs, 'denoising')
  patched = sweep(model, base, donor)

`cells.py` says what is patched, `sweeps.py` computes it with the work shared,
`naive_sweep.py` without, `attribution_patching.py` guesses it from one backward
pass, `costs.py` counts operations, `effect_sizes.py` makes numbers of it, and
`study.py` does all of it for one type of entities.
"""

from experiments.patching.attribution_patching import attribute
from experiments.patching.cells import MAPS
from experiments.patching.naive_sweep import naive_sweep
from experiments.patching.pairs import make_pairs
from experiments.patching.sweeps import sweep
