"""Training and evaluation of any task: the loop, optimizers, checkpoints, logs."""
