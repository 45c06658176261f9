"""Particles, workers and iterations: what refinement is made of; knows files by `io` only, and no job."""
