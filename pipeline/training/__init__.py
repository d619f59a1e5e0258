"""Training: what is learnt from, and how."""
