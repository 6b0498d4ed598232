"""One file a codec: a function `open(path, code)` that gives its `Codec`. See CONTRIBUTING.md."""
