"""Training one stage: a config in, checkpoints out."""
