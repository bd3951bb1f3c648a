"""Training: from data to a version in the registry, with all that is needed to make it again.

Knows the registry's door and the lake. Nothing that serves imports it: what it makes is loaded as a registered version.
"""
