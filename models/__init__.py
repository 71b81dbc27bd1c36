"""Torch and nothing else: experts, router, objectives, ensemble, samplers, trainer."""
