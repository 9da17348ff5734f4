"""A policy over the network, in the protocol of openpi's websocket clients. The client needs no JAX."""
