"""Words and places that every command prints with."""
