"""From a file that a person has to RGB pixels: Pillow, or a graph of TensorFlow."""
