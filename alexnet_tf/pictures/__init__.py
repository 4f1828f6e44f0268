"""From a file that a person has to RGB pixels.

`listing.py` says which files are pictures, `decoding.py` decodes them with Pillow,
`fitting.py` makes them square. `in_graph.py` does the same for JPEG and PNG in the
graph of an export, for clients that speak to a bare model server.
"""
