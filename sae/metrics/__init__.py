"""How good an SAE is: sparsity, reconstruction, and what a model loses."""
