"""Qt and napari: docks and forms; no maths."""
