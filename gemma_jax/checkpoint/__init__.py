"""Reading and writing weights: Hugging Face folders, GGUF files, Orbax.

Every reader checks names, shapes and sizes before it reads a weight.
"""
