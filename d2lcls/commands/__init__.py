"""The commands of `d2lcls`: a module each, whose `add` says what it takes and whose other functions do it.

At the top of these modules stands only what is quick to import: `d2lcls --help` must not wait for MXNet.
"""
