"""Channel pruning: groups of coupled channels, criteria, sensitivity, budgets, surgery; and sparsity."""
