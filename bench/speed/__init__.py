"""Speed beside other systems: the targets and their measurements."""
