"""Stages that come with the core: design, simulate, train, evaluate."""
