"""Statistics of the experiments.

curves        AUROC and its interval, points of the ROC
detection     precision, recall, calibration, risk and coverage, resampled
intervals     of proportions, and of their differences
multiplicity  one error rate for many tests at once
paired        tests for the same questions under several arms
resampling    the bootstrap for many numbers at once
weighted      what `detection` resamples: sums over weighted items

Import from the modules: each asks for other libraries.
"""
