"""Whether reduced models are worth building, before anything is built."""
