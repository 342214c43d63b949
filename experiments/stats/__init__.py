"""Statistics of the experiments.

curves      AUROC and its interval, points of the ROC
intervals   of proportions, and of their differences
paired      tests for the same questions under several arms

Import from the modules: each asks for other libraries.
"""
