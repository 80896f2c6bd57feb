"""`make bench-trainer`: the trainer against transformers.Trainer and TRL, on the same rows from the same weights."""
