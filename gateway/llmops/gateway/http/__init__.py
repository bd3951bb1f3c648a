"""The door's own HTTP/1.1: a server for callers, pools of connections to providers, and the clock both share."""
