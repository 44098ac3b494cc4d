"""Checks of settings, with messages that name the setting."""


def check_positive(config, *names: str) -> None:
    """Raises ValueError for a setting that must be above zero and is not; None means unset."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name}={value}: must be above 0")


def check_share(config, *names: str) -> None:
    for name in names:
        if not 0 < getattr(config, name) <= 1:
            raise ValueError(
                f"{name}={getattr(config, name)}: a share must lie in (0, 1], for example 0.975"
            )
