"""The maths: arrays and tensors in, arrays and tensors out; no files, no jobs, no Qt."""
