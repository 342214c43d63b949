"""Training of JumpReLU SAEs: recipe, updates, sweeps, checkpoints, logs."""
