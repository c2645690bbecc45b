"""Poseidon: a pretrained transformer for equations of evolution."""
