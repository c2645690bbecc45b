"""All that speaks with a Prefect server: running under it, its forms, and telling it later what happened."""
