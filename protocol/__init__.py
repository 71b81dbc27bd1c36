"""The rules and the wire: identity, envelope, records, claims, lineage; `transport/` alone does I/O."""
