"""Networks that operators are compared with."""
