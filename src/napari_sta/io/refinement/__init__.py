"""The files of a 3D auto-refinement: model, sampling, optimiser, particles and orientation plot.

Tables, labels, their order and the form of the numbers are RELION 5's, so that either program can go on from
what the other has written. Paths in these files count from the project folder and are kept as written.
"""
