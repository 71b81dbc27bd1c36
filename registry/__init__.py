"""What exists and where: data, runs, the local store, resolving an ensemble, audit."""
