"""A plugin that needs what a later sciflow will have, where it is imported."""

from sciflow import Teleporter  # noqa: F401

sciflow_api: str = "2.0"
