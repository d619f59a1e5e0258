"""Training on a rented card: pack, train, join."""
