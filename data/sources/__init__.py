"""Where pictures come from: one module per source, each with `open_source`."""
