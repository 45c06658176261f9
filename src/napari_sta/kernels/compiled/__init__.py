"""What numba compiles, and nothing else: loops over plain arrays, each with a plain twin in the tests.

All loops are serial and release the GIL: the caller gives each thread its own share
(:func:`napari_sta.kernels.devices.run_each`), so results do not depend on the number of threads.
Importing a module costs what its cached machine code takes to load; callers do so where they need it.
"""
