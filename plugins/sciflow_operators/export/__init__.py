"""Fitted networks for programs that know neither sciflow nor, with ONNX, torch."""
