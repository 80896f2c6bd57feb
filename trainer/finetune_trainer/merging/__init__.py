"""From the base and what was trained to one model, tensor by tensor: every method says what it does to which one.

`adapter_changes` and `full_changes` read what was trained, with a file a method; `merged_model` puts it together.
"""
