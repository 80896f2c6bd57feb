"""The controller: watches FineTuneJobs and runs each one as a chain of ordinary Jobs. Start: `__main__.py`."""
