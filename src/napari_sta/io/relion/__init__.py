"""RELION's particle, tomogram, trajectory and optimisation sets, to nouns and back; a module a file.

What a file holds beyond our nouns travels along as text and is written back untouched.
"""
