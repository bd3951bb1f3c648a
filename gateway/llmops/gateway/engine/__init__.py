"""The way of one request through the gateway: admission, route, guards, cache, reservation, target, reply, row.

`gate.Gate` is the handler the HTTP server calls; `exchange.Exchange` is one request under way. On the normal path there
is no task and no future: plain callbacks from the server and from the pool.
"""
