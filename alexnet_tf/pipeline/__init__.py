"""From records on disk to batches of uint8 images.

Read in the order of the data: `data_set.py` (what is on disk), `reading.py` (the order
of the records, from any place of a run on), `decoding.py` (from bytes to a crop),
`frames.py` (decoded images that can be had in any order), `augmentation.py` (crops,
mirror images, colours), and `batches.py`, which puts them together.
"""
