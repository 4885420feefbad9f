"""The generation engine. `Arc2FaceGenerator` is its Python API; importing the package imports no torch."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from d2r_fast.engine.generator import Arc2FaceGenerator

__all__ = ["Arc2FaceGenerator"]


def __getattr__(name: str) -> object:
    if name == "Arc2FaceGenerator":
        from d2r_fast.engine.generator import Arc2FaceGenerator

        return Arc2FaceGenerator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
