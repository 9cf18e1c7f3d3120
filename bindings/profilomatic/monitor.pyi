from typing import Any

__all__ = ["enable_prometheus"]

def enable_prometheus(registry: Any = None) -> None: ...
