"""Benchmarks: one package for each part of the project, one result file each, a line for every bar."""
