"""Files of images: checked readers and the atomic writer."""
