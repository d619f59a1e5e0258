"""Training: the cases to learn from and the learning itself."""
