"""What refinement is made of: particles read when they are needed, threads and processes, and iterations.

The engine knows files by :mod:`napari_sta.io` only, and neither what a job calls its options nor what RELION
calls its files. Particles (``source``, ``stacks``, ``subtomograms``; opened by ``particles``) can be had
without a refinement. The steps of one are functions of a ``run`` and a ``state``: ``start``, then again and
again ``plan`` (with ``accuracy``), ``expectation`` (with ``search``) and ``maximisation``; ``loop`` ties them
together.
"""
