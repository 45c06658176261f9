"""Synthetic tilt series with known poses: for tests, the demo and the sample data.

A particle (``density``) sits on a sphere (``lattice``), as ``spec`` says; ``projection`` makes its tilt
images, ``picks`` the particle set, ``averages`` maps and masks; ``simulation`` puts a phantom together,
``project`` writes it to the disk.
"""
