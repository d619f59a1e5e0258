"""Times and memory of single parts of the program."""
