"""The peer: command line, settings, contributor loop, training child process, demo."""
