"""Files of SAEs: Gemma Scope, SAELens, Llama Scope; read, and written."""
