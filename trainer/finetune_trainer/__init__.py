"""What runs in the pods of a FineTuneJob: prepare → train → export, one pod each, joined by the object store."""
