"""``python -m napari_sta``: the command line, for ``torchrun`` among others."""

import sys

from napari_sta.cli import main

if __name__ == "__main__":
    sys.exit(main())
