from typing import Any

__all__ = ["includeme"]

def includeme(config: Any) -> None: ...
