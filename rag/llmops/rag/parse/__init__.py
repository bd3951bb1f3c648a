"""Documents to text: one text per document, so that every later offset means the same thing.

Importing this package loads no parser; parser processes import the modules beneath it one by one.
`parse.pool.ParserPool` is the door.
"""
