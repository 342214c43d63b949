"""What a base model knows of entities, by its answers."""

from experiments.labelling.study import LabelConfig, label_entities, summarize
