"""Train state, step, optimiser and checkpoints."""
