"""The module's methods as pure functions of (params, config, …)."""

from dexhil.models.vla import bind


def encode_prefix(params, config, *args):
    """Keys and values, and which tokens are real."""
    return bind(params, config).encode_prefix(*args)[:2]


def denoise(params, config, *args):
    return bind(params, config).denoise(*args)


def flow_errors(params, config, *args):
    return bind(params, config).flow_errors(*args)
