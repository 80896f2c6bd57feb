"""Checkpoints and object storage: what saving costs training, and how fast files move."""
