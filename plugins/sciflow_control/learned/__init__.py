"""What the members of an ensemble decided and learned, as a report shows it."""
