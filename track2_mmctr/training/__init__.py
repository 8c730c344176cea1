"""Training, checkpoints, prediction."""
