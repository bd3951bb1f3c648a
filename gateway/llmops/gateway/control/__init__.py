"""The control process of the gateway: keys, usage, pages, metrics, alerts, the drainer. Never in a request's path."""
