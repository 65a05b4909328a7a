"""Typed settings: YAML plus `key=value` overrides, unknown keys refused with the nearest name, all errors at once."""

from triagekit.settings.base import Settings, load_settings, parse_settings, to_yaml

__all__ = ["Settings", "load_settings", "parse_settings", "to_yaml"]
