"""A plugin that states its version as a number."""

sciflow_api = 1.0
