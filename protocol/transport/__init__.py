"""I/O of the protocol: the DHT and the blob exchange, both on one libp2p daemon."""
