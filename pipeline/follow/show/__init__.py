"""Pages, pictures, curves and tables of a follow-up."""
