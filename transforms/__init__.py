"""Array to array: preprocessing and augmentation as MONAI chains, the way back to the native grid, post-processing."""
