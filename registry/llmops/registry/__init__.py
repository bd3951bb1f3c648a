"""Versions of everything that changes behaviour, and the alias each of them answers to.

Registry knows assets, evidence and who moved what. It does not know how any kind is built or served.
"""
