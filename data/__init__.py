"""Data preparation: from what people have to records they can trust."""
