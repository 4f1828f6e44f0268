"""From records on disk to batches of uint8 images.

Read in the order of the data: `data_set.py` (what is on disk), `reading.py` (the order
of the records, from any place of a run on), `decoding.py` (from bytes to a crop),
`examples.py` (a chunk of records at a time; bad ones are named), `frames.py` (decoded
images that can be had in any order, and `raw_records.py`, where raw ones are found),
`augmentation.py` (crops, mirror images, colours), and `batches.py`, which puts them
together. `statistics.py` measures the training pixels, `measurements.py` keeps what was
measured. `pictures.py` decodes what people send to a server, and `exif.py` turns it
upright.
"""
