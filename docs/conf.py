"""Settings of Sphinx: `tox run -e docs` builds docs/_build; warnings are errors."""

import embedfilter

project = "embedfilter"
version = release = embedfilter.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "sphinx_click"]
exclude_patterns = ["_build"]
# The libraries that the integrations are for are not needed to read what they do.
autodoc_mock_imports = [
    "faiss",
    "matplotlib",
    "mteb",
    "onnx",
    "pyarrow",
    "pyspark",
    "ray",
    "scipy",
    "sentence_transformers",
    "sklearn",
    "threadpoolctl",
    "tokenizers",
    "torch",
    "transformers",
]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc sections say shapes and dtypes too
napoleon_numpy_docstring = True
napoleon_use_rtype = False
myst_heading_anchors = 3
# The pages are read in the repository too, and point to its other folders.
suppress_warnings = ["myst.xref_missing"]
