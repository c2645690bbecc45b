"""Sequences of linear systems to try solvers and tuners on."""
