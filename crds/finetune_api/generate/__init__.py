"""Generates the CRD, the chart's copy of it and the field reference: `python -m finetune_api.generate`."""
