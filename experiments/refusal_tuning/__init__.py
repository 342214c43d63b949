"""Teaches a model to decline what it does not know, and looks inside again.

`__main__.py` says what the study asks; `settings.py` has its flags,
`opening.py` its checked input, `study.py` runs it, `steps.py` has what is done
with an arm.

arms, tuning           decisions to rows to weights
answering, metrics     what is said before and after; side_effects, anchors
asked, inside          what is looked at inside, and all of it together
latents_before_after   do detectors fire on the same entities?
unknown_latent         does adding one cause refusals?
controllers            do detector and controller agree?
weight_patching        which weights changed what?
repurposed             the verdict
"""

from experiments.refusal_tuning.settings import Settings
