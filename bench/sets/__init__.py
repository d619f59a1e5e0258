"""Data sets beside each other: cases, patients, fingerprints, masks."""
