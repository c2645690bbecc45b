"""What a model knows about its errors, and what it must conserve."""
