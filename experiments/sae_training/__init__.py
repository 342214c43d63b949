"""SAEs trained and measured on the activations of a model."""

from experiments.sae_training.study import load
