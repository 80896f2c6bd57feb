"""What happens beside the mathematics of a step, one behaviour a file. They run in the order of `train.py`'s list."""
