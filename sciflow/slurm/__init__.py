"""Slurm, driven by the text of its commands: submit, look, cancel, and what its states mean."""
