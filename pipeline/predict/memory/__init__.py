"""Memory of a case: forecast of it, and how much there is."""
