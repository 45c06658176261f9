"""The maths of 3D refinement: particles compared with a reference at many poses, and averaged.

Conventions: transforms are divided by the number of pixels and have their phase origin at the box centre;
noise and signal powers are per component, mean(abs(F)²) / 2; radii are in Fourier pixels of the unpadded box.
CTF, noise and shifts act on the *image* side, so that slices of the reference depend on rotations only and
the scores of all orientations and translations of a tilt image are one matrix product.

References
----------
Scheres (2012), J. Struct. Biol. 180, 519. Zivanov et al. (2022), eLife 11, e83724.
"""
