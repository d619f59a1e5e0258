"""Augmentation of training samples: random changes, crops, transplanted lesions."""
