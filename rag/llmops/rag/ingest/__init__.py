"""Documents into an index: compare, parse, cut, embed, commit; and what looks after an index once it is there.

`refresh.refresh` is the door, `verify`, `status` and `forecast` the windows. It knows the manifest, and no question.
"""
