"""Every method with every way of sharing the work and every number format: one table, run by tests and documented."""
