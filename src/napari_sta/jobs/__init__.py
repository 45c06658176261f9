"""The verbs: one job a file, each declared once."""
