"""ModelMesh: serve many models that change often, on few machines."""

__version__ = "0.1.0"
__all__ = ["__version__"]
