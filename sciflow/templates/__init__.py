"""Packages that ``sciflow new-plugin`` begins with: a folder a kind, each a module and its test."""
