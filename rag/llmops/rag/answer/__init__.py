"""Answers from passages: prompts, the LLM answerer, the quoting answerer, citations checked by machine.

Knows passages and a question. It does not know how passages were found, who asks, or who serves the answer.
"""
