"""Documents in, answers with machine-checked citations out.

Rag knows sources, indexes and answering. It does not know who serves its chains, nor over which wire.
"""
