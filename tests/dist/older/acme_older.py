"""A plugin for hooks of another major version."""

sciflow_api = "0.9"
