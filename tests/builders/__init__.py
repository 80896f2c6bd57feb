"""Builders of the objects tests talk about: a valid one by default, and only what a test is about is named."""
