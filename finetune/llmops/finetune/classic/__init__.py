"""Classic models: `fraud_clf`, a card-fraud classifier, from generated transactions to a registered version."""
