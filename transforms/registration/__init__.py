"""Registration: moves, and the search for them."""
