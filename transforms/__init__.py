"""Array to array: preprocessing, augmentation, resampling, post-processing.

Preprocessing and augmentation are MONAI chains.
"""
