"""d2r-fast: rendered faces in, realistic training data for face recognition out."""

__version__ = "0.1.0"
