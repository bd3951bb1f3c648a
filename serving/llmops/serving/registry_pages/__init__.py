"""The registry in the browser: assets, versions, evidence, approvals and the audit log, beside the chat.

Shows what the registry tells and passes on what people say. What may be done, and what it does, the registry decides.
"""
