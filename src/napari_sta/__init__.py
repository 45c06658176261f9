"""Interactive subtomogram averaging of RELION-5 projects, in napari and on the command line.

Importing the package is cheap on purpose: torch, Qt and pandas are loaded by the job or the
dock that needs them.
"""

__version__ = "0.1.0"
