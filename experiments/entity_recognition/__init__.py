"""Latents that say whether a model knows an entity, and what they cause."""
