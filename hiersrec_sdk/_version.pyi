# The build writes the module itself, with the version of the git tag.
__version__: str
