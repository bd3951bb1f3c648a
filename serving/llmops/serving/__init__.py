"""Endpoints: doors through which people and programs meet registered versions.

Serving knows HTTP, requesters and feedback. What a chain does inside, it does not know.
"""
